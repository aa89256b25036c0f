"""The scores of a run's models on a benchmark as typed rows, from which tables and JSON are made."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain

from isheep.benchmarks import Result, Score, is_readable, load_benchmark
from isheep.evaluation.evaluate import same_fingerprints
from isheep.evaluation.results import load_result
from isheep.evaluation.statistics import Comparison, Estimate, compare, estimate, is_share
from isheep.recipe.benchmark_names import benchmark_names
from isheep.recipe.schema import Recipe
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import iteration_dir

MAX_HEADLINE_SCORES = 5


@dataclass(frozen=True)
class ModelScore:
    """A score of M^iteration, and the same score of the base if the two can be compared."""

    iteration: int
    score: Score
    base: Score | None

    @cached_property
    def estimate(self) -> Estimate:
        return estimate(self.score.items, self.score.clusters, self.score.unit)

    @property
    def is_share(self) -> bool:
        return is_share(self.score.items, self.score.unit)

    @cached_property
    def change(self) -> Comparison | None:
        """The comparison with the base on the same items; None for the base itself, and if they can't be compared."""
        if self.base is None:
            return None
        return compare(self.base.items, self.score.items, self.base.clusters, self.score.unit or self.base.unit)

    @property
    def num_unreadable(self) -> int:
        return list(self.score.items).count(None)


@dataclass(frozen=True)
class ScoreRow:
    """A score of each model, None for a model without it. `copies` are scores with the same items in every model.

    `result` is the iteration of the run's result, None if it is the newest model.
    """

    name: str
    models: list[ModelScore | None]
    copies: tuple[str, ...] = ()
    result: int | None = None

    @property
    def label(self) -> str:
        """The name with its copies: "prompt strict = loose" if "prompt loose" is a copy of "prompt strict"."""
        return " = ".join((self.name, *(_without_common_start(copy, self.name) for copy in self.copies)))

    @property
    def last(self) -> ModelScore | None:
        """The score of the run's result, or of the newest model that has one."""
        models = [model for model in self.models if model and self.result in (None, model.iteration)]
        return models[-1] if models else None


@dataclass(frozen=True)
class BenchmarkScores:
    """All scores of a run's models on a benchmark, in the order of `iterations`; None for a model without a result.

    `run_result` is the iteration of the run's result, None if it is the newest model.
    """

    benchmark: str
    iterations: Sequence[int]
    results: list[Result | None]
    run_result: int | None = None

    @property
    def title(self) -> str:
        """The name in tables, with the half of the items that was asked."""
        return next((result.title(self.benchmark) for result in self.results if result), self.benchmark)

    @property
    def templates(self) -> list[str]:
        """The chat template in which each model was prompted, "" for a model without a result."""
        return [result.template if result else "" for result in self.results]

    @property
    def notes(self) -> list[str]:
        return list(dict.fromkeys(chain(*(result.notes for result in self.results if result))))

    @property
    def rows(self) -> list[ScoreRow]:
        """A row for every score."""
        names = dict.fromkeys(chain(*(result.scores for result in self.results if result)))
        return [ScoreRow(name, self._models(name), result=self.run_result) for name in names]

    @property
    def headline(self) -> list[ScoreRow]:
        """The rows of the benchmark's headline scores, or its first scores; equal scores share a row."""
        rows = _merge_copies(self.rows)
        is_known = self.benchmark in benchmark_names() and is_readable(self.benchmark)
        names = load_benchmark(self.benchmark).headline if is_known else ()
        headline = {row.name: row for name in names for row in rows if name in (row.name, *row.copies)}
        return list(headline.values() or rows)[:MAX_HEADLINE_SCORES]

    def _models(self, name: str) -> list[ModelScore | None]:
        pairs = zip(self.iterations, self.results, strict=True)
        return [self._model(name, iteration, result) for iteration, result in pairs]

    def _model(self, name: str, iteration: int, result: Result | None) -> ModelScore | None:
        if result is None or name not in result.scores:
            return None
        base = self.results[0] if self.iterations[0] == 0 else None
        if iteration == 0 or base is None or name not in base.scores or not same_fingerprints(base, result):
            return ModelScore(iteration, result.scores[name], None)
        return ModelScore(iteration, result.scores[name], base.scores[name])


def load_scores(
    run: RunFolder, iterations: Sequence[int], benchmark: str, run_result: int | None = None
) -> BenchmarkScores:
    """Read the results of some models of a run on a benchmark."""
    results = [load_result(run, iteration, benchmark) for iteration in iterations]
    return BenchmarkScores(benchmark, iterations, results, run_result)


def load_results(recipe: Recipe, run: RunFolder) -> dict[int, dict[str, Result]]:
    """Return the results of each model of a run that has begun, by its iteration and by the title of the benchmark."""
    iterations = started_iterations(recipe, run)
    names = evaluated_benchmarks(recipe, run, iterations)
    return {
        iteration: {result.title(name): result for name in names if (result := load_result(run, iteration, name))}
        for iteration in iterations
    }


def started_iterations(recipe: Recipe, run: RunFolder) -> list[int]:
    """Return 0 for the base, and each iteration that has begun."""
    return [0, *(index for index in range(1, recipe.iterations + 1) if (run / f"iter-{index}").path.exists())]


def evaluated_benchmarks(recipe: Recipe, run: RunFolder, iterations: Sequence[int]) -> list[str]:
    """Return the names of the recipe's benchmarks, then of others that these models were evaluated on."""
    folders = [iteration_dir(run, iteration).path / "eval" for iteration in iterations]
    names = {path.stem for folder in folders for path in folder.glob("*.json")}
    names |= {name for name in benchmark_names() if any((folder / f"{name}.json").exists() for folder in folders)}
    in_recipe = [settings.label for settings in recipe.evaluation]
    return [*in_recipe, *sorted(names - {*in_recipe})]


def _merge_copies(rows: Sequence[ScoreRow]) -> list[ScoreRow]:
    merged: list[ScoreRow] = []
    for row in rows:
        index = next((index for index, earlier in enumerate(merged) if _is_copy(row, earlier)), None)
        if index is None:
            merged.append(row)
        else:
            merged[index] = replace(merged[index], copies=(*merged[index].copies, row.name))
    return merged


def _is_copy(row: ScoreRow, earlier: ScoreRow) -> bool:
    """Return whether two readings of a score ("prompt strict", "prompt loose") have the same items in every model."""
    words, earlier_words = row.name.split(), earlier.name.split()
    if min(len(words), len(earlier_words)) < 2 or words[0] != earlier_words[0]:
        return False
    pairs = zip(row.models, earlier.models, strict=True)
    return all((a and (a.score.items, a.score.clusters)) == (b and (b.score.items, b.score.clusters)) for a, b in pairs)


def _without_common_start(name: str, reference: str) -> str:
    """Return a name without the words that it begins with like `reference`."""
    words, reference_words = name.split(), reference.split()
    common = 0
    while common < min(len(words), len(reference_words)) - 1 and words[common] == reference_words[common]:
        common += 1
    return " ".join(words[common:])
