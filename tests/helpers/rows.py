"""Rows of a run folder for tests: generated pairs, and rated ones."""

from typing import Any

from isheep.records import AssessedPair, Grade, Pair


def make_pair(
    index: int | str = 0, instruction: str = "Say something nice", output: str = "fine", **fields: Any
) -> Pair:
    """Return the pair t1-INDEX of the first iteration; `fields` are further fields of Pair, or other values.

    An index such as "0.2" is that of a second turn.
    """
    defaults = {"id": f"t1-{index}", "finish": "stop", "tokens": 3, "seed": 1}
    return Pair.model_validate({**defaults, "instruction": instruction, "output": output, **fields})


def rate_pair(pair: Pair, **scores: float | None) -> AssessedPair:
    """Return a pair with a grade for each criterion; a score of None is a rating that could not be read."""
    grades = {criterion: Grade(score=score, reply="") for criterion, score in scores.items()}
    return AssessedPair(**pair.model_dump(), grades=grades)
