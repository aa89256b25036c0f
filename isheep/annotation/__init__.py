"""What people say about a run's pairs: rows that are only ever appended, in the run's annotations/.

ratings.jsonl has scores of single pairs, choices.jsonl which of two iterations' answers is better. Where somebody
answered a question twice (they went back) the last answer counts.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError

from isheep.records import Record
from isheep.rundir.atomic import fsync_path

RATINGS, CHOICES = "annotations/ratings.jsonl", "annotations/choices.jsonl"
NOBODY = "(the same text)"  # stands for a person where two answers are equal: a tie that nobody need be asked about


class Rating(Record):
    """Scores of a pair, 1 to 10 by criterion; None: this person can't say."""

    row: str
    by: str
    scores: dict[str, Annotated[int, Field(ge=1, le=10)]] | None


class Choice(Record):
    """The better of two answers to a task, by iterations `left` and `right` as they were shown; None: can't say.

    `of` is a digest of the tasks that were asked about: a task's id says nothing beyond them.
    """

    task: str
    of: str
    by: str
    left: int
    right: int
    chosen: Literal["left", "right", "tie"] | None


A = TypeVar("A", Rating, Choice)


def append(path: Path, row: Rating | Choice) -> None:
    """Add a row for good. A line that a power cut tore gets its end first, so that the next one is whole."""
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        torn = False
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        file.write(b"\n" * torn + row.model_dump_json().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    if new:
        fsync_path(path.parent)


def read(path: Path, kind: type[A]) -> tuple[list[A], int]:
    """The rows of a file, and how many of its lines can't be read. No file is no rows."""
    rows, lost = [], 0
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            rows += [kind.model_validate_json(line)] if line.strip() else []
        except ValidationError:
            lost += 1
    return rows, lost


def scores(rows: Sequence[Rating]) -> dict[str, dict[str, float]]:
    """By pair and criterion: the mean over the people who could say, each with their last word."""
    said: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row in {(row.row, row.by): row for row in rows}.values():
        for criterion, score in (row.scores or {}).items():
            said[row.row][criterion].append(score)
    return {pair: {name: sum(some) / len(some) for name, some in by.items()} for pair, by in said.items()}


def points(rows: Sequence[Choice]) -> dict[tuple[int, int], list[float]]:
    """By (earlier, later) iteration: for each task what the later one won, 1, 0.5 for a tie or 0; the mean over people.

    What nobody could say is left out.
    """
    said: dict[tuple[int, int], dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in {(row.of, row.task, row.by, frozenset((row.left, row.right))): row for row in rows}.values():
        if row.chosen:
            pair = (min(row.left, row.right), max(row.left, row.right))
            won = 0.5 if row.chosen == "tie" else float((row.left, row.right)[row.chosen == "right"] == pair[1])
            said[pair][row.of, row.task].append(won)
    return {pair: [sum(some) / len(some) for some in tasks.values()] for pair, tasks in said.items()}
