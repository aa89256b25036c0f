"""What a finished or partial run tells about the next one: mean lengths and shares, and the seconds of its stages."""

import sys
from collections import defaultdict
from collections.abc import Sequence
from math import isfinite, nan
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from isheep.batching import chunks
from isheep.errors import UserError, shell_word
from isheep.plan.assumptions import Assumptions, assume, token_counter
from isheep.plan.cost import seconds
from isheep.plan.devices import Device
from isheep.plan.shapes import shape_of
from isheep.plan.work import run_stages, uncounted_benchmarks
from isheep.recipe.schema import Recipe
from isheep.records import AssessedPair, Drop, Pair, Reply
from isheep.rundir.artifacts import artifact_of
from isheep.rundir.events import read_events
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import iteration_dir
from isheep.rundir.run import open_run
from isheep.seeds import SeedTask
from isheep.stages.synthesize import read_tasks

StageKey = tuple[int, str]
"""An iteration (0: the base model) and the name of a stage."""


class PastRun(NamedTuple):
    """A run: its recipe, and the values of Assumptions that each iteration measured."""

    recipe: Recipe
    run: RunFolder
    measured: dict[int, dict[str, float]]

    @property
    def means(self) -> dict[str, float]:
        """The mean of each value over the iterations that measured it."""
        keys = dict.fromkeys(key for values in self.measured.values() for key in values)
        return {key: fmean(values[key] for values in self.measured.values() if key in values) for key in keys}


def read_past_run(path: Path) -> PastRun:
    """Return what a run measured. Raises UserError if `path` is no run folder, or if no stage is complete in it yet."""
    recipe, run = open_run(path)
    measured = {}
    for iteration in range(1, recipe.iterations + 1):
        if values := _measure_iteration(recipe.at(iteration), run, iteration):
            measured[iteration] = values
    if not measured:
        raise UserError(
            f"{path} tells nothing yet: none of its stages is complete; see isheep status {shell_word(path)}"
        )
    return PastRun(recipe, run, measured)


def _measure_iteration(recipe: Recipe, run: RunFolder, iteration: int) -> dict[str, float]:
    """Return the values of Assumptions that the files of an iteration show."""
    folder = iteration_dir(run, iteration)
    count, _ = token_counter(recipe.model)
    values: dict[str, float] = {}
    if folder.has("replies.jsonl"):
        values |= _measure_replies(recipe, run, iteration)
    if folder.has("pairs.jsonl"):
        pairs = folder.read("pairs.jsonl", Pair)
        batch_size = min(recipe.response.batch_size, recipe.machine.engine_batch_size)
        values["task"] = fmean(count(pair.user_turn) for pair in pairs)
        values["answer"] = fmean(pair.tokens for pair in pairs)
        values["longest"] = _longest_in_means([pair.tokens for pair in pairs], batch_size)
        if folder.has("dropped.jsonl"):
            values["kept"] = 1 - len(folder.read("dropped.jsonl", Drop)) / len(pairs)
    if folder.has("assessed.jsonl") and recipe.assessment and recipe.assessment.writes_text:
        max_tokens = recipe.assessment.sampling.max_tokens
        assessed = folder.read("assessed.jsonl", AssessedPair)
        replies = [grade.reply for pair in assessed for grade in pair.grades.values()]
        # The end token is not part of the text.
        values["grade"] = fmean(min(count(text) + 1, max_tokens) for text in replies) if replies else 0.0
    return {key: value for key, value in values.items() if value}


def _measure_replies(recipe: Recipe, run: RunFolder, iteration: int) -> dict[str, float]:
    replies = iteration_dir(run, iteration).read("replies.jsonl", Reply)
    # Without a limit, because the last batch may have brought more tasks than were needed.
    unlimited = recipe.synthesis.model_copy(update={"tasks": sys.maxsize})
    tasks, *_ = read_tasks(replies, run.read("seeds.jsonl", SeedTask), unlimited, recipe.language, iteration)
    return {"reply": fmean(reply.tokens for reply in replies), "tasks": len(tasks) / len(replies)}


def _longest_in_means(tokens: Sequence[int], batch_size: int) -> float:
    """Return the length of the longest answer of a batch, divided by the mean length."""
    return fmean(max(batch) for batch in chunks(tokens, batch_size)) / fmean(tokens)


def stage_seconds(run: RunFolder) -> dict[StageKey, float]:
    """Return the seconds of each stage that was done without interruption.

    The first execution of a stage after a start includes the loading of libraries. It is left out if the run has
    another one of the same stage.
    """
    # The seconds of each file, and whether it was the first of its stage after a start. Later events win.
    files: dict[str, tuple[float, bool]] = {}
    first_iteration: dict[str, int] = {}
    for event in read_events(run.root):
        if "started" in event:
            first_iteration.clear()
        key = _stage_key(str(event.get("file", ""))) if "seconds" in event else None
        if key:
            iteration, name = key
            uninterrupted = event.get("made", 0) == event.get("rows", 0)
            is_first = first_iteration.setdefault(name, iteration) == iteration
            files[event["file"]] = (float(event["seconds"]) if uninterrupted else nan, is_first)
    first, later = dict[StageKey, float](), dict[StageKey, float]()
    for file, (value, is_first) in files.items():
        if key := _stage_key(file):
            sums = first if is_first else later
            sums[key] = sums.get(key, 0.0) + value
    names = {name for _, name in later}
    totals = later | {key: value for key, value in first.items() if key[1] not in names}
    return {key: value for key, value in totals.items() if isfinite(value)}


def _stage_key(file: str) -> StageKey | None:
    """Return the iteration and stage of a run's file ("iter-1/pairs.jsonl"), or None if a model makes no part of it."""
    folder, _, name = file.partition("/")
    artifact = artifact_of(name)
    if artifact is None or not artifact.shared:
        return None
    return (0 if folder == "base" else int(folder.removeprefix("iter-")), artifact.stage)


def time_factors(past: PastRun, device: Device, assumed: Assumptions) -> dict[str, float]:
    """Return for each stage its measured seconds divided by those of `cost.seconds` on `device`, which it ran on."""
    speeds = {key: getattr(assumed, key) for key in ("reading", "writing", "training", "layer_ms")}

    def assume_iteration(recipe: Recipe, iteration: int) -> Assumptions:
        return assume(recipe, {**past.means, **past.measured.get(iteration, {})}, speeds)

    shape, measured = shape_of(past.recipe.model), stage_seconds(past.run)
    computed: dict[StageKey, float] = defaultdict(float)
    for stage in run_stages(past.recipe, assume_iteration):
        train_batch = past.recipe.at(stage.iteration).training.batch_size
        computed[stage.iteration, stage.name] += seconds(stage, shape, device, assumed, train_batch)
    shared_keys = computed.keys() & measured.keys()
    factors = {}
    for name in sorted({name for _, name in shared_keys}):
        if name == "evaluation" and uncounted_benchmarks(past.recipe):
            continue
        keys = [key for key in shared_keys if key[1] == name]
        factors[name] = sum(measured[key] for key in keys) / sum(computed[key] for key in keys)
    return factors
