"""The overlap of generated pairs with the prompts of benchmarks, as `isheep contamination` counts it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from isheep.benchmarks import is_readable, load_benchmark, reported_settings
from isheep.diagnostics.contamination import (
    SplitScore,
    choose_rule,
    load_overlap,
    load_prompts,
    split_scores,
    touched_prompts,
)
from isheep.errors import UserError, one_line
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.report.run_data import RunData
from isheep.report.sections import without_paths


class RunOverlap(NamedTuple):
    """The overlap of a run's generated pairs with the prompts of a benchmark.

    `splits` are the scores of the newest model on the items that no pair overlaps with ("clean") and on the others.
    `problem` says why the overlap is not known.
    """

    run: RunData
    benchmark: str
    num_prompts: int = 0
    num_pairs: int = 0
    num_touched: int = 0
    num_kept: int = 0
    num_touched_prompts: int = 0
    splits: Sequence[SplitScore] = ()
    problem: str = ""


def measure_overlaps(run: RunData) -> Iterator[RunOverlap]:
    """Yield the overlap of a run's pairs with each benchmark of its recipe, as `isheep contamination` counts it."""
    numbers = [iteration.number for iteration in run.iterations if iteration.folder.has("pairs.jsonl")]
    rule = choose_rule(run.recipe, None, None)
    for entry in run.recipe.evaluation if numbers else ():
        settings = reported_settings(run.recipe.stop_rule, entry)
        if problem := _why_unread(settings):
            yield RunOverlap(run, settings.label, problem=problem)
            continue
        try:
            prompts = load_prompts(run.folder, settings, [0, *numbers])
        # Data or a package are missing here, or the data have changed since the model was scored: the answer says so.
        except UserError as error:
            yield RunOverlap(run, settings.label, problem=without_paths(one_line(str(error))))
            continue
        overlaps = {number: load_overlap(run.folder, number, prompts, rule) for number in numbers}
        kept = [
            sum(item.pairs[row].id in item.kept_ids for row in item.overlap.rows)
            for item in overlaps.values()
            if item.kept_ids is not None
        ]
        touched = touched_prompts(run.recipe, numbers[-1], overlaps)
        yield RunOverlap(
            run,
            settings.label,
            num_prompts=len(prompts),
            num_pairs=sum(len(item.pairs) for item in overlaps.values()),
            num_touched=sum(len(item.overlap.rows) for item in overlaps.values()),
            num_kept=sum(kept),
            num_touched_prompts=len(set().union(*(item.overlap.prompts for item in overlaps.values()))),
            splits=list(split_scores(run.folder, settings, numbers[-1], touched, len(prompts))),
        )


def _why_unread(settings: BenchmarkSettings) -> str:
    """Return why the prompts of a benchmark are not read here: nothing is downloaded, and no code loaded."""
    if not is_readable(settings.name):
        return "your own code, which is read with --allow-code alone"
    if settings.data and not Path(settings.data).exists():
        return "its data are elsewhere: give them as --data"
    if not settings.data and load_benchmark(settings.name).items_from == "hub":
        return "its items are on the Hub, from where this sheet loads nothing"
    return ""
