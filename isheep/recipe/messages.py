"""Validation errors of a recipe as sentences: the key, the value found, and the way out."""

import difflib
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from isheep.errors import KeyPath, excerpt, unknown_name
from isheep.filters import filter_kinds
from isheep.recipe.schema import Recipe

# Keys of earlier versions, and of a word that has another meaning: (the section's last key, the key) to the right key.
RENAMED_KEYS: dict[tuple[str, str], str] = {
    ("", "chat"): "chat_template",
    ("", "seeds"): "seed_tasks",
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

NUMBER = "write a number in plain digits, such as 90"
WRITTEN_AS = {"bool_type": "write true or false", "int_type": NUMBER, "float_type": NUMBER}
"""How a value is written, by pydantic's type of the error."""

JUDGE_PATH = ("assessment", "judge")
"""The end of the path of the rating judge, which is one of two names or a mapping."""


def first_error(errors: list[ErrorDetails]) -> ErrorDetails:
    """Return the error to report: an unknown key first, because it often causes the others.

    What is wrong inside a mapping is reported instead of that it is none of the names which may stand in its place.
    """
    errors = [
        error for error in errors if error["type"] != "literal_error" or not isinstance(error["input"], dict)
    ] or errors
    return next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])


def error_path(error: ErrorDetails) -> KeyPath:
    """Return the path of an error's key, without what pydantic inserts: the kind of a filter, the branch of a union."""
    path = error["loc"]
    if path[:1] == ("filters",) and len(path) > 2:
        return (*path[:2], *path[3:])
    if "prompt" in path[:-1]:
        return path[: path.index("prompt") + 1]
    if path[:2] == JUDGE_PATH[:2] or path[2:4] == JUDGE_PATH[:2]:
        return tuple(part for part in path if part != "RatingJudge" and not str(part).startswith("literal["))
    return path


def describe_error(error: ErrorDetails) -> str:
    """Return what is wrong with one key."""
    path = error_path(error)
    *section, key = path or ("recipe",)
    name = ".".join(map(str, path))
    if "prompt" in error["loc"][:-1]:
        return f"{name} must be a name, a .yaml file, or a mapping of names to texts; found {excerpt(error['input'])}"
    if error["type"] == "literal_error" and path[-2:] == JUDGE_PATH:
        names = "current, base, or a mapping such as {model: NAME} for a model at an endpoint"
        return f"{name} must be {names}; found {excerpt(error['input'])}"
    if error["type"] == "extra_forbidden":
        return _unknown_key(section, str(key), _keys_of(error["loc"][:-1]))
    if error["type"] == "missing":
        return f"key {name!r} is missing"
    # The location of an error in a filter of a known kind has the kind as its third part.
    if path[:1] == ("filters",) and len(error["loc"]) == 2:
        return _wrong_filter(name, error["input"])
    if error["type"] in ("model_type", "model_attributes_type"):
        return f"{name} must be a mapping of {', '.join(_keys_of(error['loc']))}; found {excerpt(error['input'])}"
    if error["type"] == "value_error":
        return f"{name}: {error['ctx']['error']}"
    # A text such as no, 1:30 or 0200 in place of a truth value or a number.
    hint = f": {WRITTEN_AS[error['type']]}" if error["type"] in WRITTEN_AS and isinstance(error["input"], str) else ""
    return f"{name}: {error['msg'][:1].lower()}{error['msg'][1:]}; found {excerpt(error['input'])}{hint}"


def _wrong_filter(name: str, value: object) -> str:
    """Return what is wrong with an entry of `filters` that is no mapping, or has no kind or an unknown one."""
    kinds = filter_kinds()
    if isinstance(value, str) and value in kinds:
        return f"{name} must be a mapping; found {value!r}: write {{kind: {value}}}"
    if not isinstance(value, dict):
        return f"{name} must be a mapping with a kind, one of {', '.join(kinds)}; found {excerpt(value)}"
    if "kind" not in value:
        return f"key '{name}.kind' is missing: take one of {', '.join(kinds)}"
    if not isinstance(value["kind"], str):
        return f"{name}.kind: take one of {', '.join(kinds)}; found {excerpt(value['kind'])}"
    return f"{name}.kind: {unknown_name('filter', value['kind'], kinds)}"


def _unknown_key(section: list[str | int], key: str, keys: list[str]) -> str:
    """Return the sentence that a section has no such key, with the nearest of its keys, or all of them."""
    inside = f" in {'.'.join(map(str, section))}" if section else ""
    new_key = RENAMED_KEYS.get((str(section[-1]) if section else "", key))
    nearest = [new_key] if new_key else difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    way_out = f"did you mean {nearest[0]!r}?" if nearest else f"it has {', '.join(keys)}"
    return f"unknown key {key!r}{inside}: {way_out}"


def _keys_of(location: Iterable[str | int]) -> list[str]:
    """Return the keys of the section at a location of pydantic's, which names the kind of a filter after its index."""
    sections: list[type[BaseModel]] = [Recipe]
    for part in location:
        of_kind = [section for section in sections if part == _kind_of(section)]
        if of_kind:
            sections = of_kind
        elif isinstance(part, str) and part in sections[0].model_fields:
            sections = list(_sections_in(sections[0].model_fields[part].annotation)) or sections
    return list(sections[0].model_fields)


def _kind_of(section: type[BaseModel]) -> str | None:
    """Return the kind of a filter's settings; None for another section."""
    kinds = get_args(section.model_fields["kind"].annotation) if "kind" in section.model_fields else ()
    return kinds[0] if kinds else None


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the sections inside a field's type: Assessment in `Assessment | None`, those of all kinds in a filter."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections_in(inner)
