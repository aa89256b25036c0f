"""Loading recipes and sweeps, with all checks of the package."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from isheep import backends, benchmarks, extensions, trackers
from isheep.api.arguments import flag_argument
from isheep.errors import Conflicts, UserError, quote_path
from isheep.recipe import loading, sweeps, validation
from isheep.recipe.schema import Recipe

Overrides = Mapping[str, Any] | Iterable[str]
"""Values that replace those of a recipe: {"training.epochs": 1}, or a list of texts such as "training.epochs=1"."""


def _backend_conflicts(recipe: Recipe, iteration: int) -> Conflicts:
    yield from backends.conflicts(recipe)
    yield from trackers.conflicts(recipe)


CHECKS: loading.Checks = (validation.conflicts, benchmarks.conflicts, _backend_conflicts)
"""All checks of settings that are each valid and can't work together."""


def load_recipe(
    source: str | Path | Mapping[str, Any] | Recipe, overrides: Overrides | None = None, *, allow_code: bool = False
) -> Recipe:
    """Return a recipe, checked as a whole.

    `source` is the name of a packaged recipe (`isheep recipes`), the path of a YAML file, a mapping with the keys of a
    recipe, or a Recipe. `overrides` set keys: {"training.epochs": 1} or ["training.epochs=1"]. `allow_code` allows this
    process to execute Python code that recipes name. Raises UserError with the place of the mistake.

    Example:
        >>> recipe = isheep.load_recipe("lamb", {"synthesis.tasks": 100})
        >>> recipe.synthesis.tasks
        100
    """
    if flag_argument(allow_code, "allow_code"):
        extensions.allow_code()
    return loading.load_recipe(source, overrides or (), CHECKS)


def load_sweep(
    source: str | Path, overrides: Overrides | None = None, *, allow_code: bool = False
) -> dict[str, Recipe]:
    """Return the recipes of a sweep by the names of their settings, as `load_recipe` does.

    Example:
        >>> recipes = isheep.load_sweep("lamb/table2")
    """
    if not isinstance(source, str | Path):
        raise UserError(f"sweep {quote_path(source)}: give the name of a sweep, or the path of its file")
    if flag_argument(allow_code, "allow_code"):
        extensions.allow_code()
    return sweeps.load_sweep(loading.find_recipe(str(source)), overrides or (), CHECKS)
