"""AlpacaEval's figures from preferences: win rate with its standard error, and length-controlled (Dubois et al. 2024).

A preference is 1 where the reference's output is better, 2 where the model's is, anything between where the judge is
unsure, 1.5 (in old files 0) for a tie. Whatever else stands there is no verdict.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from isheep.benchmarks.support.data_files import read_text
from isheep.errors import UserError

TIE = 1.5
GAMED = "df_gamed.csv"  # the reference file of the length-controlled win rate, in AlpacaEval's dataset
GAMED_WEIGHT = 0.2 / 2  # of its rows: lambda, shared by two gamed baselines
FOLDS, SEED = 5, 123  # AlpacaEval's


class WinRate(NamedTuple):
    """In the order and under the names of AlpacaEval's leaderboards; rates in percent, None where nothing was read."""

    win_rate: float | None
    standard_error: float | None
    n_wins: int
    n_wins_base: int
    n_draws: int
    n_total: int
    discrete_win_rate: float | None
    unread: int  # rows without a verdict, left out of all the above


def preferences(rows: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """The preference of each annotation, ties as 1.5, None where there is no verdict."""
    return [_preference(row.get("preference")) for row in rows]


def _preference(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return TIE if value == 0 else float(value) if 1 <= value <= 2 else None


def win_rate(given: Sequence[float | None]) -> WinRate:
    """mean(preference - 1) in percent and its standard error, sd / sqrt(n), as in AlpacaEval's get_win_rate."""
    import numpy as np

    read = np.array([value for value in given if value is not None], np.float64)
    wins = read - 1
    discrete = np.where(read == TIE, TIE, np.round(read)) - 1
    return WinRate(
        win_rate=float(wins.sum() / len(wins) * 100) if len(wins) else None,
        standard_error=float(np.sqrt(wins.var(ddof=1)) / np.sqrt(len(wins)) * 100) if len(wins) > 1 else None,
        n_wins=int((wins > 0.5).sum()),
        n_wins_base=int((wins < 0.5).sum()),
        n_draws=int((wins == 0.5).sum()),
        n_total=len(wins),
        discrete_win_rate=float(discrete.sum() / len(wins) * 100) if len(wins) else None,
        unread=len(given) - len(wins),
    )


class Controlled(NamedTuple):
    """Under the names of AlpacaEval's leaderboards, in percent."""

    length_controlled_winrate: float
    lc_standard_error: float


def length_controlled(rows: Sequence[Mapping[str, Any]], gamed: Path) -> Controlled:
    """The win rate if both outputs were of one length: AlpacaEval's length_controlled_v1.

    Its standard error is theirs, sd / sqrt(n) of the predicted preferences, which leaves out that of the regression.

    A logistic regression without an intercept of the preference on tanh of the standardized difference in length, the
    instruction's difficulty and a constant, L1-penalized, its strength chosen by five folds; `gamed` (df_gamed.csv) has
    the difficulties by place of the instruction, and annotations of two gamed baselines that it is held to. Rows must
    stand in the order of AlpacaEval's instructions. Raises UserError where `gamed` does not fit them.
    """
    import numpy as np

    theirs, answers, difficulty = _gamed(gamed)
    if not set(range(len(rows))) <= difficulty.keys():
        raise UserError(f"{gamed} has {len(difficulty)} instructions, and there are {len(rows)} annotations")
    if {row.get("generator_1") for row in rows} == {row.get("generator_2") for row in rows}:
        return Controlled(50.0, 0.0)  # a model against itself
    if lacking := [n for n, row in enumerate(rows, 1) if not {"output_1", "output_2"} <= row.keys()]:
        raise UserError(
            f"annotation {lacking[0]} has no output_1 or output_2: the length-controlled win rate needs both"
        )
    longer = np.array([len(str(row["output_1"])) - len(str(row["output_2"])) for row in rows], np.float64)
    spread = float(longer.std(ddof=1)) or 1.0  # all the same: nothing is known of length
    own = np.column_stack([np.tanh(longer / spread), [difficulty[n] for n in range(len(rows))], np.ones(len(rows))])
    answer = np.array([np.nan if value is None else value - 1 for value in preferences(rows)])
    x, y = np.vstack([theirs, own]), np.concatenate([answers, answer])
    weight = np.concatenate([np.where(theirs[:, 2] == 1, 1, GAMED_WEIGHT), np.ones(len(rows))])
    read = ~np.isnan(y)
    model = _fit(x[read], y[read], weight[read])
    chances = model.predict_proba(np.column_stack([np.zeros(len(own)), own[:, 1:]]))[:, 1]
    return Controlled(float(chances.mean() * 100), float(chances.std(ddof=1) / np.sqrt(len(chances)) * 100))


def _gamed(path: Path) -> tuple[Any, Any, dict[int, float]]:
    """df_gamed.csv: its rows' features (rows, 3), their preferences, 0 to 1, and the difficulty of each instruction."""
    import numpy as np

    rows = list(csv.DictReader(read_text(path).splitlines()))
    try:
        delta, difficulty, preference = (
            np.array([float(row[name] or "nan") for row in rows])
            for name in ("std_delta_len", "instruction_difficulty", "preference")
        )
        plain = np.array([{"True": 1.0, "False": 0.0}[row["not_gamed_baseline"]] for row in rows])
        first = {int(float(row["index"])): float(row["instruction_difficulty"]) for row in reversed(rows)}
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is no {GAMED} of AlpacaEval: {error}") from None
    return np.column_stack([np.tanh(delta), difficulty, plain]), preference, first


def _fit(x: Any, y: Any, weight: Any) -> Any:
    """scikit-learn's LogisticRegressionCV, told of probabilities: each row stands twice, as a win and as a loss."""
    import numpy as np
    import sklearn
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.metrics import make_scorer
    from sklearn.model_selection import GroupKFold

    share = np.concatenate([y, 1 - y])
    won = np.concatenate([np.ones(len(y)), np.zeros(len(y))])
    weights = np.concatenate([weight, weight])

    def loss(won: Any, chance: Any, share: Any, weights: Any) -> float:
        share, chance = np.where(won == 1, share, 1 - share), np.clip(chance, 1e-15, 1 - 1e-15)
        return float(-np.mean((share * np.log(chance) + (1 - share) * np.log(1 - chance)) * weights))

    with sklearn.config_context(enable_metadata_routing=True):
        scorer = make_scorer(loss, response_method="predict_proba", greater_is_better=False)
        model = LogisticRegressionCV(
            cv=GroupKFold(FOLDS),
            scoring=scorer.set_score_request(share=True, weights=True),
            random_state=SEED,
            l1_ratios=(1,),
            solver="liblinear",
            fit_intercept=False,
            use_legacy_attributes=False,
        )
        model.set_fit_request(sample_weight=True)
        groups = np.concatenate([np.arange(len(y))] * 2)
        both = np.vstack([x, x])
        return model.fit(both, won, groups=groups, sample_weight=share * weights, share=share, weights=weights)
