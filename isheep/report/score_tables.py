"""The scores of the models of some settings, each compared with the base model or with another setting.

Two models are compared over the items of the benchmark, or over the random seeds if their settings have several. All
tests of a table are corrected together (Holm).
"""

import math
import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from isheep.benchmarks import Result, Score, is_readable, load_benchmark
from isheep.errors import UserError, unknown_name
from isheep.evaluation.evaluate import same_fingerprints
from isheep.evaluation.power import ALPHA
from isheep.evaluation.statistics import Comparison, compare, compare_over_seeds, estimate, holm, is_share
from isheep.recipe.benchmark_names import benchmark_names
from isheep.report.settings import Setting, Spread, spread_over_seeds
from isheep.report.table_formats import Mark

ScoreColumn = tuple[str, str]
"""A column of a table of scores: (the benchmark's title, the score's name)."""

# The paper's four columns of IFEval; lamb's own benchmark has them, too.
IFEVAL_SCORES = ("prompt strict", "instruction strict", "prompt loose", "instruction loose")
# Scores of a benchmark that names no headline.
MAX_SCORES = 2
BASE = "base"
ITERATION = re.compile(r"iteration-(\d+)")


class ModelKey(NamedTuple):
    """A row of a table of scores: M^iteration of a setting; 0 is the base."""

    setting: int
    iteration: int


@dataclass(frozen=True)
class ScoreCell:
    """A score of a model over the seeds of its setting, and its comparison with the reference of the table.

    `scores` are by seed, and `num_runs` counts the seeds of the setting: an unfinished run may have no score.
    `comparison` is None if there is nothing to compare with. `values` are equal for comparisons of the same numbers,
    which are one test.
    """

    scores: dict[int, Score]
    num_runs: int
    comparison: Comparison | None
    values: Hashable

    @property
    def is_share(self) -> bool:
        score = next(iter(self.scores.values()))
        return is_share(score.items, score.unit)

    @cached_property
    def spread(self) -> Spread:
        results = [estimate(score.items, score.clusters, score.unit) for score in self.scores.values()]
        return spread_over_seeds(results, self.is_share)

    @property
    def value(self) -> float:
        return self.spread.estimate.value

    @property
    def text(self) -> str:
        """The value for a table: in % with one decimal, or a mean with two."""
        if math.isnan(self.value):
            return "-"
        return f"{100 * self.value:.1f}" if self.is_share else f"{self.value:.2f}"

    @property
    def note(self) -> str:
        """The standard deviation over seeds, or with one seed the interval over the items."""
        scale, digits = (100, 1) if self.is_share else (1, 2)
        if self.spread.deviation is not None:
            note = f"±{scale * self.spread.deviation:.{digits}f}"
        else:
            low, high = self.spread.estimate.low, self.spread.estimate.high
            note = "" if math.isnan(low) else f"[{scale * low:.{digits}f}, {scale * high:.{digits}f}]"
        missing = f" ({len(self.scores)} of {self.num_runs} seeds)" if len(self.scores) < self.num_runs else ""
        return note + missing


class ScoreTable:
    """The scores of the models of some settings, from which a table is made.

    `against` names what each model is compared with: "base"; "iteration-1", that iteration of the same setting; or the
    name of a setting, whose model of the same iteration it is (its last one if it has none of that iteration).
    `score_names` limits the scores ("right", or "lamb right"), and with them the tests. Raises UserError for another
    name, or if no model is scored.
    """

    def __init__(self, settings: Sequence[Setting], against: str = BASE, score_names: Sequence[str] = ()) -> None:
        self.settings = settings
        names = [setting.name for setting in settings]
        number = ITERATION.fullmatch(against)
        if against not in (BASE, *names) and not number:
            raise UserError(unknown_name("setting", against, dict.fromkeys([BASE, "iteration-1", *names])))
        # The setting whose models are the reference, or the iteration of each setting that is. A setting may have the
        # name of a keyword, which is the keyword all the same.
        self.reference = names.index(against) if against in names and against != BASE and not number else None
        self.reference_iteration = int(number[1]) if number else 0
        self.results = {
            ModelKey(index, iteration): results
            for index, setting in enumerate(settings)
            for iteration, results in _results_of(setting).items()
        }
        if not self.results:
            raise UserError(f"{', '.join(names)}: no model is scored on a benchmark; score them with isheep eval")
        if number and self.reference_iteration not in {key.iteration for key in self.results}:
            raise UserError(f"--against {against}: no setting has scores of iteration {self.reference_iteration}")
        # Those of all models: of a base that all settings share, the table shows the first one alone.
        self.all_results = dict(self.results)
        if self.shares_base:
            # The base is one model, and has one row.
            self.results = {
                key: results for key, results in self.results.items() if key.iteration or key == self.first_base
            }
        self.columns = _choose_columns(list(_columns(self.results.values())), score_names)
        self.cells = {
            (key, column): cell
            for key in self.results
            for column in self.columns
            if (cell := self._cell(key, column)) is not None
        }

    @cached_property
    def bases(self) -> dict[int, dict[str, dict[int, Result]]]:
        """The results of the base model of each setting."""
        return {key.setting: results for key, results in self.all_results.items() if not key.iteration}

    @cached_property
    def first_base(self) -> ModelKey | None:
        return ModelKey(next(iter(self.bases)), 0) if self.bases else None

    @cached_property
    def shares_base(self) -> bool:
        """Whether all settings have the same base model with the same scores, so that it needs one row alone."""
        bases = list(self.bases.values())
        models = {run.recipe.model for setting in self.settings for run in setting.runs}
        return len(bases) > 1 and len(models) == 1 and all(_same_scores(bases[0], base) for base in bases)

    def _cell(self, key: ModelKey, column: ScoreColumn) -> ScoreCell | None:
        benchmark, name = column
        results = self.results[key].get(benchmark, {})
        scores = {seed: result.scores[name] for seed, result in results.items() if name in result.scores}
        if not scores:
            return None
        reference = self.reference_scores(key, column)
        pairs = [(score, scores[seed]) for seed, score in reference.items()]
        return ScoreCell(scores, len(self.settings[key.setting].runs), *_compare_pairs(pairs))

    def _reference_results(self, key: ModelKey) -> Mapping[str, dict[int, Result]]:
        """Return the results that a model is compared with; empty for the reference itself."""
        if self.reference is None:
            is_later = key.iteration > self.reference_iteration
            return self.all_results.get(ModelKey(key.setting, self.reference_iteration), {}) if is_later else {}
        if key.setting == self.reference or not key.iteration:
            return {}
        iterations = [model.iteration for model in self.all_results if model.setting == self.reference]
        iteration = key.iteration if key.iteration in iterations else max(iterations, default=0)
        return self.all_results.get(ModelKey(self.reference, iteration), {})

    def reference_scores(self, key: ModelKey, column: ScoreColumn) -> dict[int, Score]:
        """Return, by seed, the scores that a model is compared with: those on the same items by the same rules."""
        benchmark, name = column
        results = self.results[key].get(benchmark, {})
        reference = self._reference_results(key).get(benchmark, {})
        return {
            seed: reference[seed].scores[name]
            for seed, result in results.items()
            if seed in reference
            and name in result.scores
            and name in reference[seed].scores
            and same_fingerprints(reference[seed], result)
            and len(reference[seed].scores[name].items) == len(result.scores[name].items)
        }

    @cached_property
    def corrected(self) -> dict[Hashable, float]:
        """The p of each test of the table, corrected for all of them (Holm), by the values that are compared."""
        tests = {cell.values: cell.comparison.p for cell in self.cells.values() if cell.comparison}
        return dict(zip(tests, holm(list(tests.values())), strict=True))

    @property
    def num_tests(self) -> int:
        return sum(not math.isnan(p) for p in self.corrected.values())

    def mark(self, cell: ScoreCell) -> Mark:
        """Return whether a score is significantly higher or lower than its reference, at 5% over the whole table."""
        if cell.comparison is None or not self.corrected[cell.values] < ALPHA:
            return ""
        return "up" if cell.comparison.difference > 0 else "down"

    def ranks(self, column: ScoreColumn) -> dict[str, int]:
        """Return the rank of each text of a column: 1 is the best, 2 the second best. Equal texts share a rank."""
        cells = [cell for (_, name), cell in self.cells.items() if name == column and not math.isnan(cell.value)]
        values: dict[str, float] = {}
        for cell in cells:
            values[cell.text] = max(cell.value, values.get(cell.text, -math.inf))
        best = sorted(values, key=lambda text: -values[text])
        return {text: rank for rank, text in enumerate(best, 1)} if len(best) > 1 else {}


def _results_of(setting: Setting) -> dict[int, dict[str, dict[int, Result]]]:
    """Return the results of a setting's models: by iteration, by the benchmark's title, and by seed."""
    results: dict[int, dict[str, dict[int, Result]]] = {}
    for run in setting.runs:
        for scores in run.benchmarks:
            for iteration, result in zip(scores.iterations, scores.results, strict=True):
                if result:
                    by_title = results.setdefault(iteration, {})
                    by_title.setdefault(result.title(scores.benchmark), {})[run.recipe.seed] = result
    return dict(sorted(results.items()))


def _same_scores(first: Mapping[str, dict[int, Result]], second: Mapping[str, dict[int, Result]]) -> bool:
    """Return whether two models have the same items in all scores and seeds."""

    def items(results: Mapping[str, dict[int, Result]]) -> dict[tuple[str, int], dict[str, list[Any]]]:
        return {
            (title, seed): {name: list(score.items) for name, score in result.scores.items()}
            for title, by_seed in results.items()
            for seed, result in by_seed.items()
        }

    return items(first) == items(second)


def _columns(models: Iterable[Mapping[str, dict[int, Result]]]) -> Iterator[ScoreColumn]:
    """Yield the columns: the headline scores of each benchmark, and the four of IFEval where it has them."""
    names: dict[str, dict[str, None]] = {}
    for results in models:
        for title, by_seed in results.items():
            for result in by_seed.values():
                names.setdefault(title, {}).update(dict.fromkeys(result.scores))
    for title, scores in names.items():
        benchmark = title.partition(" (")[0]
        is_known = benchmark in benchmark_names() and is_readable(benchmark)
        headline = load_benchmark(benchmark).headline if is_known else ()
        chosen = [name for name in headline if name in scores] or list(scores)[:MAX_SCORES]
        four = [name for name in IFEVAL_SCORES if name in scores]
        yield from ((title, name) for name in dict.fromkeys([*(name for name in chosen if name not in four), *four]))


def _choose_columns(columns: list[ScoreColumn], names: Sequence[str]) -> list[ScoreColumn]:
    """Return the columns that one of the names stands for, or all without names."""
    by_name: dict[str, list[ScoreColumn]] = {}
    for column in columns:
        for name in (column[1], " ".join(column)):
            by_name.setdefault(name, []).append(column)
    for name in names:
        if name not in by_name:
            raise UserError(unknown_name("score", name, by_name))
    chosen = {column for name in names for column in by_name[name]}
    return [column for column in columns if column in chosen or not names]


def _compare_pairs(pairs: Sequence[tuple[Score, Score]]) -> tuple[Comparison | None, Hashable]:
    """Compare a score of two models: over the items with one seed, over the seeds with several."""
    if not pairs:
        return None, None
    if len(pairs) == 1:
        before, after = pairs[0]
        clusters = None if after.clusters is None else tuple(after.clusters)
        comparison = compare(before.items, after.items, clusters, after.unit or before.unit)
        return comparison, (tuple(before.items), tuple(after.items), clusters)
    first, second = ([estimate(score.items).value for score in side] for side in zip(*pairs, strict=True))
    share = is_share(pairs[0][0].items, pairs[0][0].unit)
    return compare_over_seeds(first, second, share), (tuple(first), tuple(second))
