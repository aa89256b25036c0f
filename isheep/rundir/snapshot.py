"""The state of a run at a moment, as the live view shows it and as progress.json in the run folder holds it."""

import os
import time
from pathlib import Path

from pydantic import ValidationError

from isheep.errors import UserError, shell_word
from isheep.records import Record

PROGRESS_FILE = "progress.json"


class Snapshot(Record):
    """What a run is doing. `rows` counts the unit of the stage: replies, pairs, items, or steps of a training."""

    iteration: int | None = None
    """0 is the base model; None if the work belongs to no iteration."""
    iterations: int = 0
    stage: str
    """In words, such as "Writing answers"."""
    rows: int = 0
    total: int | None = None
    unit: str = "rows"
    total_is_estimate: bool = False
    tokens_per_second: float | None = None
    seconds: float = 0
    """Since the stage began in this process."""
    seconds_left: float | None = None
    """Of the stage. None as long as nothing can be said."""
    facts: dict[str, str] = {}
    """Short texts by name, such as the share of pairs kept so far, and the loss."""
    example: dict[str, str] = {}
    """A fresh text of the model by field. It is untrusted: a terminal needs its control characters escaped."""


def expected_tokens(num_requests: int, num_finished: int, num_tokens: int, limit: int | None) -> float | None:
    """Return how many tokens `num_requests` requests will have in all, `limit` being the most of one of them.

    `num_tokens` have been written so far, in `num_finished` finished requests and in unfinished ones. The mean length
    is estimated from both: the tokens written for each one that ended, as for lifetimes of which some are not over
    yet, with one more request of full length. So the estimate begins with the worst case and gets better with each
    request that ends. None if there is no limit and nothing has ended.
    """
    if limit is None:
        return num_requests * num_tokens / num_finished if num_finished else None
    mean = min(limit, (num_tokens + limit) / (num_finished + 1))
    return num_requests * mean


def write_snapshot(run_dir: Path, snapshot: Snapshot) -> None:
    """Replace progress.json, so that a reader sees the old content or the new one. Does not wait for the disk."""
    part = run_dir / f"{PROGRESS_FILE}.part"
    part.write_text(snapshot.model_dump_json() + "\n", encoding="utf-8", errors="replace")
    os.replace(part, run_dir / PROGRESS_FILE)


def read_snapshot(run_dir: Path) -> tuple[Snapshot, float] | None:
    """Return the state in progress.json and its age in seconds; None without such a file.

    Raises UserError if the file is damaged.
    """
    path = run_dir / PROGRESS_FILE
    try:
        content, age = path.read_bytes(), time.time() - path.stat().st_mtime
        return Snapshot.model_validate_json(content), max(0.0, age)
    except FileNotFoundError:
        return None
    except (ValidationError, OSError):
        raise UserError(
            f"{path} is damaged: delete it (the run needs it for nothing and writes it again); the files that are "
            f"complete are shown by isheep status {shell_word(run_dir)}"
        ) from None
