"""What the models of a run have cost, whichever run has made the files, and recipes with as much training as a run had.

Files that a run has copied count as if it had made them itself, so that the costs of the settings of a sweep can be
compared.
"""

from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from isheep.errors import UserError
from isheep.evaluation.stopping import last_iteration
from isheep.recipe.schema import Recipe
from isheep.records import Instance, Pair, Reply, TaskKind
from isheep.rundir.artifacts import split_file, stage_of
from isheep.rundir.events import read_events
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import iteration_dir, newest_iteration
from isheep.rundir.run import open_run
from isheep.trainers.adapter_dir import TRAINING_RECORD

# The stages without which there would be no model.
MODEL_STAGES = ("instructions", "answers", "measures for filters", "ratings", "filtering", "training")
# The files whose rows count the tokens that a model wrote. Ratings do not count theirs.
TOKEN_FILES: dict[str, type[Reply | TaskKind | Instance | Pair]] = {
    "topics.jsonl": Reply,
    "replies.jsonl": Reply,
    "task_kinds.jsonl": TaskKind,
    "instances.jsonl": Instance,
    "pairs.jsonl": Pair,
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
    seconds_of = _iteration_seconds(run)
    for iteration in range(1, newest_iteration(recipe, run) + 1):
        training = training_record(run, iteration)
        rows, steps = (training.get("rows") or {}).get("trained"), training.get("steps")
        cost = (_iteration_tokens(run, iteration), rows, steps, seconds_of(iteration))
        costs.append(ModelCost(*map(_add_known, costs[-1], cost)))
    return costs


def training_record(run: RunFolder, iteration: int) -> dict[str, Any]:
    """Return the content of an iteration's training.json; empty if its trainer has left none."""
    folder, name = iteration_dir(run, iteration), f"adapter/{TRAINING_RECORD}"
    record = folder.json(name, dict) if folder.has(name) else {}
    return record if isinstance(record, dict) else {}


def _add_known(total: Any, value: Any) -> Any:
    return None if total is None or value is None else total + value


def _iteration_tokens(run: RunFolder, iteration: int) -> int:
    folder = iteration_dir(run, iteration)
    # The pairs are made of the instances, and no model is asked for them again.
    skipped = {"pairs.jsonl"} if folder.has("instances.jsonl") else set()
    files = [name for name in TOKEN_FILES if name not in skipped and folder.has(name)]
    return sum(row.tokens for name in files for row in folder.read(name, TOKEN_FILES[name]))


# --- seconds, from the events of the runs that made the files


def _iteration_seconds(run: RunFolder) -> Callable[[int], float | None]:
    """Return a function that gives the seconds of an iteration's stages, None if those of a file are not known."""
    events_by_root: dict[Path, dict[str, dict[str, Any]]] = {}

    def events_of(root: Path) -> dict[str, dict[str, Any]]:
        """Return the last event of each file of a run that was made or copied."""
        if root not in events_by_root:
            events = (event for event in read_events(root) if event.keys() & {"seconds", "shared_from"})
            events_by_root[root] = {str(event["file"]): event for event in events if "file" in event}
        return events_by_root[root]

    def seconds_of_file(root: Path, file: str) -> float | None:
        event = events_of(root).get(file, {})
        # Runs share files in one direction, from earlier ones, so this ends.
        while "shared_from" in event:
            source = (root / event["shared_from"]).resolve()
            root = source.parents[len(Path(file).parts) - 1]
            event = events_of(root).get(file, {})
        # Only the last try of an interrupted stage is in the event.
        if "seconds" not in event or event.get("made", 0) < event.get("rows", 0):
            return None
        return float(event["seconds"])

    def seconds_of(iteration: int) -> float | None:
        seconds: float | None = 0.0
        for file in events_of(run.root):
            number, name = split_file(file)
            if number == iteration and stage_of(name) in MODEL_STAGES:
                seconds = _add_known(seconds, seconds_of_file(run.root, file))
        return seconds

    return seconds_of


# --- as many optimizer steps as another run has trained


def trained_steps(recipe: Recipe, run: RunFolder, batch_size: int) -> int:
    """Return the optimizer steps that a run has trained in all its iterations, as steps of `batch_size` rows.

    Raises UserError if a trainer has left no record of its steps.
    """
    num_rows = 0
    for iteration in range(1, newest_iteration(recipe, run) + 1):
        steps = training_record(run, iteration).get("steps")
        if not isinstance(steps, int):
            where = iteration_dir(run, iteration).path / "adapter" / TRAINING_RECORD
            raise UserError(f"{where}: it does not say how many steps were trained: give training.max_steps instead")
        num_rows += steps * recipe.at(iteration).training.batch_size
    return ceil(num_rows / batch_size)


def with_matched_steps(recipe: Recipe, matched: Path | None = None) -> Recipe:
    """Return a recipe with the steps that the run `matched` has trained, as `max_steps` in place of `steps_of`.

    `matched` is the run folder that `steps_of` names, if it is not given. Recipes without `steps_of` stay as they are.
    Raises UserError if there is no such run, or if it has not ended.
    """
    training = recipe.training
    if training.steps_of is None:
        return recipe
    path = matched or Path(training.steps_of)
    if not (path / "recipe.yaml").is_file():
        raise UserError(
            f"training.steps_of: {training.steps_of} is neither another setting of the sweep nor a run folder: run it "
            "in a sweep with that setting (such as lamb/controls), or give training.steps_of=DIR"
        )
    matched_recipe, run = open_run(path)
    if newest_iteration(matched_recipe, run) < last_iteration(matched_recipe, run):
        raise UserError(f"training.steps_of: {path} has not ended, so its steps are not known: isheep run {path}")
    return with_steps(recipe, trained_steps(matched_recipe, run, training.batch_size))


def with_steps(recipe: Recipe, num_steps: int) -> Recipe:
    """Return the recipe with a number of optimizer steps in place of the run that it is matched with."""
    training = recipe.training.model_copy(update={"max_steps": num_steps, "steps_of": None})
    return recipe.model_copy(update={"training": training})


def mean_cost(costs: Sequence[ModelCost]) -> ModelCost:
    """Return the mean of some runs' costs, each figure None if that of one run is not known."""

    def mean(values: Sequence[float | None]) -> float | None:
        numbers = [value for value in values if value is not None]
        return sum(numbers) / len(numbers) if numbers and len(numbers) == len(values) else None

    if not costs:
        return UNKNOWN_COST
    tokens, rows, steps, seconds = (mean(values) for values in zip(*costs, strict=True))
    return ModelCost(tokens, rows, steps, seconds)
