"""What the models of a run have cost, whichever run has made the files.

Files that a run has copied count as if it had made them itself, so that the costs of the settings of a sweep can be
compared.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from isheep.recipe.schema import Recipe
from isheep.records import Instance, Pair, PairSamples, Reply, TaskKind
from isheep.rundir.artifacts import ARTIFACTS, iteration_name
from isheep.rundir.events import read_events
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import iteration_dir, newest_iteration
from isheep.trainers.adapter_dir import TRAINING_RECORD

# The stages without which there would be no model.
MODEL_STAGES = ("instructions", "answers", "measures for filters", "ratings", "filtering", "training")
# The files whose rows count the tokens that a model wrote. Ratings do not count theirs.
TOKEN_FILES: dict[str, type[Reply | TaskKind | Instance | Pair | PairSamples]] = {
    "topics.jsonl": Reply,
    "replies.jsonl": Reply,
    "task_kinds.jsonl": TaskKind,
    "instances.jsonl": Instance,
    "first_turns.jsonl": Pair,
    "follow_ups.jsonl": Reply,
    "second_turns.jsonl": Pair,
    "pairs.jsonl": Pair,
    "samples.jsonl": PairSamples,
}


class ModelCost(NamedTuple):
    """What it took to make M^t from the base: the stages of all iterations up to it, without evaluation.

    - `tokens`: tokens that the models wrote as instructions and answers; those of ratings are not recorded
    - `rows`: rows that were trained on, each once in an iteration
    - `steps`: optimizer steps
    - `seconds`: seconds on the clock; those of a copied file are the seconds of the run that made it

    None: not known, because a trainer of another kind left no record, a stage was interrupted, or the run that a file
    was copied from is gone.
    """

    tokens: float | None
    rows: float | None
    steps: float | None
    seconds: float | None


NO_COST = ModelCost(0, 0, 0, 0.0)
UNKNOWN_COST = ModelCost(None, None, None, None)


def model_costs(recipe: Recipe, run: RunFolder) -> list[ModelCost]:
    """Return the costs of M^0 (nothing), M^1, ... up to the newest model of a run."""
    costs = [NO_COST]
    find_event = _event_finder(run)
    for iteration in range(1, newest_iteration(recipe, run) + 1):
        training = training_record(run, iteration)
        rows, steps = (training.get("rows") or {}).get("trained"), training.get("steps")
        tokens, seconds = (count(run, iteration, find_event) for count in (_iteration_tokens, _iteration_seconds))
        cost = (tokens, rows, steps, seconds)
        costs.append(ModelCost(*map(_add_known, costs[-1], cost)))
    return costs


def mean_cost(costs: Sequence[ModelCost]) -> ModelCost:
    """Return the mean of some runs' costs, each figure None if that of one run is not known."""

    def mean(values: Sequence[float | None]) -> float | None:
        numbers = [value for value in values if value is not None]
        return sum(numbers) / len(numbers) if numbers and len(numbers) == len(values) else None

    if not costs:
        return UNKNOWN_COST
    tokens, rows, steps, seconds = (mean(values) for values in zip(*costs, strict=True))
    return ModelCost(tokens, rows, steps, seconds)


def training_record(run: RunFolder, iteration: int) -> dict[str, Any]:
    """Return the content of an iteration's training.json; empty if its trainer has left none."""
    folder, name = iteration_dir(run, iteration), f"adapter/{TRAINING_RECORD}"
    record = folder.json(name, dict) if folder.has(name) else {}
    return record if isinstance(record, dict) else {}


def _add_known(total: Any, value: Any) -> Any:
    return None if total is None or value is None else total + value


# --- from the events of the runs that made the files

FindEvent = Callable[[str], dict[str, Any]]
"""Returns the event of the run that made a file of this run; empty if it is not known."""


def written_tokens(run: RunFolder, iteration: int) -> int | None:
    """Return the tokens that the model wrote as instructions and answers of an iteration; None before any are there."""
    return _iteration_tokens(run, iteration, _event_finder(run))


def _event_finder(run: RunFolder) -> FindEvent:
    """Return the function that finds who made a file of a run, and at what cost."""

    @cache
    def events_of(root: Path) -> dict[str, dict[str, Any]]:
        """Return the last event of each file of a run that was made or copied."""
        events = (event for event in read_events(root) if "file" in event)
        return {str(event["file"]): event for event in events if event.keys() & {"seconds", "shared_from"}}

    def find_event(file: str) -> dict[str, Any]:
        root, event = run.root, events_of(run.root).get(file, {})
        # Runs share files in one direction, from earlier ones, so this ends.
        while "shared_from" in event:
            source = (root / event["shared_from"]).resolve()
            root = source.parents[len(Path(file).parts) - 1]
            event = events_of(root).get(file, {})
        return event

    return find_event


def _is_whole(event: Mapping[str, Any]) -> bool:
    """Return whether an event is about all rows of a file: of an interrupted stage, it is about the last try alone."""
    return "seconds" in event and event.get("made", 0) >= event.get("rows", 0)


def _iteration_tokens(run: RunFolder, iteration: int, find_event: FindEvent) -> int | None:
    folder, counts = iteration_dir(run, iteration), list[int]()
    for name, row_type in TOKEN_FILES.items():
        # Pairs that are made of instances, or of two files of turns, are not asked of a model again.
        is_copy = name == "pairs.jsonl" and any(map(folder.has, ("instances.jsonl", "first_turns.jsonl")))
        if folder.has(name) and not is_copy:
            event = find_event(f"{iteration_name(iteration)}/{name}")
            is_counted = _is_whole(event) and "tokens" in event
            counts.append(event["tokens"] if is_counted else sum(row.tokens for row in folder.read(name, row_type)))
    return sum(counts) if counts else None


def _iteration_seconds(run: RunFolder, iteration: int, find_event: FindEvent) -> float | None:
    folder, seconds = iteration_dir(run, iteration), 0.0
    for artifact in ARTIFACTS:
        if artifact.stage in MODEL_STAGES and folder.has(artifact.name):
            event = find_event(f"{iteration_name(iteration)}/{artifact.name}")
            if not _is_whole(event):
                return None
            seconds += event["seconds"]
    return seconds
