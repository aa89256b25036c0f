"""The events of a run, the lines of run.jsonl: what happened, when, and at what cost. No result depends on them."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from isheep.errors import UserError
from isheep.files.reading import MAX_BYTES

EVENTS_FILE = "run.jsonl"

# Added to the monotonic time, it gives the seconds since 1970, which go on evenly if the clock is set meanwhile.
START_TIME = time.time() - time.monotonic()


class _Event(BaseModel):
    """The types of the values that are read; an event may have others."""

    model_config = ConfigDict(extra="allow", strict=True)

    time: float = 0
    file: str = ""
    note: str = ""
    seconds: float = 0
    rows: int = 0
    num_made: int = Field(0, alias="made")
    tokens: int = 0
    shared_from: str = ""
    peak_memory: dict[str, int] | None = None
    started: dict[str, str] = {}
    plan: list[dict[str, Any]] = []


def read_events(root: Path) -> list[dict[str, Any]]:
    """Return the events of a run, without lines that are none (`damaged_events`)."""
    return [event for _, event in _events(root) if event is not None]


def damaged_events(root: Path) -> str | None:
    """Return a line about lines of run.jsonl that are no events, None if there are none.

    A kill leaves none behind: the next start of the run removes the last line if it is torn.
    """
    numbers = [number for number, event in _events(root) if event is None]
    if not numbers:
        return None
    lines = f"line {numbers[0]} is no event" if len(numbers) == 1 else f"{len(numbers)} lines are no events"
    return f"{root / EVENTS_FILE}: {lines}; times and costs of the run may lack something, its results do not"


def append_event(root: Path, fields: Mapping[str, Any]) -> None:
    """Append a line to run.jsonl with the time."""
    with (root / EVENTS_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"time": round(START_TIME + time.monotonic(), 3), **fields}) + "\n")


def remove_torn_event(root: Path) -> None:
    """Remove the last line if a kill has torn it, so that the next line is complete."""
    path = root / EVENTS_FILE
    if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)


def _events(root: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield each line by its number, from 1 on: the event, or None if the line is none.

    The last line is left out if it has no end: it is being written, or was torn by a kill.
    """
    path = root / EVENTS_FILE
    if not path.exists():
        return
    if (size := path.stat().st_size) > MAX_BYTES:
        raise UserError(
            f"{path}: {size:,} bytes, and at most {MAX_BYTES:,} are read: move it away, because no result depends on it"
        )
    *lines, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        try:
            _Event.model_validate_json(line)
            yield number, json.loads(line)
        except (ValidationError, ValueError, RecursionError):
            yield number, None
