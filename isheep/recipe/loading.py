"""Recipes in YAML: found by name, read with line numbers, overridden by words of the command line, written back."""

import difflib
import itertools
import json
import re
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from isheep.errors import KeyPath, UserError
from isheep.recipe.schema import JudgeSettings, Recipe, merge_settings
from isheep.recipe.validation import conflicts

# The keys of a sweep that a recipe does not have, and what they are.
SWEEP = {"settings": "names to what differs, or a list of recipe files", "grid": "keys to lists of values"}
LONGEST = 200  # characters in the name of a setting, which a folder has
HERE = Path(__file__).parents[1]
FOLDERS = (HERE / "recipes", HERE.parent / "recipes")  # in an installed package; in a checkout


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 5e-5 as text; this loader reads it as the number that everybody means. Keys are always texts."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        return {str(key): value for key, value in super().construct_mapping(node, deep).items()}


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


class RecipeSource(NamedTuple):
    """A recipe as read: plain data, and where each key stands ("recipes/lamb.yaml line 3")."""

    data: dict[str, Any]
    places: dict[KeyPath, str]


def _parse(text: str, name: str) -> tuple[Any, dict[KeyPath, str]]:
    """A YAML text's value, and where each of its keys stands. A key given twice raises UserError."""
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506  a SafeLoader
        return value, dict(_places(yaml.compose(text, Loader=_Loader), name))
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{name}{line}: not YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{name}: not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise UserError(f"{name}: nested too deeply, or an alias that stands inside itself") from None


def _places(node: yaml.Node | None, name: str, path: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Each key and list item of a YAML tree with its line. A key given twice raises UserError."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise UserError(f"{name} line {key.start_mark.line + 1}: key {key.value!r} is given twice")
            seen.add(key.value)
            yield (*path, key.value), f"{name} line {key.start_mark.line + 1}"
            yield from _places(value, name, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*path, index), f"{name} line {value.start_mark.line + 1}"
            yield from _places(value, name, (*path, index))


def _read(path: Path, above: tuple[Path, ...] = ()) -> RecipeSource:
    """A recipe file, on top of the file that its `like` names. `above` are those that led here, by their `like`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path}: can't be read: {getattr(error, 'strerror', None) or error}") from None
    data, places = _parse(text, str(path))
    if not isinstance(data, dict):
        raise UserError(f"{path}: a recipe is a mapping of keys to values, such as model: lamb")
    places[()] = str(path)
    if "like" not in data:
        return RecipeSource(data, places)
    other, above = path.parent / str(data.pop("like")), (*above, path.resolve())
    if other.resolve() in above:
        raise UserError(f"{places[('like',)]}: like leads round in a circle: name a recipe that is not like this one")
    below = _read(other, above)
    return RecipeSource(merge_settings(below.data, data), {**below.places, **places})


def _put(inside: Any, path: KeyPath, value: Any) -> Any:
    """`inside` with `value` at `path`; mappings on the way are made, lists are not. Raises KeyError."""
    if not path:
        return value
    key, *rest = path
    if isinstance(inside, list) and isinstance(key, int) and key < len(inside):
        return [*inside[:key], _put(inside[key], tuple(rest), value), *inside[key + 1 :]]
    if isinstance(inside, dict) and isinstance(key, str):
        return {**inside, key: _put(inside.get(key, {}), tuple(rest), value)}
    raise KeyError(key)


def _override(source: RecipeSource, word: str) -> RecipeSource:
    """`source` with the value of one "key.sub=value"; the value is read as YAML."""
    key, equals, text = word.partition("=")
    place = f"{word!r} on the command line"
    if not equals or not key:
        raise UserError(f"{place}: write key=value, such as training.epochs=1")
    value, _ = _parse(text, place)
    return _set(source, key, value, place)


def _set(source: RecipeSource, key: str, value: Any, place: str) -> RecipeSource:
    """`source` with a value at "key.sub"; a number in it is a place in a list. `place` is where that is asked for."""
    path: KeyPath = tuple(int(part) if part.isdecimal() else part for part in key.split("."))
    if path[0] == "iteration":  # whose numbers are keys
        path = (path[0], *map(str, path[1:2]), *path[2:])
    try:
        data = _put(source.data, path, value)
    except KeyError as error:
        raise UserError(f"{place}: there is nothing at {error.args[0]!r} in this recipe to set it in") from None
    above = {path[:depth]: place for depth in range(1, len(path))}
    return RecipeSource(data, {**above, **source.places, path: place})


def _model_in(kind: Any) -> type[BaseModel] | None:
    """The section inside a field's type, such as Assessment in `Assessment | None`."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return next((found for inner in get_args(kind) if (found := _model_in(inner))), None)


def _keys_of(path: Iterable[str | int]) -> list[str]:
    """The keys that a recipe may have at a place."""
    kind: type[BaseModel] = Recipe
    for part in path:
        if isinstance(part, str) and part in kind.model_fields:
            kind = _model_in(kind.model_fields[part].annotation) or kind
    return list(kind.model_fields)


def _at(places: dict[KeyPath, str], path: KeyPath) -> str:
    """Where a key stands, or the nearest key above it that does, or the file."""
    while path and path not in places:
        path = path[:-1]
    return places[path]


def _sentence(error: ErrorDetails) -> str:
    """What is wrong with one key, in words."""
    *above, last = error["loc"] or ("recipe",)
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        known = _keys_of(above)
        near = difflib.get_close_matches(str(last), known, n=1, cutoff=0.5)
        inside = f" in {'.'.join(map(str, above))}" if above else ""
        way_out = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
        return f"unknown key {last!r}{inside}: {way_out}"
    if error["type"] == "missing":
        return f"key {where!r} is missing"
    if error["type"] in ("model_type", "model_attributes_type"):
        return f"{where} must be a mapping of {', '.join(_keys_of(error['loc']))}; found {error['input']!r}"
    if error["type"] == "union_tag_invalid":
        return f"{where}.kind: take one of {error['ctx']['expected_tags']}; found {error['ctx']['tag']!r}"
    if error["type"] == "union_tag_not_found":
        return f"key '{where}.kind' is missing"
    if error["type"] == "value_error":
        return f"{where}: {error['ctx']['error']}"
    return f"{where}: {error['msg'][:1].lower()}{error['msg'][1:]}; found {error['input']!r}"


def _check(source: RecipeSource) -> Recipe:
    """The recipe that the data spell out, each key right by itself. Raises UserError: one line, with the place."""
    try:  # JSON's strict reading: no text for a number, no 1 for true, but lists where the recipe has tuples
        return Recipe.model_validate_json(json.dumps(source.data, default=str), strict=True)
    except ValidationError as failed:
        errors = failed.errors(include_url=False)
        error = next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])
        if error["loc"][:1] == ("filters",) and len(error["loc"]) > 2:  # pydantic names the kind of filter too
            error["loc"] = (*error["loc"][:2], *error["loc"][3:])
        raise UserError(f"{_at(source.places, error['loc'])}: {_sentence(error)}") from None


def _agreed(source: RecipeSource) -> Recipe:
    """`_check`, of iterations that do something otherwise too, and keys agree with each other and with prompt files."""
    recipe = _check(source)
    first = next(t for t in itertools.count(1) if t not in recipe.iteration)  # that does nothing otherwise
    sources = {first: source} | {t: _iteration(source, t) for t in recipe.iteration}
    for t, one in {t: _check(one) for t, one in sources.items()}.items():
        for place, wrong in conflicts(one, t):
            raise UserError(f"{_at(sources[t].places, place)}: {'.'.join(map(str, place))}: {wrong}")
    return recipe


def _iteration(source: RecipeSource, t: int) -> RecipeSource:
    """What a recipe is in iteration t."""
    rest = {key: value for key, value in source.data.items() if key != "iteration"}
    name, changes = next((name, value) for name, value in source.data["iteration"].items() if float(name) == t)
    return _changed(RecipeSource(rest, source.places), ("iteration", name), changes)


def _changed(source: RecipeSource, above: KeyPath, changes: dict[str, Any]) -> RecipeSource:
    """`source` with what stands at `above` laid over it."""
    places = {path[2:]: place for path, place in source.places.items() if (*map(str, path[:2]),) == above and path[2:]}
    return RecipeSource(merge_settings(source.data, changes), {**source.places, **places})


def recipe_names() -> list[str]:
    """The recipes that come with the package, as `find` takes them: lamb, paper/qwen1.5-72b, ...; sweeps too."""
    return sorted(str(path.relative_to(top).with_suffix("")) for top in FOLDERS for path in top.rglob("*.yaml"))


def is_sweep(path: Path) -> bool:
    """Whether a file is a sweep, for `load_sweep`, and not a recipe."""
    return bool(_read(path).data.keys() & SWEEP.keys())


def find_recipe(name: str) -> Path:
    """The file of a recipe: a path, or the name of one that comes with the package."""
    for path in (Path(name), *(top / f"{name}.yaml" for top in FOLDERS)):
        if path.is_file():
            return path
    near = difflib.get_close_matches(name, recipe_names(), n=1)
    raise UserError(
        f"recipe {name!r} not found: " + (f"did you mean {near[0]}?" if near else f"{', '.join(recipe_names())}")
    )


def load_recipe(path: Path, overrides: Iterable[str] = ()) -> Recipe:
    """The recipe of a file, with "key.sub=value" words over it. Raises UserError in one line."""
    source = _read(path)
    if is_sweep(path):
        raise UserError(f"{path} is a sweep over many settings: run it with isheep sweep {path}")
    for word in overrides:
        source = _override(source, word)
    return _agreed(source)


def parse_judge(text: str) -> JudgeSettings:
    """A judge as a recipe's evaluation has it, from a word of the command line: the entry in YAML, or a name alone.

    Raises UserError in one line.
    """
    place = f"--judge {text}"
    value, _ = _parse(text, place) if text.lstrip().startswith("{") else ({"model": text}, {})
    try:
        return JudgeSettings.model_validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as failed:
        error = failed.errors(include_url=False)[0]
        keys = f"; it has {', '.join(JudgeSettings.model_fields)}" if error["type"] == "extra_forbidden" else ""
        raise UserError(f"{place}: {'.'.join(map(str, error['loc']))}: {error['msg'].lower()}{keys}") from None


def load_saved_recipe(path: Path) -> Recipe:
    """The recipe of a run folder, checked when the run began: the prompt file that it names may be elsewhere now."""
    return _check(_read(path))


def load_sweep(path: Path, overrides: Iterable[str] = ()) -> dict[str, Recipe]:
    """The recipes of a sweep by name: a recipe file that has `settings`, `grid` or both beside what all have in common.

    `settings` names what differs, and it is laid over the rest as a file over the one that it is `like`; or it lists
    recipe files, and the rest is laid over each. `grid` gives "key.sub" a list of values, and all combinations are
    taken. Raises UserError in one line.
    """
    source = _read(path)
    if not source.data.keys() & SWEEP.keys():
        raise UserError(f"{path} is no sweep, it has neither settings nor grid: run it with isheep run {path}")
    parts = {key: source.data.pop(key, None) or {} for key in SWEEP}
    for key, values in parts.items():
        if not isinstance(values, dict | list if key == "settings" else dict):
            raise UserError(f"{source.places[(key,)]}: {key} must map {SWEEP[key]}")
    for word in overrides:
        source = _override(source, word)
    found: dict[str, Recipe] = {}
    for name, changed in _settings(source, parts["settings"], path).items():
        for values, recipe in _grid(changed, parts["grid"]):
            label = re.sub(r"[^\w.=,+-]+", "-", ",".join([name] * bool(name) + values)).lstrip(".")
            if label in found:
                raise UserError(f"{path}: two settings are named {label!r}")
            if not 0 < len(label) <= LONGEST:
                wrong = f"the folder of a setting would be named {label!r}: 1 to {LONGEST} characters are needed"
                raise UserError(f"{path}: {wrong}; name it under settings")
            found[label] = _agreed(recipe)
    return found


def _settings(source: RecipeSource, settings: dict[str, Any] | list[Any], path: Path) -> dict[str, RecipeSource]:
    """The named settings, each over what all have in common; that alone, without a name, where there are none."""
    found: dict[str, RecipeSource] = {}
    if isinstance(settings, list):
        for file in map(Path, map(str, settings)):
            below = _read(path.parent / file)
            if below.data.keys() & SWEEP.keys():
                raise UserError(f"{path}: {file} is a sweep itself: list the recipes that it is made of")
            if file.stem in found:
                raise UserError(f"{path}: two settings are named {file.stem!r}")
            found[file.stem] = RecipeSource(merge_settings(below.data, source.data), below.places | source.places)
        return found
    for name, changes in settings.items():
        above: KeyPath = ("settings", name)
        if not isinstance(changes, dict):
            raise UserError(f"{source.places[above]}: setting {name!r} must be a mapping of keys to values")
        found[name] = _changed(source, above, changes)
    return found or {"": source}


def _grid(source: RecipeSource, grid: dict[str, Any]) -> Iterator[tuple[list[str], RecipeSource]]:
    """All combinations of a grid's values, each as ["key.sub=value", ...] and what it makes of `source`."""
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise UserError(f"{_at(source.places, ('grid', str(key)))}: grid.{key} must be a list of values")
    for values in itertools.product(*grid.values()):
        changed = source
        for key, value in zip(grid, values, strict=True):
            changed = _set(changed, str(key), value, _at(source.places, ("grid", str(key))))
        yield [f"{key}={json.dumps(value)}" for key, value in zip(grid, values, strict=True)], changed


def dump_recipe(recipe: Recipe) -> str:
    """The whole recipe as YAML, every default spelled out; `load` reads it back to an equal recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def differences(old: Recipe, new: Recipe) -> list[str]:
    """The keys that two recipes disagree on, as "training.epochs: 2 -> 3"."""

    def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from flat(inner, f"{path}.{key}" if path else key)
        else:
            yield path, value

    before, after = dict(flat(old.model_dump(mode="json"))), dict(flat(new.model_dump(mode="json")))
    return [
        f"{key}: {json.dumps(before.get(key))} -> {json.dumps(after.get(key))}"
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    ]


def recipe_title(path: Path) -> str:
    """What a recipe file's first line says about it, without the command that often follows."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ").partition("   ")[0] if first.startswith("#") else ""
