"""The iterations of a run: their folders, the newest one, and the model of each."""

from isheep.errors import UserError
from isheep.recipe.schema import Recipe
from isheep.records import Model
from isheep.rundir.folder import RunFolder


def iteration_dir(run: RunFolder, t: int) -> RunFolder:
    """Where what belongs to M^t lies: its scores, and its adapter where it has one. The base is iteration 0."""
    return run / (f"iter-{t}" if t else "base")


def newest_iteration(recipe: Recipe, run: RunFolder) -> int:
    """The last iteration that has its model; 0, the base, where none has."""
    return max((t for t in range(1, recipe.iterations + 1) if iteration_dir(run, t).has("adapter")), default=0)


def model_of_iteration(recipe: Recipe, run: RunFolder, iteration: int | None) -> Model:
    """M^t of a run, the newest one for None. Raises UserError where it is not there."""
    t = newest_iteration(recipe, run) if iteration is None else iteration
    if t and not (t > 0 and iteration_dir(run, t).has("adapter")):
        last = newest_iteration(recipe, run)
        raise UserError(f"{run.path} has no model of iteration {t}: give 0 (the base){f' to {last}' if last else ''}")
    return Model(recipe.model, iteration_dir(run, t).path / "adapter" if t else None)
