"""The numbers of an iteration that trackers get, by name: "scores/lamb/right", "data/kept share", "cost/seconds"."""

from collections.abc import Iterator
from math import isfinite
from typing import Any

from isheep.diagnostics.diversity import METRICS, read_diversity
from isheep.evaluation.compute import written_tokens
from isheep.evaluation.counts import count_rows
from isheep.evaluation.score_rows import evaluated_benchmarks, load_scores
from isheep.recipe.schema import Recipe
from isheep.rundir.artifacts import iteration_name
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import iteration_dir
from isheep.rundir.stage_times import stage_seconds
from isheep.trainers.adapter_dir import LOSS_NAMES, TRAINING_RECORD


def iteration_figures(recipe: Recipe, run: RunFolder, iteration: int) -> dict[str, float]:
    """Return the scores of M^iteration with 95% intervals, and the rows, diversity and cost of its iteration.

    What is not known is left out. Scores that are shares are from 0 to 1.
    """
    values: dict[str, float | None] = dict(_scores(recipe, run, iteration))
    if iteration:
        values |= dict(_data(run, iteration))
    values |= dict(_cost(run, iteration))
    return {name: float(value) for name, value in values.items() if value is not None and isfinite(value)}


def training_losses(run: RunFolder, iteration: int) -> Iterator[tuple[int, str, float]]:
    """Yield the step, the name and the value of each loss of a finished training, from its record.

    A trainer of the user's own may leave another record, or none.
    """
    folder, path = iteration_dir(run, iteration), f"adapter/{TRAINING_RECORD}"
    record: dict[str, Any] = folder.json(path, dict) if folder.has(path) else {}
    for key, name in LOSS_NAMES.items():
        for step, value in record.get(key, []):
            yield int(step), name, float(value)


def _scores(recipe: Recipe, run: RunFolder, iteration: int) -> Iterator[tuple[str, float]]:
    for benchmark in evaluated_benchmarks(recipe, run, [iteration]):
        for row in load_scores(run, [iteration], benchmark).rows:
            for model in row.models:
                if model:
                    name, score = f"scores/{benchmark}/{row.name}", model.estimate
                    yield from ((name, score.value), (f"{name} low", score.low), (f"{name} high", score.high))


def _data(run: RunFolder, iteration: int) -> Iterator[tuple[str, float | None]]:
    counts = count_rows(run, iteration)
    yield "data/generated pairs", counts.generated
    yield "data/kept pairs", counts.kept
    yield "data/kept share", counts.kept / counts.generated if counts.kept is not None and counts.generated else None
    yield "data/unreadable ratings", counts.unreadable
    yield "data/training rows", counts.trained
    diversity = read_diversity(run, iteration) or {}
    yield from ((f"diversity/{name}", diversity.get(name)) for name in METRICS)


def _cost(run: RunFolder, iteration: int) -> Iterator[tuple[str, float | None]]:
    """Yield the seconds of all stages and of each, and the tokens of instructions and answers."""
    by_stage = stage_seconds(run).seconds
    seconds = {stage: value for (name, stage), value in by_stage.items() if name == iteration_name(iteration)}
    yield "cost/seconds", sum(seconds.values())
    yield from ((f"cost/seconds {stage}", value) for stage, value in seconds.items())
    if iteration:
        yield "cost/tokens", written_tokens(run, iteration)
