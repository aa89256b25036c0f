"""Errors whose message is written for the user."""

from collections.abc import Iterator

KeyPath = tuple[str | int, ...]
"""The path of a key in a recipe: ("filters", 0, "criteria")."""

Conflicts = Iterator[tuple[KeyPath, str]]
"""Settings that can't work together: (the path of the key to change, what is wrong with it in this recipe)."""


class UserError(Exception):
    """An error that the user can correct. The message is one line: the thing, the value found, the way out."""


class TooLong(UserError):
    """A text that does not fit into a model's context."""
