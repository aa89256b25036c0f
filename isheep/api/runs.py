"""Reading a run folder: its recipe, and the rows, models and results of each iteration."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from isheep.api.arguments import path_argument
from isheep.api.models import RunModel
from isheep.backends import DEFAULT_BACKEND, Backend
from isheep.benchmarks import Result
from isheep.evaluation.results import load_result
from isheep.evaluation.score_rows import evaluated_benchmarks
from isheep.recipe.schema import Recipe
from isheep.records import AssessedPair, Drop, Pair, Record, Rejected, Task
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import find_run_result, iteration_dir, model_of_iteration
from isheep.rundir.run import open_run
from isheep.rundir.training_file import TRAINING_FILE, TrainingRow, read_training_file
from isheep.stages.filters import kept_pairs

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Iteration:
    """The rows of an iteration, read from the run folder when they are asked for; empty if they do not exist yet.

    Example:
        >>> iteration = isheep.read_run("runs/mine").iterations[0]
        >>> iteration.dropped[0].why
        'quality 3 < 8'
    """

    run_dir: Path
    number: int

    @property
    def path(self) -> Path:
        """The folder of the iteration's files."""
        return self._folder.path

    @property
    def tasks(self) -> Sequence[Task]:
        """The instructions that the model wrote."""
        return self._read("tasks.jsonl", Task)

    @property
    def rejected(self) -> Sequence[Rejected]:
        """The texts that did not become a task, with the reasons."""
        return self._read("rejected.jsonl", Rejected)

    @property
    def pairs(self) -> Sequence[Pair]:
        """The tasks with the model's answers."""
        return self._read("pairs.jsonl", Pair)

    @property
    def rated_pairs(self) -> Sequence[AssessedPair]:
        """The pairs with their ratings; empty if the recipe has no assessment."""
        return self._read("assessed.jsonl", AssessedPair)

    @property
    def dropped(self) -> Sequence[Drop]:
        """The ids of the dropped pairs, with the filter and its reason."""
        return self._read("dropped.jsonl", Drop)

    @property
    def kept_pairs(self) -> Sequence[Pair]:
        """The pairs that no filter dropped, with their ratings if they have some; empty before they are filtered."""
        if not self._folder.has("dropped.jsonl"):
            return []
        return kept_pairs(self.rated_pairs or self.pairs, self.dropped)

    @property
    def training_rows(self) -> Sequence[TrainingRow]:
        """The rows of the training file."""
        return read_training_file(self._folder.checked(TRAINING_FILE)).rows if self._folder.has(TRAINING_FILE) else []

    @property
    def _folder(self) -> RunFolder:
        return iteration_dir(RunFolder(self.run_dir, self.run_dir, is_read_only=True), self.number)

    def _read(self, name: str, row_type: type[R]) -> Sequence[R]:
        return self._folder.read(name, row_type) if self._folder.has(name) else []


@dataclass(frozen=True)
class Run:
    """A run folder as it is now: its recipe, its iterations that have begun, and its models.

    `iterations[0]` is iteration 1; `models[0]` is M^0, the base model.

    Example:
        >>> run = isheep.read_run("runs/mine")
        >>> [len(iteration.training_rows) for iteration in run.iterations]
        [65, 71, 60]
        >>> run.results[3]["lamb"].scores["content"].mean
        0.86
    """

    path: Path
    recipe: Recipe
    backend: Backend = field(default=DEFAULT_BACKEND, repr=False, compare=False)

    @property
    def iterations(self) -> list[Iteration]:
        """The iterations that have begun, from iteration 1 on."""
        numbers = range(1, self.recipe.iterations + 1)
        return [Iteration(self.path, t) for t in numbers if iteration_dir(self._folder, t).path.exists()]

    @property
    def models(self) -> list[RunModel]:
        """M^0 and the models that are trained."""
        numbers = [0, *(part.number for part in self.iterations if (part.path / "adapter").exists())]
        models = [(t, model_of_iteration(self.recipe, self._folder, t)) for t in numbers]
        return [RunModel(self.path, t, model.base, model.adapter, self.backend) for t, model in models]

    @property
    def result(self) -> RunModel:
        """The model that is the result of the run: the newest, or the best by the recipe's stop rule."""
        t = find_run_result(self.recipe, self._folder).iteration
        base, adapter = model_of_iteration(self.recipe, self._folder, t)
        return RunModel(self.path, t, base, adapter, self.backend)

    @property
    def results(self) -> list[dict[str, Result]]:
        """The results of M^0, M^1, ... by benchmark."""
        numbers = [model.iteration for model in self.models]
        names = evaluated_benchmarks(self.recipe, self._folder, numbers)
        loaded = [{name: load_result(self._folder, t, name) for name in names} for t in numbers]
        return [{name: result for name, result in by_name.items() if result} for by_name in loaded]

    @property
    def _folder(self) -> RunFolder:
        return RunFolder(self.path, self.path, is_read_only=True)

    def __str__(self) -> str:
        return f"run {self.path}: {len(self.models) - 1} of {self.recipe.iterations} iterations are trained"


def read_run(run_dir: str | Path, *, backend: Backend = DEFAULT_BACKEND) -> Run:
    """Return a run, finished or not, from its folder. Nothing is written, and rows are read when they are asked for.

    Raises UserError if the folder is not a run folder.

    Example:
        >>> run = isheep.read_run("runs/mine")
        >>> print(run)
        run runs/mine: 3 of 3 iterations are trained
    """
    path = path_argument(run_dir, "run_dir")
    recipe, _ = open_run(path)
    return Run(path, recipe, backend)
