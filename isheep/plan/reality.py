"""The plan of a run beside what happened: rows, tokens and seconds of each stage.

When a run ends, it writes the plan that it would have had before as an event into run.jsonl: from the same assumptions,
on the same machine, and with nothing measured in the run. `isheep status` compares, for one run or for all of a sweep.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from isheep.errors import UserError
from isheep.models.checkpoint import load_local_tokenizer
from isheep.plan import device_of, plan
from isheep.recipe.schema import Recipe
from isheep.rundir.artifacts import iteration_name, stage_of
from isheep.rundir.events import read_events
from isheep.rundir.folder import RunFolder
from isheep.trainers.adapter_dir import TRAINING_RECORD

StageKey = tuple[str, str]
"""The folder of an iteration and the name of a stage: ("iter-1", "answers")."""

# The files whose rows and tokens count. The pairs of dialogues are copies of the turns.
TURN_FILES = ("first_turns.jsonl", "follow_ups.jsonl", "second_turns.jsonl")
COUNTED_FILES = ("replies.jsonl", *TURN_FILES, "pairs.jsonl", "assessed.jsonl")


class StageReality(NamedTuple):
    """A stage in all iterations that have it: what was planned and what happened. None: not known."""

    stage: str
    planned_rows: float
    rows: int | None
    planned_tokens: float
    tokens: int | None
    planned_seconds: float
    seconds: float

    @property
    def label(self) -> str:
        """The name of the stage in tables. The rows of a training count once in each epoch."""
        return "training, all epochs" if self.stage == "training" else self.stage


def record_plan(recipe: Recipe, run: RunFolder) -> bool:
    """Write the plan of a run as an event, unless its events have one for as many iterations; return whether it did.

    A run whose models do not work in this process (a server, a function) has none: its speed is not this machine's.
    """
    if "torch" not in sys.modules:
        return False
    plans = _recorded_plans(run)
    if plans and max(row["iteration"] for row in plans[-1]) == recipe.iterations:
        return False
    rows = plan_rows(recipe)
    if rows:
        run.event(plan=rows)
    return bool(rows)


def _recorded_plans(run: RunFolder) -> list[list[dict[str, Any]]]:
    return [event["plan"] for event in read_events(run.root) if event.get("plan")]


def plan_rows(recipe: Recipe) -> list[dict[str, Any]]:
    """Return the plan of a recipe on this machine as values for run.jsonl, a row for each stage of an iteration.

    Empty if the recipe can't be planned: its model is of another kind than `isheep plan` knows, or not on this machine.
    """
    # Nothing is looked for on the Hub.
    if load_local_tokenizer(recipe.model) is None:
        return []
    try:
        stages = plan(recipe, device_of(recipe.machine, None, None), None, {}).stages
    except UserError:
        return []
    return [
        {
            "iteration": stage.iteration,
            "stage": stage.name,
            "rows": stage.calls,
            "tokens": stage.output_tokens,
            "seconds": stage.seconds,
        }
        for stage in stages
    ]


def compare_with_plan(recipe: Recipe, run: RunFolder, seconds: Mapping[StageKey, float]) -> list[StageReality]:
    """Return each stage of a run beside the newest plan in its events; nothing without a plan.

    `seconds` are those of the stages by (folder, stage). Only stages that the run has done itself are compared: none of
    whose files it has copied from another run.
    """
    planned: dict[StageKey, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    plans = _recorded_plans(run)
    if not plans:
        return []
    for row in plans[-1]:
        sums = planned[iteration_name(row["iteration"]), row["stage"]]
        calls_per_row = _calls_per_row(recipe.at(max(1, row["iteration"])), row["stage"])
        for index, value in enumerate((row["rows"] / calls_per_row, row["tokens"], row["seconds"])):
            sums[index] += value
    rows, tokens = made_counts(run)
    copied = _copied_stages(run)
    keys = [key for key in planned if seconds.get(key) and key not in copied]
    compared = []
    for stage in dict.fromkeys(stage for _, stage in keys):
        of_stage = [key for key in keys if key[1] == stage]
        sums = [sum(planned[key][index] for key in of_stage) for index in range(3)]
        compared.append(
            StageReality(
                stage,
                sums[0],
                _sum_of_known([rows.get(key) for key in of_stage]),
                sums[1],
                _sum_of_known([tokens.get(key) for key in of_stage]),
                sums[2],
                sum(seconds[key] for key in of_stage),
            )
        )
    return compared


def _copied_stages(run: RunFolder) -> set[StageKey]:
    """Return the stages of which the run has copied a file from another run."""
    files = (str(event["file"]).partition("/") for event in read_events(run.root) if "shared_from" in event)
    return {(folder, stage_of(name)) for folder, _, name in files}


def add_up(compared: Iterable[Sequence[StageReality]]) -> list[StageReality]:
    """Return the sums over several runs, a row for each stage. A count that one run does not know is not known."""
    by_stage: dict[str, list[StageReality]] = defaultdict(list)
    for rows in compared:
        for row in rows:
            by_stage[row.stage].append(row)
    return [
        StageReality(
            stage,
            sum(row.planned_rows for row in rows),
            _sum_of_known([row.rows for row in rows]),
            sum(row.planned_tokens for row in rows),
            _sum_of_known([row.tokens for row in rows]),
            sum(row.planned_seconds for row in rows),
            sum(row.seconds for row in rows),
        )
        for stage, rows in by_stage.items()
    ]


def made_counts(run: RunFolder) -> tuple[dict[StageKey, int], dict[StageKey, int]]:
    """Return the rows and the written tokens of stages by (folder, stage), as far as the run folder says them.

    The rows of a training are those that it read, in all epochs. The tokens of ratings are not in the events.
    """
    # Of a file that was made again the last event counts.
    events = {str(event["file"]): event for event in read_events(run.root) if "file" in event}
    files: dict[StageKey, list[Mapping[str, Any]]] = defaultdict(list)
    rows: dict[StageKey, int] = {}
    for file, event in events.items():
        folder, _, name = file.partition("/")
        if name == "adapter":
            rows |= _training_rows(run, folder)
        is_copy = name == "pairs.jsonl" and f"{folder}/{TURN_FILES[0]}" in events
        if name in COUNTED_FILES and "rows" in event and not is_copy:
            files[folder, stage_of(name)].append(event)
    rows |= {key: sum(int(event["rows"]) for event in of_stage) for key, of_stage in files.items()}
    sums = {key: _sum_of_known([_written_tokens(event) for event in of_stage]) for key, of_stage in files.items()}
    return rows, {key: tokens for key, tokens in sums.items() if tokens is not None and key[1] != "ratings"}


def _written_tokens(event: Mapping[str, Any]) -> int | None:
    """Return the tokens of a file's rows, None if the event is not about all of them."""
    return int(event["tokens"]) if event.get("made") == event["rows"] and "tokens" in event else None


def _training_rows(run: RunFolder, folder: str) -> dict[StageKey, int]:
    """Return the rows that a training has read in all its epochs, from the record beside the adapter."""
    path = f"adapter/{TRAINING_RECORD}"
    if not (run / folder).has(path):
        return {}
    record: dict[str, Any] = (run / folder).json(path, dict)
    counts, settings = record.get("rows"), record.get("settings")
    # A trainer of the user's own may leave another record, or none.
    if not isinstance(counts, dict) or not isinstance(settings, dict) or "trained" not in counts:
        return {}
    num_rows = counts["trained"] * settings["epochs"]
    if settings["max_steps"]:
        num_rows = settings["max_steps"] * settings["batch_size"]
    return {(folder, "training"): int(num_rows)}


def _calls_per_row(recipe: Recipe, stage: str) -> int:
    """Return how many calls of the plan belong to a row of the stage's file."""
    if stage == "ratings" and recipe.assessment:
        return len(recipe.assessment.criteria)
    return 3 if stage == "answers" and recipe.response.num_instance_examples else 1


def _sum_of_known(values: Sequence[int | None]) -> int | None:
    """Return the sum, or None if one of the values is not known."""
    return None if None in values else sum(value for value in values if value is not None)
