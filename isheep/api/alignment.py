"""Running a recipe from Python, with the engine and filters of the user's own if wanted."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from isheep.api.arguments import path_argument
from isheep.api.models import RunModel
from isheep.api.runs import Run, read_run
from isheep.backends import DEFAULT_BACKEND, Backend, PromptsToTexts, guard_trainer
from isheep.engines import Engine
from isheep.errors import UserError, excerpt
from isheep.filters.custom import PairFunction, check_pair_function
from isheep.recipe.schema import Recipe
from isheep.sweep import check_recipe_ready, iterate_recipe


class Alignment:
    """A run of a recipe that has not begun, or that continues; `align` returns it.

    Iterating over it yields M^0, M^1, ... as each is ready; `run` runs to the end. Both resume: what exists in the run
    folder is not made again. Both also score the models on the benchmarks in the recipe's evaluation, as `isheep run`
    does, and end early if the recipe has a stop rule. The run folder is locked while one of them is at work.
    """

    def __init__(
        self,
        recipe: Recipe,
        run_dir: Path,
        backend: Backend,
        filters: Sequence[PairFunction],
        reuse: Path | None = None,
    ) -> None:
        self.recipe = recipe
        self.run_dir = run_dir
        self.backend = backend
        self.filters = filters
        self.reuse = reuse

    def __iter__(self) -> Iterator[RunModel]:
        """Yield M^0, M^1, ..., each as soon as it is trained and evaluated."""
        check_recipe_ready(self.recipe, self.run_dir, reuse=self.reuse, backend=self.backend, filters=self.filters)
        steps = iterate_recipe(self.recipe, self.run_dir, reuse=self.reuse, backend=self.backend, filters=self.filters)
        for iteration, model in steps:
            yield RunModel(self.run_dir, iteration, model.base, model.adapter, self.backend)

    def run(self) -> Run:
        """Run all iterations and return the finished run.

        Example:
            >>> run = isheep.align(recipe, "runs/mine").run()
            >>> len(run.iterations[0].pairs)
            100
        """
        for _ in self:
            pass
        return read_run(self.run_dir, backend=self.backend)

    def __repr__(self) -> str:
        return (
            f"<Alignment of {self.recipe.model} in {self.run_dir}, {self.recipe.iterations} iterations: "
            "iterate over it, or call run()>"
        )


def align(
    recipe: Recipe,
    run_dir: str | Path,
    *,
    engine: Engine | PromptsToTexts | None = None,
    filters: Sequence[PairFunction] = (),
    reuse: str | Path | None = None,
    backend: Backend = DEFAULT_BACKEND,
) -> Alignment:
    """Align a base model on its own data (Algorithm 1), in a run folder; nothing runs until the result is used.

    Iterate over the returned Alignment to get M^0 (the base), M^1, ..., or call its `run` method to run to the end. An
    existing run folder of the same recipe is continued.

    `engine` replaces the recipe's engine for all models: a function from a list of prompts to a list of texts, or an
    object with the methods of Engine. Training is not replaced. `filters` are applied in addition to those of the
    recipe: a function gets a Pair (an AssessedPair if the recipe rates pairs) and returns the reason to drop it, or
    None to keep it. `reuse` is another run folder: every file of it that comes out the same is taken over, and the rest
    is made. `backend` replaces the functions that open and train models, for tests.

    The run folder records the names of the engine and the filters, and can be continued with the same ones only.
    Raises UserError, when it begins to run, if the recipe cannot be run.

    Example:
        >>> recipe = isheep.load_recipe("lamb", {"synthesis.tasks": 100})
        >>> for model in isheep.align(recipe, "runs/mine"):
        ...     print(model, isheep.evaluate(model, "lamb"))
        >>> def too_short(pair):
        ...     return "fewer than 3 words" if len(pair.output.split()) < 3 else None
        >>> isheep.align(recipe, "runs/filtered", filters=[too_short], reuse="runs/mine").run()
    """
    if not isinstance(recipe, Recipe):
        raise UserError(f"recipe {excerpt(recipe)} is not a Recipe: pass the result of isheep.load_recipe")
    if callable(filters) or isinstance(filters, str) or not isinstance(filters, Iterable):
        raise UserError("filters must be a list of functions: write filters=[my_filter]")
    filters = tuple(filters)
    for function in filters:
        check_pair_function(function)
    if not isinstance(backend, Backend):
        raise UserError(f"backend {excerpt(backend)}: give an isheep.backends.Backend, or leave it out")
    backend = guard_trainer(backend)
    if engine is not None:
        own = Backend.of_engine(engine)
        backend = replace(
            backend, open_engine=own.open_engine, check_engine=own.check_engine, engine_name=own.engine_name
        )
    reused = None if reuse is None else path_argument(reuse, "reuse")
    return Alignment(recipe, path_argument(run_dir, "run_dir"), backend, filters, reused)
