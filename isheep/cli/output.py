"""Printing to standard output. Progress and notes go to standard error (isheep.rundir.progress)."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from isheep.errors import escape_controls

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


def print_paged(parts: Iterable[RenderableType]) -> None:
    """Print parts, on a terminal through a pager if they are longer than the screen: $PAGER, or less -R.

    An empty PAGER, or one that is not installed, means none.
    """
    from rich.text import Text

    parts, console = list(parts), make_console()
    words = shlex.split(os.environ.get("PAGER", "less -R"))
    if not console.is_terminal or not words or not shutil.which(words[0]):
        return print_parts(parts)
    with console.capture() as capture:
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, Text))
    text = capture.get()
    if text.count("\n") < console.height:
        return print_parts(parts)
    # As git does: with -R, less shows colours.
    environment = {"LESS": "-R", **os.environ}
    # A file and no pipe, which the user could close by leaving the pager.
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as file:
        file.write(text)
        file.seek(0)
        process = subprocess.Popen(words, stdin=file, env=environment)
        while process.poll() is None:
            # Ctrl-C is for the pager.
            with contextlib.suppress(KeyboardInterrupt):
                process.wait()


def print_line(line: str) -> None:
    """Print a line without breaking it. The name of a file in it does not control the terminal."""
    from rich.text import Text

    print_parts([Text(escape_controls(line))])


def print_json(value: Any) -> None:
    """Print a value as indented JSON. A number that JSON does not have, such as nan, becomes null."""
    print(json.dumps(_finite(value), indent=1, ensure_ascii=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
