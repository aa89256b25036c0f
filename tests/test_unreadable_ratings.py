"""What a run says and does if ratings can't be read, and if it keeps few pairs."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import isheep
from isheep.engines.function import FunctionEngine
from isheep.errors import UserError
from isheep.records import Completion, Sampling
from isheep.stages.assess import assess
from tests.helpers.command import isheep as isheep_command
from tests.helpers.function_model import SMALL as FUNCTION_SMALL
from tests.helpers.function_model import write_texts
from tests.helpers.hashes import hash_files
from tests.helpers.ratings import SMALL, ScoringEngine, grades_in, run, unfinish
from tests.helpers.rows import make_pair
from tests.helpers.stages import stage_context, write_killed_stage

# --- ratings that can't be read


class RatingFunction:
    """A function as engine. The ratings are the text `rating`; tasks and answers can always be read."""

    def __init__(self, rating: str) -> None:
        self.rating, self.num_ratings = rating, 0

    def __call__(self, prompts: list[str]) -> list[str]:
        self.num_ratings += sum("Please rate" in prompt for prompt in prompts)
        return [self.rating if "Please rate" in prompt else write_texts([prompt])[0] for prompt in prompts]


def align_with(path: Path, engine: Any, **settings: Any) -> None:
    recipe = isheep.load_recipe("lamb", {**FUNCTION_SMALL, **settings})
    list(isheep.align(recipe, path, engine=engine))


def test_a_run_says_at_once_that_ratings_can_not_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = RatingFunction("I like\x1b[31m it " + "very " * 40)
    with pytest.raises(UserError, match=r"0 of 8 pairs left.*unreadable rating 8.*let the texts of the function"):
        align_with(tmp_path, engine, **{"assessment.batch_size": 4})
    assert engine.num_ratings == 8
    [line] = [line for line in capsys.readouterr().err.splitlines() if "ratings can't be read" in line]
    assert line.startswith("iteration 1: 4 of the first 4 ratings can't be read, such as 'I like\\x1b[31m it very")
    assert "...; let the texts of the function that is the engine begin with a score, which can't be" in line
    assert line.endswith("(assessment.on_unreadable: continue: the run goes on)") and len(line) < 400
    assert line in json.loads(isheep_command("status", tmp_path, "--json").out)["notes"]


def test_half_of_the_ratings_may_be_unreadable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = RatingFunction("fine")
    replies = iter(["fine", "9||good"] * 4)
    settings = {"assessment.on_unreadable": "stop", "assessment.batch_size": 4}
    align_with(
        tmp_path, lambda prompts: [next(replies) if "Please rate" in p else engine([p])[0] for p in prompts], **settings
    )
    assert "can't be read" not in capsys.readouterr().err
    assert Counter(grade["score"] for grade in grades_in(tmp_path)) == {9: 4, None: 4}


def test_a_run_may_stop_after_the_first_batch_and_does_so_again(tmp_path: Path) -> None:
    engine = RatingFunction("fine")
    settings = {"assessment.on_unreadable": "stop", "assessment.batch_size": 4}
    for _ in range(2):
        with pytest.raises(UserError, match=r"4 of the first 4 ratings can't be read, such as 'fine';.*the run stops"):
            align_with(tmp_path, engine, **settings)
        assert engine.num_ratings == 4
    assert len((tmp_path / "iter-1" / "assessed.jsonl.part").read_text().splitlines()) == 4


@pytest.mark.parametrize("num_existing", [0, 2, 5])
def test_ratings_that_can_not_be_read_are_constrained_also_after_a_kill(tmp_path: Path, num_existing: int) -> None:
    """The first batch is rated again, and a resumed run knows by its rows that it was."""
    settings = {"on_unreadable": "constrain", "batch_size": 2}
    pairs = [make_pair(n) for n in range(7)]
    probabilities = [0.1] * 10
    rows = assess(stage_context(tmp_path / "whole", ScoringEngine(probabilities), assessment=settings), pairs)
    grades = [grade for row in rows for grade in row.grades.values()]  # type: ignore[attr-defined]
    assert all(grade.reply == f"{grade.score:g}||no score" and grade.expected == 5.5 for grade in grades)
    assert len({grade.score for grade in grades}) > 3
    alone = assess(
        stage_context(
            tmp_path / "alone", ScoringEngine(probabilities), assessment={"read": "constrained", "batch_size": 2}
        ),
        pairs,
    )
    assert alone == rows
    resumed = stage_context(tmp_path / "resumed", ScoringEngine(probabilities), assessment=settings)
    write_killed_stage(resumed, "assessed.jsonl", rows[:num_existing])
    assert assess(resumed, pairs) == rows


def test_the_first_batch_alone_decides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Worsening(ScoringEngine):
        def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
            self.prompts += prompts
            return [Completion("7||" if len(self.prompts) <= 4 else "fine", 1, "stop") for _ in prompts]

    settings = {"on_unreadable": "constrain", "batch_size": 2}
    rows = assess(stage_context(tmp_path, Worsening([0.1] * 10), assessment=settings), [make_pair(n) for n in range(4)])
    scores = [[grade.score for grade in row.grades.values()] for row in rows]  # type: ignore[attr-defined]
    assert scores == [[7, 7], [7, 7], [None, None], [None, None]] and "can't be read" not in capsys.readouterr().err


def test_a_run_that_may_constrain_finishes(tmp_path: Path) -> None:
    words = [*SMALL, "assessment.on_unreadable=constrain", "assessment.explain=false"]
    # Without a question lamb writes no number.
    prompt = "{quality: '{instruction} {output}', following: '{instruction} {output}'}"
    assert run("run", *words, f"assessment.prompt={prompt}", "--out", tmp_path / "run") == 0
    whole, grades = hash_files(tmp_path / "run"), grades_in(tmp_path / "run")
    assert all(grade["score"] and "expected" in grade for grade in grades)
    unfinish(tmp_path / "run", num_bytes=2500)
    assert run("run", tmp_path / "run") == 0 and hash_files(tmp_path / "run") == whole


class OwnEngine:
    """An engine of the user's own that gives no score a probability."""

    max_in_flight = 1

    def __init__(self, rating: str) -> None:
        self.generating = FunctionEngine(RatingFunction(rating))
        self.generate, self.logprobs, self.embed = (
            self.generating.generate, self.generating.logprobs, self.generating.embed,
        )  # fmt: skip

    def choices(self, prompts: Sequence[str], options: Sequence[str]) -> list[list[float]]:
        return [[0.0] * len(options) for _ in prompts]

    def close(self) -> None:
        pass


CONSTRAIN = {"assessment.on_unreadable": "constrain"}


@pytest.mark.parametrize(
    ("engine", "settings", "at_once", "at_the_end"),
    [
        (RatingFunction("fine"), CONSTRAIN, "let the texts of the function", "let the texts of the function"),
        (OwnEngine("fine"), CONSTRAIN, "the method choices of your engine must give", "let the method choices of your"),
        (OwnEngine("fine"), {}, "take assessment.read: constrained or expected", "take assessment.read: constrained"),
        (OwnEngine("fine"), {"assessment.read": "constrained"}, "let the method choices of", "let the method choices"),
    ],
)
def test_advice_on_unreadable_ratings_fits_the_engine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], engine: Any, settings: dict[str, str], at_once: str,
    at_the_end: str,
) -> None:  # fmt: skip
    with pytest.raises(UserError, match=rf"with a new run folder, {at_the_end}"):
        align_with(tmp_path, engine, **settings)
    [line] = [line for line in capsys.readouterr().err.splitlines() if "of the first" in line]
    assert f"; {at_once}" in line


def test_advice_for_more_rows_fits_the_filters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ratings = iter(["9||", "2||"] * 4)

    def write(prompts: list[str]) -> list[str]:
        return [next(ratings) if "Please rate" in p else write_texts([p])[0] for p in prompts]

    few = {"training.num_rows": None, "assessment.criteria": ["quality"]}
    align_with(tmp_path / "a", write, **few, filters=[{"kind": "score", "best": 0.5}])
    line = capsys.readouterr().err.replace("\n", " ")
    assert "for more rows raise synthesis.tasks, or raise best of the score filter, in a new run" in line
    ratings = iter(["9||", "2||"] * 4)
    align_with(tmp_path / "b", write, **few, filters=[{"kind": "score", "at_least": 5}, {"kind": "random", "keep": 3}])
    line = capsys.readouterr().err.replace("\n", " ")
    assert "or lower the threshold of the score filter, or let the filters drop less (random), in a new" in line


ADVICE = [
    ("2||bad", {}, r"lower the threshold of the score filter, or take a share of the best pairs: \{kind: score, best"),
    ("2||bad", {"filters": [{"kind": "score", "best": 0.1}]}, "raise best of the score filter, or synthesis.tasks"),
    ("9||", {"filters": [{"kind": "perplexity", "at_most": 1.5}]}, "raise at_most of the perplexity filter"),
    ("9||", {"filters": [{"kind": "random", "as_many_as": {"above": 9.5}}]}, "keep more pairs in the random filter"),
]


@pytest.mark.parametrize(("rating", "settings", "advice"), ADVICE)
def test_the_final_error_gives_advice_that_fits_the_cause(
    tmp_path: Path, rating: str, settings: dict[str, Any], advice: str
) -> None:
    with pytest.raises(UserError, match=rf"pairs left to train on.*with a new run folder, {advice}"):
        align_with(tmp_path, RatingFunction(rating), **{"training.num_rows": None, **settings})
