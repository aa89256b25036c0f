"""The score that a stop rule reads in the result files of a validation part: iter-1/validation/NAME.json."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, Field, ValidationError

from isheep.errors import UserError


class ValidationScore(NamedTuple):
    """The values of a model on the items of a validation part, and the cluster of each item if items belong together.

    A value is a truth value, a number, or None if it could not be read.
    """

    items: Sequence[bool | float | None]
    clusters: Sequence[int | str] | None = None

    @property
    def mean(self) -> float | None:
        """The mean of the values that could be read; None if there is none."""
        values = [value for value in self.items if value is not None]
        return sum(values) / len(values) if values else None


class _Score(BaseModel):
    items: list[bool | float | None]
    clusters: list[int | str] | None = None


class _ResultFile(BaseModel):
    """The part of a result file that is read here: its scores, of which the first counts."""

    scores: dict[str, _Score] = Field(min_length=1)


def read_validation_score(path: Path) -> ValidationScore | None:
    """Return the first score of a result file, which is the one that the rule reads; None if there is no such file.

    Raises UserError if the file is damaged.
    """
    if not path.exists():
        return None
    try:
        result = _ResultFile.model_validate_json(path.read_bytes())
    except ValidationError:
        raise UserError(f"{path} is damaged: it holds no scores; delete it to have the model scored again") from None
    score = next(iter(result.scores.values()))
    return ValidationScore(score.items, score.clusters)
