"""The recipe that the arguments of `isheep run` and `isheep plan` name, and the settings laid over it."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from isheep.errors import UserError, shell_word

DEFAULT = "lamb"
DEFAULT_FOR_MODEL = "qwen2.5-0.5b"
"""The recipe for --model if no recipe is named."""
DEFAULT_FOR_SMALL_MODEL = "small"
"""The same for a model of fewer than SMALL_MODEL parameters."""
SMALL_MODEL = 1_000_000_000


def _complete(incomplete: str) -> Iterator[str]:
    """Yield the names of the package's recipes that begin with what was typed, for shell completion."""
    from isheep.recipe import loading

    yield from (name for name in loading.recipe_names() if name.startswith(incomplete))


RecipeName = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        help="Recipe file, name from `isheep recipes`, or run folder.",
        show_default=False,
        autocompletion=_complete,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Keys of the recipe, such as training.epochs=1.", show_default=False),
]


class RecipeChoice(NamedTuple):
    """A recipe file, the settings laid over it, and the run folder if the recipe is that of an existing run."""

    path: Path
    overrides: list[str]
    run_dir: Path | None = None


def choose_recipe(
    name: str | None, settings: Sequence[str] | None, model: str | None, out: Path | None = None
) -> RecipeChoice:
    """Return the recipe that a command line names. With a "=", `name` is the first of the settings.

    A run folder named in place of a recipe, or as `out` if neither a recipe nor a model is named, stands for its own
    recipe. Raises UserError if there is no such recipe.
    """
    from isheep.recipe import loading

    overrides = list(settings or [])
    if name and "=" in name:
        overrides.insert(0, name)
        name = None
    run_dir = _find_run_dir(name, model, out)
    if run_dir:
        return RecipeChoice(run_dir / "recipe.yaml", overrides, run_dir)
    if model:
        overrides = [f"model={json.dumps(model)}", *overrides]
    return RecipeChoice(loading.find_recipe(name or _default_recipe(model)), overrides)


def _default_recipe(model: str | None) -> str:
    """Return the name of the recipe for a command line that names none: by the size of the model, if it names one."""
    from isheep.models.checkpoint import num_parameters
    from isheep.plan.shapes import known_configs, shape_of
    from isheep.recipe.packaged import PACKAGED_MODELS

    if model is None or model in PACKAGED_MODELS:
        return DEFAULT
    size = shape_of(model).parameters if model in known_configs() else num_parameters(model)
    return DEFAULT_FOR_SMALL_MODEL if size and size < SMALL_MODEL else DEFAULT_FOR_MODEL


def _find_run_dir(name: str | None, model: str | None, out: Path | None) -> Path | None:
    """Return the run folder to continue; None if a recipe is to be run."""
    path = Path(name) if name else out
    if path is None or not path.is_dir():
        return None
    if not (path / "recipe.yaml").is_file():
        if name and name not in _recipe_names():
            raise UserError(f"{name} is not a run folder: it has no recipe.yaml; name a recipe, or a run folder")
        return None
    if name is None:
        return None if model else path
    if model or out and out.resolve() != path.resolve():
        raise UserError(
            f"{name} is a run folder, which continues in place, with its own model; to begin another run with its "
            f"recipe: isheep run {shell_word(path / 'recipe.yaml')} --out ANOTHER, or with its files: "
            f"isheep run {shell_word(name)} --fork NAME"
        )
    return path


def fork_run(run_dir: Path, name: str, reuse: Path | None) -> tuple[Path, Path]:
    """Return the folder of `--fork NAME` and the run folder whose files it reuses: NAME, or a path, beside `run_dir`.

    Raises UserError if `run_dir` is not a run folder, or `--reuse` names another one.
    """
    if reuse:
        raise UserError(f"--fork reuses the files of {run_dir}, and --reuse those of {reuse}: give one of them")
    if not (run_dir / "recipe.yaml").is_file():
        raise UserError(f"--fork {name} reuses the files of a run folder, and {run_dir} is none: leave out --fork")
    # A name alone is a folder beside the run, wherever the command is given; a path is taken as it is.
    folder = Path(name) if "/" in name else run_dir.resolve().parent / name
    return _shortest(folder), run_dir


def _shortest(path: Path) -> Path:
    """Return a path relative to the current folder if it lies in it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _recipe_names() -> list[str]:
    from isheep.recipe import loading

    return loading.recipe_names()
