"""The command line in the process of a test."""

import contextlib
import io
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from isheep.cli import main

ROOT = Path(__file__).parents[2]


class Done(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


class Stdin(io.TextIOWrapper):
    terminal = False

    def isatty(self) -> bool:
        return self.terminal


def isheep(*words: str | Path, typed: bytes = b"") -> Done:
    """The command line in this process, with `typed` as its standard input."""
    out, err, before = io.StringIO(), io.StringIO(), sys.stdin
    sys.stdin = Stdin(io.BytesIO(typed))
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
            main([str(word) for word in words])
    finally:
        sys.stdin = before
    return Done(int(end.value.code or 0), out.getvalue(), err.getvalue())


def refused(*words: str | Path, typed: bytes = b"") -> str:
    """The one line that a command with exit code 2 prints."""
    done = isheep(*words, typed=typed)
    assert done.code == 2 and done.err.count("\n") == 1 and done.err.startswith("isheep: ")
    return done.err


def harmless(text: str) -> str:
    """A second way to say it, for what byte-level tokens can decode to."""
    assert all(char.isprintable() or ord(char) < 0xA0 for char in text)
    return "".join(char if char.isprintable() or char in "\n\t" else f"\\x{ord(char):02x}" for char in text)
