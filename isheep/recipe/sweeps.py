"""Load sweeps: files that hold many recipes, as named settings, as a grid of values, or both."""

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from isheep.errors import KeyPath, UserError, excerpt, option, shell_word
from isheep.recipe.loading import MAX_DIGITS, SWEEP_KEYS, Checks, check
from isheep.recipe.schema import Recipe, merge_settings
from isheep.recipe.source import RecipeSource, apply_overrides, find_recipe, lay_over, read_source, set_key

_MEANINGS = {"settings": "names to what differs, or a list of recipe files", "grid": "keys to lists of values"}

# A text as a value in the name of a setting as earlier versions wrote it.
DASHED_VALUE = re.compile(r"(?<==)-(.*?)-(?=,|\Z)")

# The folder of a run in a sweep with random seeds, below the folder of its setting.
SEED_FOLDER = re.compile(r"seed-(\d+)")

# A setting's name is the name of a folder: at most this many bytes.
MAX_NAME_LENGTH = 200

MAX_SEEDS = 1000
"""The most random seeds of a sweep that is given their number."""


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

    Earlier versions put dashes around values that are texts: "assessment.read=-constrained-". The name of a run with a
    random seed, SETTING/seed-K, is that of a folder in the setting's folder.
    """
    name, _, seed_folder = name.partition("/")
    folder = out / name
    if not folder.exists() and out.is_dir():
        older = (path for path in sorted(out.iterdir()) if DASHED_VALUE.sub(r"\1", path.name) == name and path.is_dir())
        folder = next(older, folder)
    return folder / seed_folder


# --- random seeds


class SeedChoice(NamedTuple):
    """The random seeds of `--seeds`: a number of them, from the recipe's seed on, or a list."""

    number: int
    listed: tuple[int, ...] = ()

    def numbers(self, first: int) -> list[int]:
        """Return the random seeds, where `first` is that of the recipe."""
        return list(self.listed or range(first, first + self.number))


def parse_seeds(text: str) -> SeedChoice:
    """Return the random seeds that a text means: "5" is their number, "4,5,6" and "4," list them.

    Raises UserError for another text, and for a seed that is listed twice.
    """
    parts = text.removesuffix(",").split(",")
    wrong = f"invalid value for '{option('seeds')}': {excerpt(text)}"
    if not all(part.strip().isdecimal() and len(part) <= MAX_DIGITS for part in parts):
        raise UserError(f"{wrong} is neither a number of random seeds, such as 5, nor a list of them, such as 4,5,6")
    numbers = tuple(map(int, parts))
    if len({*numbers}) < len(numbers):
        raise UserError(f"{wrong} lists a random seed twice")
    if "," in text:
        return SeedChoice(len(numbers), numbers)
    if not 1 <= numbers[0] <= MAX_SEEDS:
        raise UserError(f"{wrong} is no number of random seeds: give 1 to {MAX_SEEDS}, or a list, such as 4,5,6")
    return SeedChoice(numbers[0])


def run_name(setting: str, seed: int) -> str:
    """Return the name of a setting's run with a random seed, which is its folder in the folder of a sweep."""
    return f"{setting}/seed-{seed}"


def parse_run_name(name: str) -> tuple[str, int | None]:
    """Return the setting and the random seed of the name of a run in a sweep; None if the sweep has no seeds."""
    setting, _, folder = name.partition("/")
    match = SEED_FOLDER.fullmatch(folder)
    return setting, int(match[1]) if match else None


def with_seeds(recipes: Mapping[str, Recipe], seeds: SeedChoice | Sequence[int]) -> dict[str, Recipe]:
    """Return every recipe of a sweep with every random seed, by the names SETTING/seed-K; all settings of a seed first.

    Raises UserError if `seeds` is a number and the recipes have different random seeds to count from.
    """
    if isinstance(seeds, SeedChoice):
        first_seeds = sorted({recipe.seed for recipe in recipes.values()})
        if len(first_seeds) > 1:
            raise UserError(
                f"the settings have the random seeds {', '.join(map(str, first_seeds))}, and {option('seeds')} gives "
                "all settings the same ones: leave seed out of the sweep"
            )
        seeds = seeds.numbers(first_seeds[0])
    return {
        run_name(setting, seed): recipe.model_copy(update={"seed": seed})
        for seed in seeds
        for setting, recipe in recipes.items()
    }


# --- reading the file


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
