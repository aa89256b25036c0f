"""A pseudo-terminal as the standard error of a command in the process of a test."""

import contextlib
import os
import re
import threading
from collections.abc import Iterator

import pytest

from isheep.rundir.progress import console

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """What was written to a terminal; `text` has it without the control sequences of the view."""

    def __init__(self) -> None:
        self.content = b""

    @property
    def raw(self) -> str:
        return self.content.decode(errors="replace")

    @property
    def text(self) -> str:
        return CONTROL.sub("", self.raw)


@contextlib.contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """Let standard error be a terminal of 100 columns inside the block. `Terminal.content` is complete after it."""
    monkeypatch.setenv("TERM", "xterm")
    # The console looks once, when it is imported, whether standard error is a terminal.
    monkeypatch.setattr(console, "is_interactive", True)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "40")
    terminal, (reader, writer) = Terminal(), os.openpty()

    def read_all() -> None:
        # The end of a pseudo-terminal is an error on Linux.
        with contextlib.suppress(OSError):
            while data := os.read(reader, 65536):
                terminal.content += data

    thread = threading.Thread(target=read_all)
    thread.start()
    with os.fdopen(writer, "w", encoding="utf-8") as file, contextlib.redirect_stderr(file):
        yield terminal
    thread.join()
    os.close(reader)
