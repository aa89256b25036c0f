"""Recipes as plain data, where each key knows its location: read from YAML files, with overrides on top."""

import difflib
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel

from isheep import extensions
from isheep.errors import KeyPath, UserError, excerpt, override_place, quote_path
from isheep.files import yaml_files
from isheep.files.reading import read_small_text
from isheep.files.yaml_files import BoundedLoader, line_of
from isheep.recipe.packaged import PACKAGED_SEEDS
from isheep.recipe.schema import merge_settings

_PACKAGE = Path(__file__).parents[1]
# In an installed package, and in a checkout.
RECIPE_FOLDERS = (_PACKAGE / "recipes", _PACKAGE.parent / "recipes")

# A value of these keys may name a file beside the recipe, if it has one of these endings (any, if there is none).
_FILE_KEYS = {"seed_tasks": (), "chat_template": (".jinja",), "prompt": (".yaml", ".yml"), "file": (".yaml", ".yml")}
# A value of these keys may name Python code: file.py:name.
_CODE_KEYS = ("function", "name", "engine", "prompt", "chat_template", "evaluation")


class _Loader(BoundedLoader):
    """A loader that reads every key as a text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        self.flatten_mapping(node)
        # As it is written: the keys of `iteration` look like numbers.
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


class RecipeSource(NamedTuple):
    """A recipe as plain data, and the location of each key, such as "recipes/lamb.yaml line 3"."""

    data: dict[str, Any]
    locations: dict[KeyPath, str]

    def location_of(self, path: KeyPath) -> str:
        """Return the location of a key, or of the nearest key above it that has one."""
        while path and path not in self.locations:
            path = path[:-1]
        return self.locations[path]


def parse_yaml(text: str, name: str, show_lines: bool = True) -> tuple[Any, dict[KeyPath, str]]:
    """Return the value of a YAML text and the location of each key: `name`, and the line if `show_lines` is true.

    Raises UserError if the text is not YAML or is beyond the limits, or a key is given twice.
    """
    value = yaml_files.parse_yaml(text, name, _Loader, show_lines)
    return value, dict(_locations(yaml_files.compose_yaml(text, name, _Loader, show_lines), name, show_lines))


def _locations(
    node: yaml.Node | None, name: str, show_lines: bool, path: KeyPath = ()
) -> Iterator[tuple[KeyPath, str]]:
    """Yield each key and list item of a YAML tree with its location."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            location = line_of(name, key.start_mark, show_lines)
            if key.value in seen:
                raise UserError(f"{location}: key {key.value!r} is given twice")
            seen.add(key.value)
            yield (*path, key.value), location
            yield from _locations(value, name, show_lines, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*path, index), line_of(name, value.start_mark, show_lines)
            yield from _locations(value, name, show_lines, (*path, index))


def read_source(path: Path, resolve_files: bool = True, chain: tuple[Path, ...] = ()) -> RecipeSource:
    """Read a recipe file, laid over the recipe that its `like` names.

    With `resolve_files`, files that exist beside the recipe are replaced by their paths. `chain` holds the files that
    led here by their `like`. Raises UserError if the file can't be read, or is not a mapping.
    """
    try:
        text = read_small_text(path)
    except UserError as error:
        raise UserError(f"recipe {error}") from None
    data, locations = parse_yaml(text, str(path))
    if not isinstance(data, dict):
        raise UserError(f"{path}: a recipe is a mapping of keys to values, such as model: lamb")
    locations[()] = str(path)
    base_name = data.pop("like", None)
    if resolve_files and not _is_saved_recipe(path):
        data = _resolve_files(data, path.parent)
    if base_name is None:
        return RecipeSource(data, locations)
    location = locations[("like",)]
    base_path, chain = find_recipe(str(base_name), path.parent, location), (*chain, path.resolve())
    if base_path.resolve() in chain:
        raise UserError(f"{location}: like leads round in a circle: name a recipe that is not like this one")
    base = read_source(base_path, resolve_files, chain)
    return RecipeSource(merge_settings(base.data, data), {**base.locations, **locations})


def mapping_source(recipe: Mapping[str, Any] | BaseModel) -> RecipeSource:
    """Return a recipe that is a mapping or a Recipe as a source, laid over the recipe that its `like` names."""
    data: dict[str, Any] = plain_data(recipe)
    base_name = data.pop("like", None)
    if base_name is None:
        return RecipeSource(data, {(): "recipe"})
    if not isinstance(base_name, str):
        raise UserError(f"recipe: like {quote_path(base_name)}: give the name of a recipe, or the path of its file")
    base = read_source(find_recipe(base_name, location="recipe: like"))
    locations: dict[KeyPath, str] = {(key,): "recipe" for key in data}
    return RecipeSource(merge_settings(base.data, data), {**base.locations, **locations})


def _is_saved_recipe(path: Path) -> bool:
    """Return whether a file is the recipe of a run folder, whose files are not meant: they are results."""
    return path.name == "recipe.yaml" and (path.parent / "lock").exists()


def _resolve_files(value: Any, folder: Path, key: str = "") -> Any:
    """Replace relative files that exist in `folder` by their paths; other values stay as they are."""
    if isinstance(value, dict):
        return {inner: _resolve_files(entry, folder, inner) for inner, entry in value.items()}
    if isinstance(value, list):
        return [_resolve_files(entry, folder, key) for entry in value]
    if not isinstance(value, str):
        return value
    reference = extensions.parse_reference(value) if key in _CODE_KEYS else None
    if reference and reference.is_file and os.path.isfile(folder / reference.module):
        return f"{folder / reference.module}:{reference.name}"
    if key in _FILE_KEYS and value.endswith(_FILE_KEYS[key] or "") and value not in PACKAGED_SEEDS:
        return str(folder / value) if os.path.isfile(folder / value) else value
    return value


# --- names


def recipe_names() -> list[str]:
    """Return the names of the packaged recipes and sweeps: lamb, paper/qwen1.5-72b, ..."""
    return sorted(
        str(path.relative_to(folder).with_suffix("")) for folder in RECIPE_FOLDERS for path in folder.rglob("*.yaml")
    )


def find_recipe(name: str, folder: Path = Path(), location: str = "") -> Path:
    """Return the file of a recipe: a path, relative to `folder` or the working directory, or a packaged recipe's name.

    Both may omit ".yaml". Raises UserError, which begins with `location`, if there is none.
    """
    stem = name.removesuffix(".yaml")
    packaged = [recipes / f"{stem}.yaml" for recipes in RECIPE_FOLDERS]
    for path in (folder / name, Path(name), *packaged, folder / f"{stem}.yaml"):
        if os.path.isfile(path):
            return path
    nearest = difflib.get_close_matches(stem, recipe_names(), n=1)
    way_out = f"did you mean {nearest[0]}?" if nearest else "give a file, or a name that isheep recipes lists"
    if "/" in name and not nearest and not location and Path(name).suffix not in (".yaml", ".yml"):
        raise UserError(
            f"{quote_path(name)} is neither a recipe nor a run folder: {_similar_run(Path(name)) or way_out}"
        )
    prefix = f"{location}: " if location else ""
    raise UserError(f"{prefix}recipe {quote_path(name)} not found: {way_out}")


def _similar_run(path: Path) -> str | None:
    """Return the question whether a run folder beside a path is meant; None if none has a similar name."""
    siblings = [file.parent.name for file in path.parent.glob("*/recipe.yaml")]
    nearest = difflib.get_close_matches(path.name, siblings, n=1)
    return f"did you mean {quote_path(str(path.with_name(nearest[0])))}?" if nearest else None


def recipe_title(path: Path) -> str:
    """Return what a recipe file's first line says about it, without the command that often follows."""
    first_line = read_small_text(path).partition("\n")[0]
    return first_line.lstrip("# ").partition("   ")[0] if first_line.startswith("#") else ""


# --- overrides


def apply_overrides(source: RecipeSource, overrides: Mapping[str, Any] | Iterable[str]) -> RecipeSource:
    """Return `source` with overrides: {"training.epochs": 1}, or texts such as "training.epochs=1" (values as YAML)."""
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            source = set_key(source, key, plain_data(value, f"override {key}"), f"override {key!r}")
        return source
    for text in overrides:
        key, equals, value_text = text.partition("=")
        location = f"{text!r} {override_place()}"
        if not equals or not key:
            raise UserError(f"{location}: write key=value, such as training.epochs=1")
        value, _ = parse_yaml(value_text, location, show_lines=False)
        source = set_key(source, key, value, location)
    return source


def plain_data(value: Any, path: str = "recipe") -> Any:
    """Return a value without pydantic models, paths and tuples, as YAML would hold it. `path` is its key in messages.

    Raises UserError for an object that YAML has no form for, and for a mapping or a list that contains itself.
    """
    try:
        return _plain(value, path)
    except RecursionError:
        raise UserError(f"{path}: nested too deeply, or a mapping or list that contains itself") from None


def _plain(value: Any, path: str) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _plain(inner, f"{path}.{key}".removeprefix("recipe.")) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, f"{path}.{index}") for index, inner in enumerate(value)]
    if isinstance(value, Path | date):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    description = f"{excerpt(value)} of type {type(value).__name__}"
    raise UserError(f"{path}: {description}: give a text, a number, true or false, a list or a mapping")


def set_key(source: RecipeSource, key: str, value: Any, location: str) -> RecipeSource:
    """Return `source` with a value at "key.sub"; a number in the key is a list index.

    The locations of keys below it are forgotten, because they describe the old value. Raises UserError if the key lies
    inside something that is neither a mapping nor a list.
    """
    path: KeyPath = tuple(int(part) if part.isdecimal() else part for part in key.split("."))
    # The keys of `iteration` are numbers.
    if path[0] == "iteration":
        path = (path[0], *map(str, path[1:2]), *path[2:])
    try:
        data = put(source.data, path, value)
    except KeyError as error:
        raise UserError(f"{location}: there is nothing at {error.args[0]!r} in this recipe to set it in") from None
    remaining = {key: text for key, text in source.locations.items() if key[: len(path)] != path}
    above = {path[:depth]: location for depth in range(1, len(path))}
    return RecipeSource(data, {**above, **remaining, path: location})


def put(container: Any, path: KeyPath, value: Any) -> Any:
    """Return `container` with `value` at `path`. Missing mappings, and those that are null, are made on the way.

    Raises KeyError if a list on the way has no such item, or if something on the way is neither mapping nor list.
    """
    if not path:
        return value
    key, *remaining = path
    if isinstance(container, list) and isinstance(key, int) and key < len(container):
        return [*container[:key], put(container[key], tuple(remaining), value), *container[key + 1 :]]
    if isinstance(container, dict) and isinstance(key, str):
        inner = container.get(key)
        return {**container, key: put({} if inner is None else inner, tuple(remaining), value)}
    raise KeyError(key)


def lay_over(source: RecipeSource, path: KeyPath, changes: dict[str, Any]) -> RecipeSource:
    """Return `source` with the `changes` that are written at `path` (of two keys) laid over its top level."""
    locations = {key[2:]: text for key, text in source.locations.items() if (*map(str, key[:2]),) == path and key[2:]}
    return RecipeSource(merge_settings(source.data, changes), {**source.locations, **locations})
