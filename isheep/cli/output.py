"""Printing to standard output. Progress and notes go to standard error (isheep.rundir.progress)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def make_console() -> Console:
    """Return a console on standard output."""
    from rich.console import Console

    return Console(highlight=False)


def print_parts(parts: Iterable[RenderableType]) -> None:
    """Print tables and texts. Lines of text are never broken, so that paths in them can be copied."""
    from rich.text import Text

    console = make_console()
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, Text))


def print_line(line: str) -> None:
    """Print a line without breaking it."""
    from rich.text import Text

    print_parts([Text(line)])


def print_json(value: Any) -> None:
    """Print a value as indented JSON. A number that JSON does not have, such as nan, becomes null."""
    print(json.dumps(_finite(value), indent=1, ensure_ascii=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
