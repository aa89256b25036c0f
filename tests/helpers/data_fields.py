"""The fields of data files: their names, and the contents in which one of them has another value."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

# Values that a field may take, beside those of `changes`.
TEXTS = (
    "A", "B", "C", "E", "1", "2", "import math\nx = 2", "detectable_format:title", "Ann", "third", "raise ValueError",
    "True", "False",
)  # fmt: skip
NUMBERS = (0, 1, 2, 3, 12, 0.001)


def fields_of(value: Any, declared: Sequence[str], path: str = "") -> Iterator[str]:
    """Yield the names of the fields of a row; what lies below a declared one belongs to it."""
    if path in declared:
        yield path
    elif isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from fields_of(inner, declared, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value and all(isinstance(entry, dict) for entry in value):
        for entry in value:
            yield from fields_of(entry, declared, path)
    elif value not in ([], {}) or not any(name.startswith(f"{path}.") for name in declared):
        yield path


def places(value: Any, path: list[str]) -> Iterator[tuple[Any, Any]]:
    """Yield (object, key) for each place of a field in rows."""
    if isinstance(value, list):
        for entry in value:
            yield from places(entry, path)
    elif isinstance(value, dict) and path[0] in value:
        if len(path) == 1:
            yield value, path[0]
        else:
            yield from places(value[path[0]], path[1:])


def changes(value: Any) -> Iterator[Any]:
    """Yield values that a field could have instead."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (number for number in NUMBERS if number != value)
    elif isinstance(value, str):
        yield f"{value} zebra"
        yield from (text for text in TEXTS if text != value)
    elif isinstance(value, dict):
        yield from ({**value, key: replacement} for key, inner in value.items() for replacement in changes(inner))
    elif isinstance(value, list):
        yield from ([*value[:index], replacement, *value[index + 1 :]]
                    for index, inner in enumerate(value) for replacement in changes(inner))  # fmt: skip
        yield value[:-1]


def changed_contents(content: Any, field: str) -> Iterator[Any]:
    """Yield the content with another value of a field, one place and value at a time."""
    for index in range(len(list(places(content, field.split("."))))):
        for replacement in changes(value_at(content, field, index)):
            changed = copy.deepcopy(content)
            holder, key = list(places(changed, field.split(".")))[index]
            holder[key] = replacement
            yield changed


def value_at(content: Any, field: str, index: int) -> Any:
    holder, key = list(places(content, field.split(".")))[index]
    return holder[key]


def changed_everywhere(content: Any, field: str, *values: Any) -> Iterator[Any]:
    """Yield the content with the same value of a field in all places, one value at a time."""
    for value in values:
        changed = copy.deepcopy(content)
        for holder, key in places(changed, field.split(".")):
            holder[key] = value
        yield changed
