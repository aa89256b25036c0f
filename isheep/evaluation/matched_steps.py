"""Recipes that train as many optimizer steps as another run has trained: `training.steps_of`."""

from math import ceil
from pathlib import Path

from isheep.errors import UserError, shell_word
from isheep.evaluation.compute import training_record
from isheep.evaluation.stopping import last_iteration
from isheep.recipe.schema import Recipe
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import iteration_dir, newest_iteration
from isheep.rundir.run import open_run
from isheep.trainers.adapter_dir import TRAINING_RECORD


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
        way_out = f"isheep run {shell_word(path)}"
        raise UserError(f"training.steps_of: {path} has not ended, so its steps are not known: {way_out}")
    return with_steps(recipe, trained_steps(matched_recipe, run, training.batch_size))


def with_steps(recipe: Recipe, num_steps: int) -> Recipe:
    """Return the recipe with a number of optimizer steps in place of the run that it is matched with."""
    training = recipe.training.model_copy(update={"max_steps": num_steps, "steps_of": None})
    return recipe.model_copy(update={"training": training})
