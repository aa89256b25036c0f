"""How ratings are asked for and read, and which pairs the filters drop."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isheep.engines.function import SeededFunctionEngine
from isheep.filters.base import FilterContext
from isheep.filters.contamination import ContaminationFilter
from isheep.filters.score import ScoreFilter
from isheep.records import AssessedPair, Completion, Drop, Pair, Sampling
from isheep.stages.assess import assess
from isheep.stages.filters import find_drops, kept_pairs
from isheep.stages.grades import expected_grade, parse_grade
from tests.helpers.recording import RecordingEngine
from tests.helpers.rows import make_pair, rate_pair
from tests.helpers.stages import stage_context, write_killed_stage

# --- ratings


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("8||good", 8), ("<8>||<good>", 8), (" 8 || good", 8), ("\n\n9||x", 9), ("8.5||", 8.5), ("10/10||", 10),
        ("8/10", 8), ("8 out of 10", 8), ("10", 10), ("8.5", 8.5), ("8. Good", 8), ("8, good", 8), ("8 because", 8),
        ("Score: 8", 8), ("The score is 7.", 7), ("**8**||", 8), ("<10>", 10), ("I give it 8/10 || good", 8),
        ("5||because 3||4", 5), ("1||", 1), ("9/10. 3 things", None), ("8 - good", 8),
        ("0||", None), ("11||", None), ("-3||", None), ("80/100||", None), ("8/100||", None), ("8 / 100", None),
        ("7-8||", None), ("7 to 8", None), ("8%", None), ("8th||", None), ("1e9||", None), ("8,5", None),
        ("eight||", None), ("||", None), ("", None), ("good\n9||", None), ("2 of 3 are right, 8||", None),
        ("It is 8", None), ("\u0668||", None), ("9" * 400, None), ("9/10/2024||", None),
        # Other digits and signs beside the number; nothing but marks may follow it.
        ("8²||", None), ("8\0||", None), ("8½||", None), ("8 ½||", None), ("8 ½ because", None), ("²8||", None),
        ("8⑧||", None), ("8Ⅷ||", None), ("8\u0668||", None), ("8\u0668", None), ("\uff18||", None), ("8\uff18||", None),
        ("8\u200b||", None), ("8\ufe0f\u20e3||", None), ("\x008||", None), ("8_0||", None), ("8+||", None),
        ("8\\||", None), ("8é||", None), ("8\u00a0/ 100||", None), ("8\u2013\u0669", None), ("8²", None),
        ("nan||", None),
        ("inf||", None), ("+8||", 8), ("8\u00a0||", 8), ("8\u3002good", 8), ("“8”||", 8), ("<score>8</score>||", 8),
        # A label without a number may stand before it; which number of a label is the score would be a guess.
        ("Overall: 9", 9), ("Overall score: 9", 9), ("Final: 9", 9), ("Overall: 9||good", 9), ("Overall 9", 9),
        ("**Score:** 9", 9), ("**Score**: 9", 9), ('"score": 9', 9), ("Score\uff1a9", 9), ("**Score**: -9", None),
        ("Score (1-10): 9", None), ("Score (1-10): 9||good", None), ("Score (out of 10): 9", None),
        # A second number on the line of the score.
        ("1. Overall: 9", None), ("8 or 9", None), ("8 9", None), ("8:30", None), ("8;9", None), ("8. 9", None),
        ("8 and 9", None), ("8 because 3 of the facts are right", None), ("8, good\n9", 8), ("8||9 of 10", 8),
        # A minus of any kind before the number.
        ("\u22128||", None), ("Score: \u20138||", None), ("minus 8||", None), ("- 8||", None), ("-**8**||", None),
        ("Negative 8||", None), ("\u2212 8", None), ("Score: \uff0d8", None), ("8||-3", 8),
        # Only "\n" and "\r\n" end a line; another control character makes it unreadable.
        ("8\x1c||", None), ("8\x1d9||", None), ("8\x1e5", None), ("8\x0b||", None), ("8\x0c||", None),
        ("8\x85||", None), ("8\u2028||", None), ("8\u20285", None), ("8\r||", None), ("8\x0b/10||", None),
        ("8||\x0c9", 8), ("\r\n8||", 8), ("8\r\n9", 8), ("8\r", 8), ("\t8\t||", 8),
    ],
)  # fmt: skip
def test_a_reply_is_read_as_a_grade_or_as_unreadable(reply: str, score: float | None) -> None:
    assert parse_grade(reply) == score


@given(st.text() | st.text("0123456789.,/|<>- \n10outf"))
def test_any_reply_is_a_grade_or_unreadable(reply: str) -> None:
    score = parse_grade(reply)
    assert score is None or 1 <= score <= 10


@given(st.integers(1, 10), st.text())
def test_a_grade_in_the_format_of_the_prompt_is_read(score: int, why: str) -> None:
    assert parse_grade(f"{score}||{why}") == parse_grade(f"<{score}>||<{why}>") == score


def test_a_batch_is_rated_by_one_call_for_each_criterion(tmp_path: Path) -> None:
    pairs = [make_pair(n, output="{instruction} {output}") for n in range(5)]
    engine, resumed_engine = RecordingEngine(), RecordingEngine()
    rows = assess(stage_context(tmp_path / "whole", engine, assessment={"batch_size": 2}), pairs)
    assert isinstance(rows[0], AssessedPair)
    assert [len(prompts) for prompts, _, _ in engine.calls] == [2, 2, 2, 2, 1, 1]
    assert len({seed for _, _, seed in engine.calls}) == 6
    assert "Instruction: Say something nice Response: {instruction} {output}." in engine.calls[0][0][0]
    assert engine.calls[0][1].stop == ("<|end|>",)
    assert set(rows[0].grades) == {"quality", "following"} and rows[0].grades["quality"].reply.startswith(" seed")
    resumed = stage_context(tmp_path / "resumed", resumed_engine, assessment={"batch_size": 2})
    write_killed_stage(resumed, "assessed.jsonl", rows[:4])
    assert assess(resumed, pairs) == rows and resumed_engine.calls == engine.calls[4:]


class SeededRatings(SeededFunctionEngine):
    """A fake judge whose texts follow from the seed; it counts the prompts of each call."""

    def __init__(self) -> None:
        super().__init__(lambda prompt, seed: f"{1 + seed % 10}||because {seed}")
        self.calls: list[int] = []

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        self.calls.append(len(prompts))
        return super().generate(prompts, sampling, seed)

    def choices(self, prompts: Sequence[str], options: Sequence[str]) -> list[list[float]]:
        return [[0.1] * len(options) for _ in prompts]


class SharingRatings(SeededRatings):
    """The same judge with a seed for each request."""

    def generate_seeded(self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int]) -> list[Completion]:
        self.calls.append(len(prompts))
        return [Completion(text, 2, "stop") for text in self.texts(prompts, seeds)]


@pytest.mark.parametrize("settings", [{}, {"read": "constrained"}])
def test_an_engine_that_can_writes_the_ratings_of_all_criteria_in_one_call(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    """Each rating is what a call for its criterion would draw."""
    pairs, engines = [make_pair(n) for n in range(5)], (SeededRatings(), SharingRatings())
    rows, shared_rows = (
        assess(stage_context(tmp_path / str(n), engine, assessment={"batch_size": 2, **settings}), pairs)
        for n, engine in enumerate(engines)
    )
    assert shared_rows == rows
    assert [engine.calls for engine in engines] == [[2, 2, 2, 2, 1, 1], [4, 4, 2]]


def test_a_rating_prompt_may_be_a_chat_turn(tmp_path: Path) -> None:
    engine = RecordingEngine()
    assessment = {"chat": True, "prompt": "icl", "criteria": ["overall"]}
    assess(stage_context(tmp_path, engine, assessment=assessment), [make_pair()])
    assert engine.calls[0][0][0].startswith("<|user|>Instruction:") and engine.calls[0][1].stop == ("<|end|>",)


@pytest.mark.parametrize(
    ("shares", "score"),
    [
        ([0, 0, 0, 0, 0, 0, 0, 1, 0, 0], 8),
        ([0.1] * 10, 5.5),
        ([0, 0, 0, 0, 0, 0, 0, 0.02, 0, 0.02], 9),
        ([0, 0, 0, 0, 0, 0, 0, 0.999999, 0.0000003, 0], 8),
        ([0.001] * 9 + [0], None),
    ],
)
def test_the_expected_score_is_the_mean_under_the_probabilities_of_the_scores(
    shares: list[float], score: float | None
) -> None:
    grade = expected_grade(shares)
    assert grade.score == score and grade.reply.count(", ") == 9 and grade.reply.startswith(f"1: {shares[0]:.4f}, ")


@pytest.mark.parametrize(
    ("settings", "answer", "score"),
    [
        ({}, " 10||all right", 10), ({}, " 1||no", 1), ({}, "10||", 10), ({}, "no idea", None),
        ({"opening": " <"}, " <7>||", 7), ({"opening": ""}, "10||", 10), ({"chat": True}, "9||", 9),
    ],
)  # fmt: skip
def test_expected_ratings_generate_nothing(
    settings: dict[str, Any], answer: str, score: float | None, tmp_path: Path
) -> None:
    class Silent(SeededFunctionEngine):
        def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
            raise AssertionError("nothing is generated")

    calls: list[str] = []
    engine = Silent(lambda prompt, seed: calls.append(prompt) or answer)  # type: ignore[func-returns-value]
    pairs = [make_pair(n) for n in range(3)]
    assessment = {"read": "expected", "batch_size": 2, **settings}
    rows = assess(stage_context(tmp_path / "whole", engine, assessment=assessment), pairs)
    scores = [row.grades["quality"].score for row in rows if isinstance(row, AssessedPair)]
    assert scores == [score] * 3 and len(calls) == 6
    resumed = stage_context(tmp_path / "resumed", engine, assessment=assessment)
    write_killed_stage(resumed, "assessed.jsonl", rows[:2])
    assert assess(resumed, pairs) == rows and len(calls) == 8


# --- filters


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (rate_pair(make_pair(), quality=8, following=8), None),
        (rate_pair(make_pair(), quality=3, following=2), "quality 3 < 8"),
        (rate_pair(make_pair(), quality=9, following=7.5), "following 7.5 < 8"),
        (rate_pair(make_pair(), quality=9, following=None), "following unreadable"),
        (make_pair(), "rating missing"),
    ],
)
def test_a_pair_below_the_threshold_is_dropped_with_the_reason(row: Pair, why: str | None) -> None:
    drops = find_drops([row], [ScoreFilter(kind="score", at_least=8)], True, ["<|end|>"])
    assert drops == ([Drop(row="t1-0", by="score", why=why)] if why else [])


def test_a_threshold_may_be_exclusive_and_for_some_criteria() -> None:
    rows = [rate_pair(make_pair(), quality=8, following=1), rate_pair(make_pair(), quality=8.5, following=1)]
    drops = [find_drops([row], [ScoreFilter(kind="score", above=8, criteria=("quality",))], True, []) for row in rows]
    assert drops == [[Drop(row="t1-0", by="score", why="quality 8 <= 8")], []]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (make_pair(output=""), "output is empty"),
        (make_pair(output="same", input="same"), "output equals the input"),
        (make_pair(output="Here it is:"), "output ends in a colon"),
        (make_pair(input="List: "), "input ends in a colon"),
        (make_pair(output="Paris."), None),
    ],
)
def test_a_pair_that_breaks_a_rule_is_dropped(row: Pair, why: str | None) -> None:
    drops = find_drops([row], [], True, ["</s>"])
    assert drops == ([Drop(row="t1-0", by="rules", why=why)] if why else [])
    assert find_drops([row], [], False, ["</s>"]) == []


@pytest.mark.parametrize("field", ["instruction", "input", "output"])
@pytest.mark.parametrize("token", ["<|im_end|>", "<|reserved_special_token_2|>", "</s>", "<pad>"])
def test_text_of_a_special_token_is_never_trained_on(field: str, token: str) -> None:
    [drop] = find_drops([make_pair(**{field: f"so {token} it ends"})], [], False, ["</s>", "<pad>"])
    assert (drop.by, drop.why) == ("rules", f"{field} holds {token}")


def test_a_benchmark_prompt_is_dropped_whatever_its_case_and_spacing() -> None:
    rows = [make_pair(), make_pair(1, "Another task.")]
    exam = [f"  {make_pair().content.upper()} "]
    assert find_drops(rows, [ContaminationFilter(kind="contamination")], False, [], FilterContext(exam)) == [
        Drop(row="t1-0", by="contamination", why="a benchmark's prompt")
    ]
    assert find_drops(rows, [], False, [], FilterContext(exam)) == []


def test_a_pair_is_dropped_once_and_the_remaining_pairs_are_kept() -> None:
    rows = [rate_pair(make_pair(output="" if n < 3 else "x", id=str(n)), quality=n, following=n) for n in range(1, 10)]
    drops = find_drops(rows, [ScoreFilter(kind="score", at_least=8), ScoreFilter(kind="score", at_least=9)], True, [])
    assert [drop.by for drop in drops] == ["rules"] * 2 + ["score"] * 6
    assert [row.id for row in kept_pairs(rows, drops)] == ["9"]
