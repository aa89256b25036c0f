"""Checks of the arguments of the Python API, so that a wrong one is named before anything is done with it."""

import os
from pathlib import Path

from isheep.errors import UserError, excerpt, is_utf8, quote_path

MAX_NAME_BYTES = 255
"""The longest name of a file that Linux has."""


def path_argument(value: object, name: str) -> Path:
    """Return a path. Raises UserError if the value is no path that a file could have. `name` is the argument's name."""
    if not isinstance(value, str | os.PathLike):
        raise UserError(f"{name} {quote_path(value)}: give the path of a folder, as a text or a Path")
    text = os.fspath(value)
    if not isinstance(text, str) or not text or "\0" in text:
        raise UserError(f"{name} {quote_path(value)}: give a path of at least one character, without a NUL")
    if not is_utf8(text):
        raise UserError(f"{name} {quote_path(value)} is not UTF-8: rename the file or folder, or give another one")
    if any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in Path(text).parts):
        raise UserError(f"{name} {quote_path(value)}: a name in it is longer than {MAX_NAME_BYTES} bytes")
    return Path(text)


def flag_argument(value: object, name: str) -> bool:
    """Return a truth value. Raises UserError for anything else, because a text such as "no" would count as true."""
    if not isinstance(value, bool):
        raise UserError(f"{name} {excerpt(value)}: give True or False")
    return value


def iteration_argument(value: object) -> int | None:
    """Return the number of an iteration, or None. Raises UserError for anything else."""
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UserError(f"iteration {excerpt(value)}: give a whole number, 0 for the base, or None for the result")
    return value
