"""Load recipes: read from a file or a mapping, with overrides, checked; errors say where and what to write instead."""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from isheep import extensions
from isheep.errors import Conflicts, KeyPath, UserError, excerpt, is_utf8, option, override_place, shell_word
from isheep.files.reading import read_small_text
from isheep.files.yaml_files import dump_yaml
from isheep.recipe.evaluation import JudgeSettings
from isheep.recipe.messages import describe_error, error_path, first_error
from isheep.recipe.schema import Recipe
from isheep.recipe.source import (
    RecipeSource,
    apply_overrides,
    find_recipe,
    lay_over,
    mapping_source,
    parse_yaml,
    put,
    read_source,
    recipe_names,
    recipe_title,
)

__all__ = ["Checks", "find_recipe", "load_recipe", "recipe_names", "recipe_title"]

Checks = tuple[Callable[[Recipe, int], Conflicts], ...]
"""Functions that yield the conflicts of a recipe, as it is in an iteration: check(recipe, iteration)."""

# The keys of a sweep that a recipe does not have.
SWEEP_KEYS = ("settings", "grid")

MAX_DIGITS = 18
"""The number of digits of the largest number in a recipe; it fits into 64 bits."""


class RecipeError(UserError):
    """A mistake in a recipe, and its location: a line of a file, or an override."""

    def __init__(self, location: str, message: str) -> None:
        super().__init__(f"{location}: {message}")
        self.location, self.message = location, message


def load_recipe(
    recipe: str | Path | Mapping[str, Any] | Recipe, overrides: Mapping[str, Any] | Iterable[str], checks: Checks
) -> Recipe:
    """Return a checked recipe: a packaged one by its name, a YAML file, a mapping, or a Recipe, with overrides.

    Raises UserError in one line.
    """
    source = open_source(recipe)
    if source.data.keys() & set(SWEEP_KEYS):
        path = source.locations[()]
        raise UserError(f"{path} is a sweep over many settings: run it with isheep sweep {shell_word(path)}")
    if isinstance(overrides, str) or not isinstance(overrides, Mapping | Iterable):
        raise UserError(f"overrides {excerpt(overrides)}: give a mapping or a list such as ['training.epochs=1']")
    if not isinstance(overrides, Mapping):
        overrides = list(overrides)
    if not all(isinstance(key, str) for key in overrides):
        raise UserError(f"overrides {excerpt(overrides)}: each key must be a text such as training.epochs")
    overridden = apply_overrides(source, overrides)
    try:
        return check(overridden, checks)
    except RecipeError as error:
        is_located = error.location not in source.locations.values()
        if not overrides or is_located or not _is_valid(source, [], checks):
            raise
        # The file by itself is correct, so the overrides are to blame.
        raise UserError(f"{_overrides_text(_overrides_to_blame(source, overrides, checks))}: {error.message}") from None


def open_source(recipe: str | Path | Mapping[str, Any] | Recipe) -> RecipeSource:
    """Return a recipe as plain data with locations."""
    if not isinstance(recipe, str | Path | Mapping | Recipe):
        raise UserError(f"recipe {excerpt(recipe)}: give a name, a path, a mapping or a Recipe")
    if isinstance(recipe, str | Path):
        return read_source(find_recipe(str(recipe)))
    return mapping_source(recipe)


def _overrides_to_blame(
    source: RecipeSource, overrides: Mapping[str, Any] | list[str], checks: Checks
) -> Mapping[str, Any] | list[str]:
    """Return each override without which the recipe is correct; all overrides if there is no such one."""
    if isinstance(overrides, Mapping):
        variants = {key: {name: overrides[name] for name in overrides if name != key} for key in overrides}
        return {key: overrides[key] for key in overrides if _is_valid(source, variants[key], checks)} or overrides
    texts = list(overrides)
    return [
        text for index, text in enumerate(texts) if _is_valid(source, [*texts[:index], *texts[index + 1 :]], checks)
    ] or texts


def _overrides_text(overrides: Mapping[str, Any] | Iterable[str]) -> str:
    texts = ", ".join(map(repr, overrides))
    return f"overrides {texts}" if isinstance(overrides, Mapping) else f"{texts} {override_place()}"


def _is_valid(source: RecipeSource, overrides: Mapping[str, Any] | list[str], checks: Checks) -> bool:
    try:
        check(apply_overrides(source, overrides), checks)
    except UserError:
        return False
    return True


def is_sweep(path: Path) -> bool:
    """Return whether a file is a sweep rather than a recipe."""
    return bool(read_source(path).data.keys() & set(SWEEP_KEYS))


def validate(source: RecipeSource) -> Recipe:
    """Return the recipe that plain data spell out, each key checked by itself. Raises RecipeError."""
    for path, why in _odd_values(source.data):
        raise RecipeError(source.location_of(path), f"{'.'.join(map(str, path))}: {why}")
    try:
        # JSON's strict mode: no text for a number and no 1 for true, but lists for tuples.
        return Recipe.model_validate_json(json.dumps(source.data, default=str), strict=True)
    except ValidationError as failed:
        error = first_error(failed.errors(include_url=False))
        raise RecipeError(source.location_of(error_path(error)), describe_error(error)) from None


def _odd_values(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Yield the paths of whole numbers that are too large to be meant and of texts that JSON can't hold, with why."""
    if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
        yield path, f"a number of more than {MAX_DIGITS} digits; give a smaller one"
    if isinstance(value, str) and not is_utf8(value):
        yield path, "a text that is not UTF-8, as of a file with such a name; rename the file or folder"
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _odd_values(inner, (*path, key))


def check(source: RecipeSource, checks: Checks) -> Recipe:
    """Return the recipe of plain data after all checks, also of iterations that differ. Raises RecipeError."""
    source = inline_texts(source)
    recipe = validate(source)
    ordinary = next(number for number in itertools.count(1) if number not in recipe.iteration)
    sources = {ordinary: source} | {number: _iteration_source(source, number) for number in recipe.iteration}
    variants = {number: validate(iteration_source) for number, iteration_source in sources.items()}
    for number, variant in variants.items():
        for find_conflicts in checks:
            for path, why in find_conflicts(variant, number):
                raise RecipeError(sources[number].location_of(path), f"{'.'.join(map(str, path))}: {why}")
    return recipe


def inline_texts(source: RecipeSource) -> RecipeSource:
    """Replace a .jinja file, and prompts or a chat template named as module:name, by their texts.

    So a run folder holds them. Raises RecipeError with the location if code is not allowed, or a text can't be read.
    """
    data = source.data
    for path, value in _text_keys(source.data):
        try:
            data = put(data, path, _read_text(value, str(path[-1])))
        except UserError as error:
            raise RecipeError(source.location_of(path), f"{'.'.join(map(str, path))}: {error}") from error
    return RecipeSource(data, source.locations)


def _text_keys(data: dict[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Yield the keys of prompts and of the chat template whose value is a reference to code, or a .jinja file."""
    sections: list[tuple[KeyPath, Any]] = [((), data)]
    iterations = data.get("iteration")
    if isinstance(iterations, dict):
        sections += [(("iteration", number), changes) for number, changes in iterations.items()]
    for path, section in sections:
        for name in ("synthesis", "response", "assessment"):
            inner = section.get(name) if isinstance(section, dict) else None
            prompt = inner.get("prompt") if isinstance(inner, dict) else None
            if isinstance(prompt, str) and extensions.parse_reference(prompt):
                yield (*path, name, "prompt"), prompt
    template = data.get("chat_template")
    if isinstance(template, str) and (template.endswith(".jinja") or extensions.parse_reference(template)):
        yield ("chat_template",), template


def _read_text(value: str, key: str) -> Any:
    """Return the text of a .jinja file, or what code gives: a text for chat_template, texts by name for prompt."""
    if value.endswith(".jinja"):
        return read_small_text(Path(value))
    loaded = extensions.load_object(value, key.replace("_", " "))
    if key == "chat_template" and isinstance(loaded, str):
        return loaded
    if key == "prompt" and isinstance(loaded, Mapping) and all(isinstance(text, str) for text in loaded.values()):
        return dict(loaded)
    needed = "a text" if key == "chat_template" else "a mapping of names to texts"
    raise UserError(f"{value} is a {type(loaded).__name__}: make it {needed}")


def _iteration_source(source: RecipeSource, number: int) -> RecipeSource:
    """Return the recipe as it is in one iteration."""
    shared = {key: value for key, value in source.data.items() if key != "iteration"}
    iterations: dict[str, dict[str, Any]] = source.data["iteration"]
    key = next(name for name in iterations if float(name) == number)
    return lay_over(RecipeSource(shared, source.locations), ("iteration", key), iterations[key])


def load_saved_recipe(path: Path) -> Recipe:
    """Return the recipe of a run folder. It was checked when the run began; files that it names may be gone."""
    return validate(read_source(path, resolve_files=False))


def load_saved_settings(path: Path) -> dict[str, Any]:
    """Return the keys in the recipe file of a run folder, without the defaults of keys that it does not have."""
    return read_source(path, resolve_files=False).data


def parse_judge(text: str) -> JudgeSettings:
    """Return the judge that the command line gives: a model's name, or an entry {...} as in a recipe's evaluation.

    Raises UserError in one line.
    """
    location = f"{option('judge')} {text}"
    value = parse_yaml(text, location, show_lines=False)[0] if text.lstrip().startswith("{") else {"model": text}
    try:
        return JudgeSettings.model_validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as failed:
        error = failed.errors(include_url=False)[0]
        keys = f"; it has {', '.join(JudgeSettings.model_fields)}" if error["type"] == "extra_forbidden" else ""
        raise UserError(f"{location}: {'.'.join(map(str, error['loc']))}: {error['msg'].lower()}{keys}") from None


def dump_recipe(recipe: Recipe) -> str:
    """Return the whole recipe as YAML, with every default; loading it returns an equal recipe.

    A date is written only if there is one: most recipes have none, and their runs do not depend on it.
    """
    data = recipe.model_dump(mode="json", exclude={"date"} if recipe.date is None else set())
    return dump_settings(data)


def dump_settings(settings: Mapping[str, Any]) -> str:
    """Return the settings of a recipe as YAML."""
    return dump_yaml(settings, sort_keys=False, allow_unicode=True, width=120)


def differences(old: Recipe, new: Recipe) -> list[str]:
    """Return the keys in which two recipes differ, as "training.epochs: 2 -> 3"."""
    old_values, new_values = (dict(_flatten(recipe.model_dump(mode="json"))) for recipe in (old, new))
    return [
        f"{key}: {json.dumps(old_values.get(key))} -> {json.dumps(new_values.get(key))}"
        for key in {**old_values, **new_values}
        if old_values.get(key) != new_values.get(key)
    ]


def changed_settings(old: Recipe, new: Recipe) -> list[str]:
    """Return the settings that turn one recipe into another on the command line, as `training.epochs=3`."""
    old_values, new_values = (recipe.model_dump(mode="json", exclude={"date"}) for recipe in (old, new))
    return list(_overrides_between(old_values, new_values, new.model_dump(mode="json", exclude_defaults=True)))


def _overrides_between(old: Any, new: Any, changed: Any, path: str = "") -> Iterator[str]:
    """Yield the overrides for the values that differ. `changed` is `new` without its defaults."""
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        for key, value in new.items():
            inner = changed.get(key) if isinstance(changed, dict) else None
            yield from _overrides_between(old[key], value, inner, f"{path}.{key}" if path else key)
    elif old != new:
        yield f"{path}={json.dumps(_without_nulls(new, changed))}"


def _without_nulls(value: Any, changed: Any) -> Any:
    """Return a value without the keys in its entries, such as those of filters, that are null by default."""
    if not isinstance(value, list) or not isinstance(changed, list):
        return value
    return [
        {key: item for key, item in entry.items() if item is not None or key in changed_entry}
        if isinstance(entry, dict)
        else entry
        for entry, changed_entry in zip(value, changed, strict=True)
    ]


def _flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flatten(inner, f"{path}.{key}" if path else key)
    else:
        yield path, value
