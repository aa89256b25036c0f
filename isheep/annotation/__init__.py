"""Annotations by people of a run's pairs: rows that are only ever appended to files in the run's annotations/ folder.

ratings.jsonl holds scores of single pairs; choices.jsonl says which of two iterations' answers is better. If a person
answered a question twice (they went back), the last answer counts.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError

from isheep.files.reading import read_bytes
from isheep.records import Record
from isheep.rundir.atomic import fsync, fsync_path

RATINGS, CHOICES = "annotations/ratings.jsonl", "annotations/choices.jsonl"
# Stands for a person if two answers are the same text: a tie that nobody needs to be asked about.
NOBODY = "(the same text)"


class Rating(Record):
    """A person's scores of a pair, 1 to 10 by criterion; None if the person could not say.

    `row` is the pair's id, `by` the person's name.
    """

    row: str
    by: str
    scores: dict[str, Annotated[int, Field(ge=1, le=10)]] | None


class Choice(Record):
    """The better of two answers to a task, of iterations `left` and `right` as shown; None if the person could not say.

    `task` is the task's id, `of` a fingerprint of the list of tasks (an id has a meaning only within it), `by` the
    person's name.
    """

    task: str
    of: str
    by: str
    left: int
    right: int
    chosen: Literal["left", "right", "tie"] | None

    @property
    def better(self) -> int | None:
        """The iteration with the better answer; None for a tie, and if the person could not say."""
        if self.chosen == "left":
            return self.left
        return self.right if self.chosen == "right" else None


Annotation = TypeVar("Annotation", Rating, Choice)


def append_annotation(path: Path, row: Rating | Choice) -> None:
    """Append a row and flush it to the disk. A line that a crash cut off is ended first, so the new line is whole."""
    is_new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(row.model_dump_json().encode() + b"\n")
        file.flush()
        fsync(file.fileno())
    if is_new:
        fsync_path(path.parent)


def read_annotations(path: Path, row_type: type[Annotation]) -> tuple[list[Annotation], int]:
    """Return the rows of a file and the number of its unreadable lines. A missing file has no rows."""
    rows, num_unreadable = [], 0
    lines = read_bytes(path).split(b"\n") if path.exists() else []
    for line in lines:
        try:
            if line.strip():
                # Nothing is converted: the text "7" is no score.
                rows.append(row_type.model_validate_json(line, strict=True))
        except ValidationError:
            num_unreadable += 1
    return rows, num_unreadable


def mean_ratings(ratings: Sequence[Rating]) -> dict[str, dict[str, float]]:
    """Return the mean score of each pair and criterion, over the last ratings of the people who could say."""
    scores: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for rating in {(rating.row, rating.by): rating for rating in ratings}.values():
        for criterion, score in (rating.scores or {}).items():
            scores[rating.row][criterion].append(score)
    return {
        pair_id: {criterion: sum(values) / len(values) for criterion, values in by_criterion.items()}
        for pair_id, by_criterion in scores.items()
    }


def points_of_later(choices: Sequence[Choice]) -> dict[tuple[int, int], list[float]]:
    """Return, by (earlier, later) iteration, the points of the later one on each task.

    A win is 1, a tie 0.5 and a loss 0; the points of a task are the mean over people. Choices of people who could not
    say are left out.
    """
    points: dict[tuple[int, int], dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    last = {(row.of, row.task, row.by, frozenset((row.left, row.right))): row for row in choices}
    for row in last.values():
        if row.chosen:
            earlier, later = sorted((row.left, row.right))
            points[earlier, later][row.of, row.task].append(0.5 if row.chosen == "tie" else float(row.better == later))
    return {models: [sum(values) / len(values) for values in tasks.values()] for models, tasks in points.items()}
