"""Reading a benchmark's own files: JSON or JSON lines, as a list of rows; texts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isheep.errors import UserError

Row = dict[str, Any]


def rows(path: Path, needed: Sequence[str] = ()) -> list[Row]:
    """The rows of a .json or .jsonl file, each with at least the columns `needed`.

    Raises UserError where it can't be read, where a column is missing, or where there is no row.
    """
    try:
        found = _read(text_of(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: can't be read as JSON: {' '.join(str(error).split())}") from None
    if not found:
        raise UserError(f"{path}: no rows in it")
    for number, row in enumerate(found, 1):
        if not isinstance(row, dict) or (missing := [name for name in needed if row.get(name) is None]):
            what = f"column {missing[0]!r} is missing" if isinstance(row, dict) else f"found {str(row)[:40]!r}"
            raise UserError(f"{path} row {number}: {what}; rows with {', '.join(needed)} are expected")
    return found


def _read(text: str) -> list[Any]:
    """One JSON value, or one on each line."""
    try:
        whole = json.loads(text)
        return whole if isinstance(whole, list) else [whole]
    except ValueError:
        if "\n" not in text.strip():
            raise
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def text_of(path: Path) -> str:
    """A UTF-8 text, without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"{path}: can't be read: {reason}") from None
