"""Load sweeps: files that hold many recipes, as named settings, as a grid of values, or both."""

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from isheep.errors import KeyPath, UserError, shell_word
from isheep.recipe.loading import SWEEP_KEYS, Checks, check
from isheep.recipe.schema import Recipe, merge_settings
from isheep.recipe.source import RecipeSource, apply_overrides, find_recipe, lay_over, read_source, set_key

_MEANINGS = {"settings": "names to what differs, or a list of recipe files", "grid": "keys to lists of values"}

# A text as a value in the name of a setting as earlier versions wrote it.
DASHED_VALUE = re.compile(r"(?<==)-(.*?)-(?=,|\Z)")

# A setting's name is the name of a folder: at most this many bytes.
MAX_NAME_LENGTH = 200


def load_sweep(path: Path, overrides: Mapping[str, Any] | Iterable[str], checks: Checks) -> dict[str, Recipe]:
    """Return the recipes of a sweep by name.

    A sweep is a recipe file with `settings`, `grid`, or both, beside what all settings share. `settings` maps names to
    what differs, which is laid over the shared keys; or it lists recipe files, over each of which the shared keys are
    laid. `grid` maps "key.sub" to a list of values, and all combinations are taken. Raises UserError in one line.
    """
    source = read_source(path)
    if not source.data.keys() & set(SWEEP_KEYS):
        raise UserError(
            f"{path} is no sweep, it has neither settings nor grid: run it with isheep run {shell_word(path)}"
        )
    parts = {key: source.data.pop(key, None) or {} for key in SWEEP_KEYS}
    for key, values in parts.items():
        if not isinstance(values, dict | list if key == "settings" else dict):
            raise UserError(f"{source.locations[(key,)]}: {key} must map {_MEANINGS[key]}")
    source = apply_overrides(source, overrides)
    recipes: dict[str, Recipe] = {}
    for name, setting in _settings(source, parts["settings"], path).items():
        for values, combination in _grid(setting, parts["grid"]):
            label = _label([name, *values] if name else values)
            _check_label(label, recipes, path)
            recipes[label] = check(combination, checks)
    return recipes


def folder_of_setting(out: Path, name: str) -> Path:
    """Return the folder of a setting's run in `out`: its name, or its older name if only that folder exists.

    Earlier versions put dashes around values that are texts: "assessment.read=-constrained-".
    """
    folder = out / name
    if folder.exists() or not out.is_dir():
        return folder
    older = (path for path in sorted(out.iterdir()) if DASHED_VALUE.sub(r"\1", path.name) == name and path.is_dir())
    return next(older, folder)


def _label(parts: list[str]) -> str:
    return re.sub(r"[^\w.=,+-]+", "-", ",".join(parts)).lstrip(".")


def _check_label(label: str, labels: Iterable[str], path: Path) -> None:
    if label in labels:
        raise UserError(f"{path}: two settings are named {label!r}")
    if not 0 < len(label.encode()) <= MAX_NAME_LENGTH:
        why = f"the folder of a setting would be named {label!r}: 1 to {MAX_NAME_LENGTH} bytes are needed"
        raise UserError(f"{path}: {why}; name it under settings")


def _settings(source: RecipeSource, settings: dict[str, Any] | list[Any], path: Path) -> dict[str, RecipeSource]:
    """Return the named settings, each with the shared keys; the shared keys alone under "" if there are none."""
    if isinstance(settings, list):
        return dict(_listed_recipes(source, settings, path))
    sources: dict[str, RecipeSource] = {}
    for name, changes in settings.items():
        key_path: KeyPath = ("settings", name)
        if not isinstance(changes, dict):
            raise UserError(f"{source.locations[key_path]}: setting {name!r} must be a mapping of keys to values")
        sources[name] = lay_over(source, key_path, changes)
    return sources or {"": source}


def _listed_recipes(source: RecipeSource, files: list[Any], path: Path) -> Iterator[tuple[str, RecipeSource]]:
    """Yield the recipes of a list of files, with the shared keys laid over each."""
    names: set[str] = set()
    for index, file in enumerate(map(str, files)):
        recipe_path = find_recipe(file, path.parent, source.location_of(("settings", index)))
        base = read_source(recipe_path)
        if base.data.keys() & set(SWEEP_KEYS):
            raise UserError(f"{path}: {file} is a sweep itself: list the recipes that it is made of")
        if recipe_path.stem in names:
            raise UserError(f"{path}: two settings are named {recipe_path.stem!r}")
        names.add(recipe_path.stem)
        data = merge_settings(base.data, source.data)
        yield recipe_path.stem, RecipeSource(data, {**base.locations, **source.locations})


def _grid(source: RecipeSource, grid: dict[str, Any]) -> Iterator[tuple[list[str], RecipeSource]]:
    """Yield all combinations of a grid's values, each as ["key.sub=value", ...] and the recipe with them."""
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise UserError(f"{source.location_of(('grid', str(key)))}: grid.{key} must be a list of values")
    for values in itertools.product(*grid.values()):
        combination = source
        for key, value in zip(grid, values, strict=True):
            location = source.location_of(("grid", str(key)))
            combination = set_key(combination, str(key), value, location)
        yield [f"{key}={_value_text(value)}" for key, value in zip(grid, values, strict=True)], combination


def _value_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
