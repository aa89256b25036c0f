"""The iterations of a run: their folders, the newest one, and the model of each."""

from pathlib import Path
from typing import NamedTuple

from isheep.errors import UserError
from isheep.recipe.benchmark_names import benchmark_label
from isheep.recipe.schema import Recipe
from isheep.records import Model
from isheep.rundir.artifacts import BASE_DIR, iteration_name
from isheep.rundir.folder import RunFolder
from isheep.rundir.validation_scores import ValidationScore, read_validation_score


def model_words(iteration: int) -> str:
    """Return the words for the model of an iteration: "iteration 1", or "base"."""
    return f"iteration {iteration}" if iteration else "base"


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
    """Return M^t of a run, its result for None.

    Raises UserError if the run has no model of the iteration, or if a file of its adapter has changed.
    """
    newest = newest_iteration(recipe, run)
    if iteration is None:
        iteration = find_run_result(recipe, run).iteration
    if iteration == 0:
        return Model(recipe.model)
    folder = iteration_dir(run, iteration)
    if iteration < 0 or not folder.has("adapter"):
        existing = f"0 (the base) to {newest}" if newest else "0 (the base)"
        raise UserError(f"{run.path} has no model of iteration {iteration}: give {existing}")
    return Model(recipe.model, folder.checked("adapter"))


# --- the result of a run


class RunResult(NamedTuple):
    """The iteration whose model is the result of a run, and why: "the best by lamb's validation part"."""

    iteration: int
    reason: str

    def __str__(self) -> str:
        return f"{model_words(self.iteration) if self.iteration else 'the base'}, {self.reason}"


def find_run_result(recipe: Recipe, run: RunFolder) -> RunResult:
    """Return the result of a run: with `stop`, the best iteration by its validation part, otherwise the newest one.

    Commands use it if no iteration is named. It follows from the complete files of the run alone. The best has the
    highest mean, of several the earliest; the base is no result of a run that has a trained model, but the reason says
    so if the base is better.
    """
    newest = newest_iteration(recipe, run)
    if not newest:
        return RunResult(0, "because no iteration is trained yet")
    if recipe.stop_rule is None:
        return RunResult(newest, "the newest")
    part = f"{benchmark_label(recipe.stop_rule.benchmark)}'s validation part"
    means = {t: mean for t in range(newest + 1) if (mean := _validation_mean(recipe, run, t)) is not None}
    base_mean = means.pop(0, None)
    if not means:
        return RunResult(newest, f"the newest, because none is scored on {part} yet")
    best = max(means, key=lambda t: (means[t], -t))
    is_below_base = base_mean is not None and means[best] < base_mean
    return RunResult(best, f"the best by {part}{', on which the base is better' if is_below_base else ''}")


def load_validation_score(recipe: Recipe, run: RunFolder, iteration: int) -> ValidationScore | None:
    """Return the score of M^iteration that the recipe's stop rule reads, or None if it is not there."""
    assert recipe.stop_rule
    name = f"validation/{benchmark_label(recipe.stop_rule.benchmark)}.json"
    return read_validation_score(iteration_dir(run, iteration).checked(name))


def _validation_mean(recipe: Recipe, run: RunFolder, iteration: int) -> float | None:
    score = load_validation_score(recipe, run, iteration)
    return score.mean if score else None
