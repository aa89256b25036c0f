"""Errors whose message is written for the user."""

import difflib
from collections.abc import Iterable, Iterator

KeyPath = tuple[str | int, ...]
"""The path of a key in a recipe: ("filters", 0, "criteria")."""

Conflicts = Iterator[tuple[KeyPath, str]]
"""Settings that can't work together: (the path of the key to change, what is wrong with it in this recipe)."""


class UserError(Exception):
    """An error that the user can correct. The message is one line: the thing, the value found, the way out."""


class TooLong(UserError):
    """A text that does not fit into a model's context."""


def unknown_name(kind: str, name: str, known_names: Iterable[str]) -> str:
    """Return the sentence that a name is not known, with the nearest known one."""
    known_names = list(known_names)
    nearest = difflib.get_close_matches(name, known_names, n=1)
    way_out = f"did you mean {nearest[0]!r}?" if nearest else f"take one of {', '.join(known_names)}"
    return f"{kind} {name!r} is not known: {way_out}"
