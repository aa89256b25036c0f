"""The headline of a report: what changed from the base to the best iteration, in words."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from isheep.evaluation.formatting import format_fixed
from isheep.evaluation.score_rows import BenchmarkScores, ModelScore, ScoreRow
from isheep.report.run_data import RunData

BETTER, WORSE, UNCLEAR = "better", "worse", "no clear difference"


class ScoreChange(NamedTuple):
    """A score of the base and of another model, with the difference, as texts. `verdict` is one of the three words."""

    score: str
    base: str
    model: str
    difference: str
    interval: str
    verdict: str


class BenchmarkHeadline(NamedTuple):
    """A benchmark's changes from the base to its best iteration: the headline score first, then all other scores.

    `best` is the iteration with the highest value of the first headline score. `result` is the change of the same
    score to the run's result if that is another iteration. Without a score of the base, or of an iteration, `best` is
    None and `only` holds the value that there is. `templates` are the chat templates of the base and of the best
    iteration if they differ: part of the difference may then be the template's.
    """

    benchmark: str
    best: int | None
    changes: list[ScoreChange]
    result: ScoreChange | None
    only: str
    templates: tuple[str, str] | None = None

    def with_verdict(self, verdict: str) -> list[ScoreChange]:
        """Return the changes with a verdict."""
        return [change for change in self.changes if change.verdict == verdict]


def headlines(run: RunData) -> Iterator[BenchmarkHeadline]:
    """Yield the headline of each benchmark."""
    for benchmark in run.benchmarks:
        yield headline(benchmark, run.result.iteration)


def headline(benchmark: BenchmarkScores, result: int) -> BenchmarkHeadline:
    """Return a benchmark's headline; `result` is the iteration of the run's result."""
    rows = benchmark.headline
    first = rows[0]
    compared = [model for model in first.models if model and model.base and not math.isnan(model.estimate.value)]
    if not compared:
        model = next((model for model in first.models if model), None)
        only = f"{first.label}: {_value(model, model.estimate.value)}" if model else ""
        return BenchmarkHeadline(benchmark.title, None, [], None, only)
    best = max(compared, key=lambda model: (model.estimate.value, -model.iteration))
    names = {name for row in rows for name in (row.name, *row.copies)}
    more_rows = [row for row in benchmark.rows if row.name not in names]
    changes = [change for row in (*rows, *more_rows) if (change := change_to(row, best.iteration))]
    of_result = change_to(first, result) if result not in (0, best.iteration) else None
    by_iteration = dict(zip(benchmark.iterations, benchmark.templates, strict=True))
    templates = by_iteration[0], by_iteration[best.iteration]
    differing = templates if templates[0] != templates[1] else None
    return BenchmarkHeadline(benchmark.title, best.iteration, changes, of_result, "", differing)


def change_to(row: ScoreRow, iteration: int) -> ScoreChange | None:
    """Return the change of a score from the base to an iteration; None if it can't be compared."""
    model = next((model for model in row.models if model and model.iteration == iteration), None)
    if model is None or model.change is None or math.isnan(model.change.difference):
        return None
    change = model.change
    verdict = BETTER if change.low > 0 else WORSE if change.high < 0 else UNCLEAR
    return ScoreChange(
        row.label,
        _value(model, change.before.value),
        _value(model, change.after.value),
        _difference(model, change.difference),
        "" if math.isnan(change.low) else f"{_difference(model, change.low)} to {_difference(model, change.high)}",
        verdict,
    )


def _value(model: ModelScore, value: float) -> str:
    return f"{100 * value:.1f}%" if model.is_share else format_fixed(value, 2)


def _difference(model: ModelScore, value: float) -> str:
    return f"{100 * value:+.1f}" if model.is_share else format_fixed(value, 2, "+")
