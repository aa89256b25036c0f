"""Files of other people's benchmarks, as users bring them: read, or told where they are not as they should be."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isheep.errors import UserError


def text_of(path: Path) -> str:
    """A UTF-8 text, without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text at byte {error.start}") from None
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from None


def json_lines(path: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """The objects of a JSONL file, one to a line; each must have `keys`. Empty lines are passed over."""
    rows = []
    for number, line in enumerate(text_of(path).split("\n"), 1):
        if line.strip():
            try:
                rows.append(_checked(json.loads(line), keys, f"{path} line {number}"))
            except (ValueError, RecursionError):
                raise UserError(f"{path} line {number}: not JSON") from None
    return _some(rows, path)


def json_rows(path: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """The objects of a JSON file that is a list of them; each must have `keys`."""
    try:
        content = json.loads(text_of(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, list):
        raise UserError(f"{path}: a list of objects is wanted, found {_short(content)}")
    return _some([_checked(row, keys, f"{path} entry {n}") for n, row in enumerate(content, 1)], path)


def _checked(row: Any, keys: Sequence[str], place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{place}: an object with {', '.join(keys)} is wanted, found {_short(row)}")
    for key in keys:
        if key not in row:
            raise UserError(f"{place}: {key} is missing; it has {', '.join(map(str, row)) or 'nothing'}"[:300])
    return row


def _some(rows: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    if not rows:
        raise UserError(f"{path}: the file is empty")
    return rows


def _short(value: Any) -> str:
    return repr(value)[:60]
