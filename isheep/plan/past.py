"""What a run tells about the next one: means of what its models wrote, and the seconds that its stages took."""

import sys
from collections import defaultdict
from collections.abc import Sequence
from math import isfinite, nan
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from isheep.batching import chunks
from isheep.errors import UserError
from isheep.plan.assumptions import Assumptions, assume, counter
from isheep.plan.cost import seconds
from isheep.plan.devices import Device
from isheep.plan.shapes import shape_of
from isheep.plan.work import course, unknown_exams
from isheep.recipe.schema import Recipe
from isheep.records import AssessedPair, Drop, Pair, Reply
from isheep.rundir.artifacts import artifact_of
from isheep.rundir.folder import RunFolder, open_run, read_events
from isheep.rundir.iterations import iteration_dir
from isheep.seeds import SeedTask
from isheep.stages.synthesize import read_tasks


class Past(NamedTuple):
    """A run: its recipe, and for each iteration that wrote anything what it tells (keys of Assumptions)."""

    recipe: Recipe
    run: RunFolder
    told: dict[int, dict[str, float]]

    @property
    def means(self) -> dict[str, float]:
        """Over the iterations that tell a thing."""
        keys = dict.fromkeys(key for one in self.told.values() for key in one)
        return {key: fmean(one[key] for one in self.told.values() if key in one) for key in keys}


def look(path: Path) -> Past:
    """A run's past. Raises UserError where `path` is no run folder, or no model has written in it yet."""
    recipe, run = open_run(path)
    told = {t: one for t in range(1, recipe.iterations + 1) if (one := _told(recipe.at(t), run, t))}
    if not told:
        raise UserError(f"{path} tells nothing yet: none of its stages is complete; see isheep status {path}")
    return Past(recipe, run, told)


def _told(now: Recipe, run: RunFolder, t: int) -> dict[str, float]:
    (count, _), folder, found = counter(now.model), iteration_dir(run, t), dict[str, float]()
    if folder.has("replies.jsonl"):
        asked = folder.read("replies.jsonl", Reply)
        found["reply"] = fmean(reply.tokens for reply in asked)
        endless = now.synthesis.model_copy(update={"tasks": sys.maxsize})  # the last batch had more than were needed
        found["tasks"] = len(read_tasks(asked, run.read("seeds.jsonl", SeedTask), endless, now.language, t)[0]) / len(
            asked
        )
    if folder.has("pairs.jsonl"):
        pairs = folder.read("pairs.jsonl", Pair)
        found["task"] = fmean(count(pair.content) for pair in pairs)
        found["answer"] = fmean(pair.tokens for pair in pairs)
        found["longest"] = _longest(
            [pair.tokens for pair in pairs], min(now.response.batch_size, now.machine.engine_batch_size)
        )
        if folder.has("dropped.jsonl"):
            found["kept"] = 1 - len(folder.read("dropped.jsonl", Drop)) / len(pairs)
    if folder.has("assessed.jsonl") and now.assessment and now.assessment.read == "generate":
        rated = folder.read("assessed.jsonl", AssessedPair)
        replies, most = [g.reply for pair in rated for g in pair.grades.values()], now.assessment.sampling.max_tokens
        found["grade"] = fmean(min(count(text) + 1, most) for text in replies) if replies else 0.0
    return {key: value for key, value in found.items() if value}


def _longest(tokens: Sequence[int], size: int) -> float:
    """The longest of a batch of answers, in means."""
    return fmean(max(batch) for batch in chunks(tokens, size)) / fmean(tokens)


def took(run: RunFolder) -> dict[tuple[int, str], float]:
    """Seconds by iteration and stage, of stages that were done in one go.

    The first time of a stage after a start is left out where others tell of it: it took the loading of libraries too.
    """
    files: dict[str, tuple[float, bool]] = {}  # seconds, and whether they tell of the stage alone; later events win
    seen: dict[str, int] = {}
    for event in read_events(run.root):
        if "started" in event:
            seen.clear()
        if place := _place(str(event.get("file", ""))) if "seconds" in event else None:
            whole = event.get("made", 0) == event.get("rows", 0)
            first = seen.setdefault(place[1], place[0]) == place[0]
            files[event["file"]] = (float(event["seconds"]) if whole else nan, first)
    found: dict[bool, dict[tuple[int, str], float]] = {True: {}, False: {}}
    for name, (value, first) in files.items():
        if place := _place(name):
            found[first][place] = found[first].get(place, 0.0) + value
    told = {name for _, name in found[False]}
    both = found[False] | {place: value for place, value in found[True].items() if place[1] not in told}
    return {place: value for place, value in both.items() if isfinite(value)}


def _place(file: str) -> tuple[int, str] | None:
    """The iteration and stage of a run's file ("iter-1/pairs.jsonl"); None where it is of no stage."""
    folder, _, name = file.partition("/")
    artifact = artifact_of(name)
    if artifact is None or not artifact.shared:
        return None
    return (0 if folder == "base" else int(folder.removeprefix("iter-")), artifact.stage)


def factors(past: Past, device: Device, a: Assumptions) -> dict[str, float]:
    """What each stage of the run took, over what `cost.seconds` says of it on `device`, which it ran on."""

    speeds = {key: getattr(a, key) for key in ("reading", "writing", "training", "layer_ms")}

    def known(now: Recipe, t: int) -> Assumptions:
        return assume(now, {**past.means, **past.told.get(t, {})}, speeds)

    shape, taken = shape_of(past.recipe.model), took(past.run)
    sums: dict[tuple[int, str], float] = defaultdict(float)
    for stage in course(past.recipe, known):
        sums[stage.t, stage.name] += seconds(stage, shape, device, a, past.recipe.at(stage.t).training.batch_size)
    both = sums.keys() & taken.keys()
    names = sorted({name for _, name in both if name != "evaluation" or not unknown_exams(past.recipe)})
    return {
        name: sum(taken[place] for place in both if place[1] == name) / sum(sums[p] for p in both if p[1] == name)
        for name in names
    }
