"""Finished run folders without a model: rows and results through the project's own writers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from isheep.benchmarks import Result, Score
from isheep.recipe.schema import Recipe
from isheep.records import AssessedPair, Drop, Grade
from isheep.rundir.artifacts import iteration_name
from isheep.rundir.atomic import write_json, write_text
from isheep.rundir.run import open_run_for_writing
from tests.helpers.rows import make_pair, rate_pair

Scores = Mapping[str, Sequence[bool | float | None]]


def make_finished_run(
    path: Path,
    ratings: Sequence[Sequence[AssessedPair]] = (),
    scores: Sequence[Mapping[str, Scores]] = (),
    dropped: Sequence[Sequence[str]] = (),
    **settings: Any,
) -> Path:
    """Make a run folder; return its path.

    `ratings` are the rated pairs of each iteration from 1 on, `dropped` the ids of the dropped ones, `scores` the items
    by benchmark and score of each model from the base on, and `settings` keys of the recipe.
    """
    iterations = max(len(ratings), len(scores) - 1, 1)
    recipe = Recipe.model_validate({"model": "fake", "iterations": iterations, **settings})
    with open_run_for_writing(path, recipe) as run:
        for number, pairs in enumerate(ratings, 1):
            folder = run / iteration_name(number)
            folder.path.mkdir(exist_ok=True)
            folder.write("assessed.jsonl", AssessedPair, pairs)
            ids = dropped[number - 1] if dropped else ()
            folder.write("dropped.jsonl", Drop, [Drop(row=id, by="score", why="low") for id in ids])
        for number, benchmarks in enumerate(scores):
            folder = run / iteration_name(number)
            if number:
                write_json(folder.path / "adapter" / "training.json", {"rows": {"trained": 10 * number}})
            for benchmark, by_score in benchmarks.items():
                result = Result(template="qwen", scores={name: Score(items=items) for name, items in by_score.items()})
                write_text(folder.path / "eval" / f"{benchmark}.json", result.model_dump_json())
    return path


def rated(index: int, quality: float | None, following: float | None, output: str = "fine") -> AssessedPair:
    """Return a rated pair with the number `index`."""
    return rate_pair(make_pair(index, output=output), quality=quality, following=following)


def with_expected(pair: AssessedPair, expected: float) -> AssessedPair:
    """Return a rated pair whose ratings all have this expected value."""
    grades = {
        name: Grade(score=grade.score, reply=grade.reply, expected=expected) for name, grade in pair.grades.items()
    }
    return pair.model_copy(update={"grades": grades})


def share(num_right: int, total: int) -> list[bool]:
    """Return the items of a share: `num_right` right ones first."""
    return [index < num_right for index in range(total)]
