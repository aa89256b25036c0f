"""The iterations of a run: their folders, the newest one, and the model of each."""

from pathlib import Path

from isheep.errors import UserError
from isheep.recipe.schema import Recipe
from isheep.records import Model
from isheep.rundir.folder import RunFolder

BASE_DIR = "base"


def iteration_name(iteration: int) -> str:
    """Return the name of an iteration's folder; iteration 0 is the base model."""
    return f"iter-{iteration}" if iteration else BASE_DIR


def iteration_dir(run: RunFolder, iteration: int) -> RunFolder:
    """Return the folder of an iteration: the data that M^(t-1) generated, and the adapter and the scores of M^t."""
    return run / iteration_name(iteration)


def parse_run_file(file: str) -> tuple[int, str]:
    """Return the iteration of a file of a run and its name there: "iter-1/pairs.jsonl" -> (1, "pairs.jsonl")."""
    folder, _, name = file.partition("/")
    return (0 if folder == BASE_DIR else int(folder.removeprefix("iter-"))), name


def newest_iteration(recipe: Recipe, run: RunFolder) -> int:
    """Return the last iteration that has a trained model; 0, the base model, if none has."""
    iterations = range(1, recipe.iterations + 1)
    return max((iteration for iteration in iterations if iteration_dir(run, iteration).has("adapter")), default=0)


def adapters_by_folder(run_dir: Path) -> dict[str, Path]:
    """Return the adapters of a run by the names of their iterations' folders, oldest first."""
    adapters = {path.parent.name: path for path in run_dir.glob("iter-*/adapter")}
    return dict(sorted(adapters.items(), key=lambda item: int(item[0].removeprefix("iter-"))))


def model_of_iteration(recipe: Recipe, run: RunFolder, iteration: int | None) -> Model:
    """Return M^t of a run, the newest model for None. Raises UserError if the run has no model of the iteration."""
    newest = newest_iteration(recipe, run)
    if iteration is None:
        iteration = newest
    if iteration == 0:
        return Model(recipe.model)
    folder = iteration_dir(run, iteration)
    if iteration < 0 or not folder.has("adapter"):
        existing = f"0 (the base) to {newest}" if newest else "0 (the base)"
        raise UserError(f"{run.path} has no model of iteration {iteration}: give {existing}")
    return Model(recipe.model, folder.path / "adapter")
