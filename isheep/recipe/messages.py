"""Validation errors of a recipe as sentences: the key, the value found, and the way out."""

import difflib
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from isheep.errors import KeyPath, excerpt
from isheep.recipe.schema import Recipe

# Keys of earlier versions: (the section's last key, the old key) to the new key.
RENAMED_KEYS: dict[tuple[str, str], str] = {
    ("", "chat"): "chat_template",
    ("synthesis", "size"): "batch_size",
    ("response", "size"): "batch_size",
    ("assessment", "size"): "batch_size",
    ("training", "batch"): "batch_size",
    ("training", "rows"): "num_rows",
    ("training", "at_most"): "max_rows",
    ("machine", "batch"): "engine_batch_size",
    ("machine", "rows"): "rows_per_process",
    ("judging", "at_once"): "max_in_flight",
    ("judging", "wait"): "retry_wait",
    ("server", "at_once"): "max_in_flight",
    ("server", "wait"): "retry_wait",
}


def first_error(errors: list[ErrorDetails]) -> ErrorDetails:
    """Return the error to report: an unknown key first, because it often causes the others."""
    return next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])


def error_path(error: ErrorDetails) -> KeyPath:
    """Return the path of an error's key, without what pydantic inserts: the kind of a filter, the branch of a union."""
    path = error["loc"]
    if path[:1] == ("filters",) and len(path) > 2:
        return (*path[:2], *path[3:])
    if "prompt" in path[:-1]:
        return path[: path.index("prompt") + 1]
    return path


def describe_error(error: ErrorDetails) -> str:
    """Return what is wrong with one key."""
    path = error_path(error)
    *section, key = path or ("recipe",)
    name = ".".join(map(str, path))
    if "prompt" in error["loc"][:-1]:
        return f"{name} must be a name, a .yaml file, or a mapping of names to texts; found {excerpt(error['input'])}"
    if error["type"] == "extra_forbidden":
        return _unknown_key(section, str(key))
    if error["type"] == "missing":
        return f"key {name!r} is missing"
    if error["type"] in ("model_type", "model_attributes_type"):
        return f"{name} must be a mapping of {', '.join(_keys_of(path))}; found {excerpt(error['input'])}"
    if error["type"] == "union_tag_invalid":
        return f"{name}.kind: take one of {error['ctx']['expected_tags']}; found {error['ctx']['tag']!r}"
    if error["type"] == "union_tag_not_found":
        return f"key '{name}.kind' is missing"
    if error["type"] == "value_error":
        return f"{name}: {error['ctx']['error']}"
    return f"{name}: {error['msg'][:1].lower()}{error['msg'][1:]}; found {excerpt(error['input'])}"


def _unknown_key(section: list[str | int], key: str) -> str:
    inside = f" in {'.'.join(map(str, section))}" if section else ""
    keys = _keys_of(section)
    new_key = RENAMED_KEYS.get((str(section[-1]) if section else "", key))
    nearest = [new_key] if new_key else difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    way_out = f"did you mean {nearest[0]!r}?" if nearest else f"it has {', '.join(keys)}"
    return f"unknown key {key!r}{inside}: {way_out}"


def _keys_of(path: Iterable[str | int]) -> list[str]:
    """Return the keys that a section of a recipe may have."""
    section: type[BaseModel] = Recipe
    for part in path:
        if isinstance(part, str) and part in section.model_fields:
            section = _section_in(section.model_fields[part].annotation) or section
    return list(section.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """Return the section inside a field's type, such as Assessment in `Assessment | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((section for inner in get_args(annotation) if (section := _section_in(inner))), None)
