"""lamb's dialogues: follow-ups, their truth, the held-out dialogues and the benchmark that asks them."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isheep.benchmarks import EvalContext, Result, lamb_turns
from isheep.engines.function import SeededFunctionEngine
from isheep.evaluation.results import load_result
from isheep.lamb.constraints import CONSTRAINT_KINDS
from isheep.lamb.dialogues import draw_follow_up, understand_follow_up
from isheep.lamb.families import FAMILIES
from isheep.lamb.pages import task_text
from isheep.lamb.phrasings import PARTS, Part
from isheep.lamb.suite import Dialogue, dialogues, is_truly_right, kinds_of, validation_dialogues
from isheep.lamb.world import MAX_CHARACTERS, Quest, draw_quest, dress, part_of, right_answer
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.records import Answer, Exchange, Pair
from isheep.rundir.folder import RunFolder
from isheep.rundir.run import open_run
from tests.helpers.command import isheep, refused
from tests.helpers.fakes import FakeChat
from tests.helpers.report_runs import page_rows
from tests.helpers.runs import make_run

SETTINGS = BenchmarkSettings(name="lamb_turns")


def draw_dialogues(count: int, part: Part = "corpus") -> list[Dialogue]:
    rng = Random(5)
    quests = [draw_quest(rng, part) for _ in range(count)]
    return [Dialogue(quest, draw_follow_up(quest, rng, part)) for quest in quests]


# --- follow-ups


@pytest.mark.parametrize("part", PARTS)
def test_the_world_understands_its_own_follow_ups(part: Part) -> None:
    for first, follow_up in draw_dialogues(2000, part):
        assert understand_follow_up(first, follow_up.instruction) == follow_up


def test_right_answers_to_follow_ups_are_right_and_wrong_ones_are_not() -> None:
    rng = Random(6)
    for _, follow_up in draw_dialogues(2000) + draw_dialogues(500, "exam"):
        text = right_answer(follow_up, rng)
        assert follow_up.content_right(text) and all(follow_up.followed(text)), (follow_up, text)
        wrong_content = FAMILIES[follow_up.family].wrong(follow_up.args, rng)
        wrong_text = dress(follow_up, wrong_content, follow_up.constraints, rng)
        assert not follow_up.content_right(wrong_text), (follow_up, wrong_text)


def test_a_follow_up_about_the_same_answer_has_constraints_of_its_own() -> None:
    for first, follow_up in draw_dialogues(500):
        if follow_up.args == first.args:
            assert follow_up.constraints and follow_up.input == first.input
        else:
            assert not FAMILIES[first.family].input


@pytest.mark.parametrize("text", ["", "And?", "And the capital of Japan?", "And 3?", "Say it again. Sing it."])
def test_texts_that_are_no_follow_up(text: str) -> None:
    capital = next(quest for quest, _ in draw_dialogues(100) if quest.family == "capital")
    assert understand_follow_up(capital, text) is None


def test_a_long_text_is_no_follow_up() -> None:
    first, follow_up = next(dialogue for dialogue in draw_dialogues(100) if dialogue.follow_up.constraints)
    sentences = follow_up.instruction.removeprefix(follow_up.request)
    num_copies = MAX_CHARACTERS // len(sentences) + 1
    assert understand_follow_up(first, follow_up.instruction + sentences)
    assert understand_follow_up(first, follow_up.request + sentences * num_copies) is None


# --- the truth of second turns


def second_turn(dialogue: Dialogue, output: str, finish: str = "stop") -> Pair:
    instruction, history = dialogue.follow_up.instruction, dialogue.history("It is so.")
    return Pair(id="t", instruction=instruction, history=history, output=output, finish=finish, tokens=1, seed=0)


def test_the_truth_of_second_turns() -> None:
    rng = Random(7)
    for dialogue in (*draw_dialogues(500), *dialogues()):
        text = right_answer(dialogue.follow_up, rng)
        assert is_truly_right(second_turn(dialogue, text))
        assert not is_truly_right(second_turn(dialogue, text, finish="length"))
        assert not is_truly_right(second_turn(dialogue, FAMILIES[dialogue.first.family].wrong(dialogue[1].args, rng)))


def test_a_second_turn_needs_a_first_one_that_the_world_understands() -> None:
    dialogue = next(dialogue for dialogue in draw_dialogues(100) if dialogue.first.family == "capital")
    right = second_turn(dialogue, right_answer(dialogue.follow_up, Random(1)))
    unread = right.model_copy(update={"history": (Exchange("Sing a song.", "La."),)})
    assert is_truly_right(right) and not is_truly_right(unread)
    assert kinds_of(unread) == ["family: not understood", "turn: 2"]
    assert not is_truly_right(right.model_copy(update={"history": ()}))


def test_kinds_of_second_and_later_turns() -> None:
    dialogue = next(dialogue for dialogue in draw_dialogues(200) if dialogue.first.input and dialogue.first.constraints)
    pair = second_turn(dialogue, "x")
    kinds = [f"constraint: {kind}" for kind in dialogue.follow_up.constraint_kinds]
    assert kinds_of(pair) == [f"family: {dialogue.first.family}", *kinds, "turn: 2"]
    third = pair.model_copy(update={"history": (*pair.history, Exchange(pair.instruction, "y"))})
    assert kinds_of(third) == [f"family: {dialogue.first.family}", *kinds, "turn: 3"]
    first = Pair(**pair.model_dump() | {"instruction": dialogue.first.instruction, "history": ()})
    assert kinds_of(first) == ["family: not understood"], "the list is missing"
    first = first.model_copy(update={"input": dialogue.first.input})
    assert kinds_of(first)[0] == f"family: {dialogue.first.family}" and not kinds_of(first)[-1].startswith("turn")


@given(st.text(max_size=80), st.text(max_size=40), st.integers(0, 10_000))
@settings(max_examples=200, deadline=None)
def test_the_oracle_never_fails_on_odd_dialogues(text: str, input: str, seed: int) -> None:
    first, follow_up = dialogue = Dialogue(quest := draw_quest(Random(seed)), draw_follow_up(quest, Random(seed)))
    pair = second_turn(dialogue, text)
    for turn in (text, follow_up.request + text, f"{follow_up.instruction} {text}"):
        for user in (task_text(first), f"{first.instruction}\n{text}", text):
            changes = {"instruction": turn, "input": input, "history": (Exchange(user, text),)}
            assert is_truly_right(pair.model_copy(update=changes)) in (True, False)


# --- the held-out dialogues


def test_the_exam_dialogues_are_fixed() -> None:
    """Stored scores are compared only if they are about the same dialogues."""
    digest = hashlib.sha256(json.dumps(dialogues()).encode()).hexdigest()
    assert digest == "036f99b0fbcf67a8f9ade3bd0b640c8f2ec02c7449b5f7a3cb3ebf1867629e18"


def test_exam_and_validation_dialogues_share_nothing() -> None:
    exam, validation = dialogues(), validation_dialogues()
    for held_out in (exam, validation):
        assert len({task_text(first) for first, _ in held_out}) == len(held_out) == 400
        assert {first.family for first, _ in held_out} == set(FAMILIES)
        assert {kind for _, follow_up in held_out for kind in follow_up.constraint_kinds} == set(CONSTRAINT_KINDS)
        assert 0.3 < sum(first.args == follow_up.args for first, follow_up in held_out) / len(held_out) < 0.8
    assert not {task_text(first) for first, _ in exam} & {task_text(first) for first, _ in validation}
    requests = [{follow_up.request for _, follow_up in held_out} for held_out in (exam, validation)]
    assert not requests[0] & requests[1]
    assert all(part_of(quest.args) == "exam" for turns in exam for quest in turns if FAMILIES[quest.family].open)


# --- the benchmark


def make_context(tmp_path: Path, answer: Callable[[str], str]) -> EvalContext:
    """Return what an evaluation gets of a function that answers the texts of a chat."""
    folder = RunFolder(tmp_path / "run" / "base" / "eval" / "lamb_turns", tmp_path / "run")
    folder.path.mkdir(parents=True)
    engine = SeededFunctionEngine(lambda prompt, seed: answer(prompt))
    return EvalContext(engine, FakeChat(), 42, folder, SETTINGS, True)  # type: ignore[arg-type]


def evaluate(tmp_path: Path, answer: Callable[[str], str]) -> tuple[Result, RunFolder]:
    """Return what a function achieves, and the folder of the benchmark."""
    context = make_context(tmp_path, answer)
    return lamb_turns.run(context), context.folder


def answers_by_prompt(second: Callable[[Quest], str]) -> dict[str, str]:
    """Return the answer to each prompt of the benchmark: right ones to first turns, then those of a function."""
    chat, rng, answers = FakeChat(), Random(3), dict[str, str]()
    for dialogue in dialogues():
        first_answer = right_answer(dialogue.first, rng)
        answers[chat.prompt(task_text(dialogue.first))] = first_answer
        answers[chat.conversation(dialogue.conversation(first_answer))] = second(dialogue.follow_up)
    return answers


def test_a_model_that_answers_both_turns_rightly(tmp_path: Path) -> None:
    answers = answers_by_prompt(lambda quest: right_answer(quest, Random(4)))
    result, folder = evaluate(tmp_path, answers.__getitem__)
    assert list(result.scores) == ["second turn right", "second turn content", "first turn right"]
    assert all(score.items == [True] * 400 for score in result.scores.values())
    assert all(right == total for counts in result.breakdowns.values() for right, total in counts.values())
    rows = list(folder.read("greedy.jsonl", Answer))
    assert [row.output for row in rows] == list(answers.values())
    assert rows[1].prompt.startswith(f"User: {rows[0].prompt}\nAssistant: {rows[0].output}\nUser: ")
    assert lamb_turns.why_wrong(folder, rows) == [""] * 800


@pytest.mark.parametrize(
    "second",
    [
        lambda quest: "",
        lambda quest: FAMILIES[quest.family].wrong(quest.args, Random(4)),
        lambda quest: f"{quest.right} " * 65,
    ],
    ids=["nothing", "the same type", "no end"],
)
def test_an_almost_right_second_answer_is_wrong(tmp_path: Path, second: Callable[[Quest], str]) -> None:
    result, folder = evaluate(tmp_path, answers_by_prompt(second).__getitem__)
    assert not any(result.scores["second turn right"].items) and all(result.scores["first turn right"].items)
    reasons = lamb_turns.why_wrong(folder, list(folder.read("greedy.jsonl", Answer)))
    assert not any(reasons[::2]) and all(reasons[1::2])


def test_the_benchmark_locates_its_items(tmp_path: Path) -> None:
    prompts, indices = lamb_turns.prompts(SETTINGS), lamb_turns.locate_items(SETTINGS)
    exam = dialogues()
    assert len(prompts) == len(set(prompts)) == 800
    assert [prompts[index] for index in indices["first turn right"]] == [task_text(first) for first, _ in exam]
    for index, (first, follow_up) in zip(indices["second turn right"], exam, strict=True):
        assert prompts[index] == f"User: {task_text(first)}\nAssistant: {first.right}\nUser: {follow_up.instruction}"
    result, _ = evaluate(tmp_path, lambda prompt: "It is.")
    assert {name: len(score.items) for name, score in result.scores.items()} == {
        name: len(row) for name, row in indices.items()
    }


def test_the_validation_part_is_asked_and_not_saved(tmp_path: Path) -> None:
    context = make_context(tmp_path, lambda prompt: "It is.")
    part = lamb_turns.BENCHMARK.validation
    assert part and len(part.run(context).scores[part.score].items) == 400 and not list(context.folder.path.iterdir())
    assert part.planned and part.planned.num_answers == len(part.prompts(SETTINGS)) == 800


def test_lamb_itself_answers_second_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Says nothing about how well."""
    monkeypatch.setattr(lamb_turns, "dialogues", lambda: dialogues()[:6])
    run = make_run(tmp_path / "run", iterations=1, model="lamb", evaluation=["lamb_turns"])
    assert "benchmark lamb_turns needs no data" in refused("eval", run, "lamb_turns", "--data", "mine.jsonl")
    done = isheep("eval", run, "--iteration", "0")
    assert done.code == 0 and "second turn right" in done.out, done.err
    result = load_result(open_run(run)[1], 0, "lamb_turns")
    assert result and {len(score.items) for score in result.scores.values()} == {6}
    assert isheep("report", run).code == 0
    items = page_rows((run / "report.html").read_text(encoding="utf-8"))["items"]
    assert items["prompt"] == lamb_turns.prompts(SETTINGS) and set(items["score"]) == {"second turn right"}
    assert [verdicts[0] for verdicts in items["verdicts"][1::2]] == list(result.scores["second turn right"].items)
    assert all(isinstance(answers[0], str) for answers in items["answers"])
