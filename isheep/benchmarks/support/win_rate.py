"""AlpacaEval's figures from preferences: win rate with its standard error, and length-controlled (Dubois et al. 2024).

A preference is 1 if the reference's output is better, 2 if the model's is, a number between if the judge is unsure, and
1.5 (in old files 0) for a tie. Any other value is no verdict.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from isheep.benchmarks.support.foreign_rows import PreferenceRow
from isheep.errors import UserError, one_line
from isheep.files.json_files import read_rows
from isheep.files.reading import read_text

TIE = 1.5
# The reference file of the length-controlled win rate, in AlpacaEval's dataset.
GAMED = "df_gamed.csv"
# The weight of its rows: lambda, shared by two gamed baselines.
GAMED_WEIGHT = 0.2 / 2
# AlpacaEval's settings of the cross-validation.
NUM_FOLDS, SEED = 5, 123


class WinRate(NamedTuple):
    """AlpacaEval's figures, in the order and under the names of its leaderboards.

    Rates are in percent, None if there is no verdict. `unread` is the number of rows without a verdict, which all other
    figures leave out.
    """

    win_rate: float | None
    standard_error: float | None
    n_wins: int
    n_wins_base: int
    n_draws: int
    n_total: int
    discrete_win_rate: float | None
    unread: int


def preferences(rows: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """Return the preference of each annotation, ties as 1.5, None if there is no verdict."""
    return [_preference(row.get("preference")) for row in rows]


def _preference(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return TIE if value == 0 else float(value) if 1 <= value <= 2 else None


def read_annotations(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a file of AlpacaEval's annotations. Raises UserError if one is malformed."""
    return [row.model_dump() for _, row in read_rows(path, PreferenceRow)]


def win_rate(verdicts: Sequence[float | None]) -> WinRate:
    """Return mean(preference - 1) in percent and its standard error, sd / sqrt(n), as AlpacaEval's get_winrate does."""
    import numpy as np

    values = np.array([value for value in verdicts if value is not None], np.float64)
    wins = values - 1
    discrete = np.where(values == TIE, TIE, np.round(values)) - 1
    return WinRate(
        win_rate=float(wins.sum() / len(wins) * 100) if len(wins) else None,
        standard_error=float(np.sqrt(wins.var(ddof=1)) / np.sqrt(len(wins)) * 100) if len(wins) > 1 else None,
        n_wins=int((wins > 0.5).sum()),
        n_wins_base=int((wins < 0.5).sum()),
        n_draws=int((wins == 0.5).sum()),
        n_total=len(wins),
        discrete_win_rate=float(discrete.sum() / len(wins) * 100) if len(wins) else None,
        unread=len(verdicts) - len(wins),
    )


class LengthControlled(NamedTuple):
    """The length-controlled win rate in percent, under the names of AlpacaEval's leaderboards."""

    length_controlled_winrate: float
    lc_standard_error: float


def length_controlled(
    rows: Sequence[Mapping[str, Any]], gamed: Path, indices: Sequence[int] | None = None
) -> LengthControlled:
    """Return the win rate that outputs of equal length would have: AlpacaEval's length_controlled_v1.

    A logistic regression without an intercept of the preference on tanh of the standardized difference in length, the
    instruction's difficulty and a constant, L1-penalized, its strength chosen by five folds. `gamed` (df_gamed.csv) has
    the difficulties by index of the instruction, and annotations of two gamed baselines, which regularize the fit. Its
    standard error is AlpacaEval's, sd / sqrt(n) of the predicted preferences, without that of the regression.

    `indices` are those of the rows' instructions among AlpacaEval's, of which a part may be there: the regression is
    over the rows that there are, and the rate is that on their instructions. None: the rows are all of them, in order.
    Raises UserError if `gamed` does not fit them.
    """
    import numpy as np

    reference = _read_gamed(gamed)
    if {row.get("generator_1") for row in rows} == {row.get("generator_2") for row in rows}:
        # A model against itself.
        return LengthControlled(50.0, 0.0)
    _check_outputs(rows)
    count = len(reference.difficulties)
    if indices is None and len(rows) < count:
        raise UserError(
            f"{gamed} has {count} instructions, and there are {len(rows)} annotations: put AlpacaEval's file of "
            "reference outputs beside it, so that the difficulty of each one is known"
        )
    indices = range(len(rows)) if indices is None else indices
    if not set(indices) <= reference.difficulties.keys():
        raise UserError(f"{gamed} has {count} instructions, and there are {len(rows)} annotations")
    lengths = [len(row["output_1"]) - len(row["output_2"]) for row in rows]
    length_gap = np.array(lengths, np.float64)
    # If all gaps are equal, nothing is known about length.
    spread = float(length_gap.std(ddof=1)) or 1.0
    difficulties = [reference.difficulties[index] for index in indices]
    features = np.column_stack([np.tanh(length_gap / spread), difficulties, np.ones(len(rows))])
    wins = np.array([np.nan if value is None else value - 1 for value in preferences(rows)])
    x, y = np.vstack([reference.features, features]), np.concatenate([reference.wins, wins])
    weights = np.concatenate([np.where(reference.features[:, 2] == 1, 1, GAMED_WEIGHT), np.ones(len(rows))])
    readable = ~np.isnan(y)
    model = _fit(x[readable], y[readable], weights[readable])
    equal_length = np.column_stack([np.zeros(len(features)), features[:, 1:]])
    rates = model.predict_proba(equal_length)[:, 1]
    return LengthControlled(float(rates.mean() * 100), float(rates.std(ddof=1) / np.sqrt(len(rates)) * 100))


class _Gamed(NamedTuple):
    """df_gamed.csv: features (rows, 3), preferences from 0 to 1, and the difficulty of each instruction by index."""

    features: Any
    wins: Any
    difficulties: dict[int, float]


def _check_outputs(rows: Sequence[Mapping[str, Any]]) -> None:
    for number, row in enumerate(rows, 1):
        if not all(isinstance(row.get(name), str) for name in ("output_1", "output_2")):
            raise UserError(
                f"annotation {number} has no output_1 or output_2: the length-controlled win rate needs both"
            )


def _read_gamed(path: Path) -> _Gamed:
    import numpy as np

    lines = read_text(path).splitlines()
    try:
        rows = list(csv.DictReader(lines))
        gaps, difficulties, wins = (
            np.array([float(row[name] or "nan") for row in rows])
            for name in ("std_delta_len", "instruction_difficulty", "preference")
        )
        not_gamed = np.array([{"True": 1.0, "False": 0.0}[row["not_gamed_baseline"]] for row in rows])
        by_index = {int(float(row["index"])): float(row["instruction_difficulty"]) for row in reversed(rows)}
    except (csv.Error, KeyError, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{path} is no {GAMED} of AlpacaEval: {one_line(error)}") from None
    return _Gamed(np.column_stack([np.tanh(gaps), difficulties, not_gamed]), wins, by_index)


def _fit(x: Any, y: Any, weight: Any) -> Any:
    """Fit scikit-learn's LogisticRegressionCV to probabilities: each row is used twice, as a win and as a loss."""
    import numpy as np
    import sklearn
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.metrics import make_scorer
    from sklearn.model_selection import GroupKFold

    share = np.concatenate([y, 1 - y])
    won = np.concatenate([np.ones(len(y)), np.zeros(len(y))])
    weights = np.concatenate([weight, weight])
    with sklearn.config_context(enable_metadata_routing=True):
        scorer = make_scorer(_weighted_loss, response_method="predict_proba", greater_is_better=False)
        model = LogisticRegressionCV(
            cv=GroupKFold(NUM_FOLDS),
            scoring=scorer.set_score_request(share=True, weights=True),
            random_state=SEED,
            l1_ratios=(1,),
            solver="liblinear",
            fit_intercept=False,
            use_legacy_attributes=False,
        )
        model.set_fit_request(sample_weight=True)
        groups = np.concatenate([np.arange(len(y))] * 2)
        features = np.vstack([x, x])
        return model.fit(features, won, groups=groups, sample_weight=share * weights, share=share, weights=weights)


def _weighted_loss(won: Any, predicted: Any, share: Any, weights: Any) -> float:
    """Return the mean weighted cross-entropy of predicted win rates and the judge's preferences."""
    import numpy as np

    share, predicted = np.where(won == 1, share, 1 - share), np.clip(predicted, 1e-15, 1 - 1e-15)
    return float(-np.mean((share * np.log(predicted) + (1 - share) * np.log(1 - predicted)) * weights))
