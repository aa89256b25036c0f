"""The stages at the engine door: answers, ratings, filters, the loop; and the final table."""

import errno
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isheep.algorithm import align
from isheep.backends import Backend
from isheep.cli import main
from isheep.engines.function import SeededFunctionEngine
from isheep.engines.user_engine import UserEngine
from isheep.errors import UserError
from isheep.evaluation import tables
from isheep.evaluation.counts import count_rows
from isheep.filters.base import FilterContext
from isheep.filters.contamination import ContaminationFilter
from isheep.filters.custom import PairFunction
from isheep.filters.score import ScoreFilter
from isheep.recipe.schema import Recipe
from isheep.records import AssessedPair, Completion, Drop, Model, Pair, Sampling, Task
from isheep.rundir.folder import RunFolder
from isheep.rundir.run import open_run_for_writing
from isheep.rundir.training_file import read_training_file
from isheep.stages.assess import assess
from isheep.stages.filters import find_drops, kept_pairs
from isheep.stages.grades import expected_grade, parse_grade
from isheep.stages.respond import respond
from tests.helpers.backends import use_backend
from tests.helpers.fakes import FakeChat
from tests.helpers.rows import make_pair, rate_pair
from tests.helpers.stages import stage_context, write_killed_stage

TASKS = [Task(id=f"t1-{n}", instruction=f"Name thing {n}", input="here" if n % 2 else "") for n in range(7)]


class RecordingEngine(SeededFunctionEngine):
    """A fake engine that remembers its calls."""

    def __init__(self) -> None:
        super().__init__(lambda prompt, seed: f" seed {seed} <|end|> 5||more")
        self.calls: list[tuple[list[str], Sampling, int]] = []

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        self.calls.append((list(prompts), sampling, seed))
        return super().generate(prompts, sampling, seed)


# --- answers


def test_answers_come_in_fixed_batches_each_seeded_by_its_index(tmp_path: Path) -> None:
    first, resumed_engine = RecordingEngine(), RecordingEngine()
    response = {"batch_size": 3, "sampling": {"stop": ["STOP"]}}
    rows = respond(stage_context(tmp_path / "whole", first, response=response), TASKS)
    resumed = stage_context(tmp_path / "resumed", resumed_engine, response=response)
    write_killed_stage(resumed, "pairs.jsonl", rows[:4])
    assert respond(resumed, TASKS) == rows and resumed_engine.calls == first.calls[1:]
    assert [len(prompts) for prompts, _, _ in first.calls] == [3, 3, 1]
    assert len({seed for _, _, seed in first.calls}) == 3
    assert first.calls[0][0][1] == "<|user|>Name thing 1\nhere<|answer|>"
    assert first.calls[0][1].stop == ("<|end|>", "STOP")
    assert [row.id for row in rows] == [task.id for task in TASKS]
    assert rows[0].output.startswith("seed ") and not rows[0].output.endswith(" ")


def test_another_iteration_draws_other_noise(tmp_path: Path) -> None:
    engines = [RecordingEngine(), RecordingEngine()]
    for iteration, engine in enumerate(engines, 1):
        respond(stage_context(tmp_path, engine, iteration), TASKS)
    assert engines[0].calls[0][2] != engines[1].calls[0][2]


def test_a_plain_prompt_has_no_template(tmp_path: Path) -> None:
    engine = RecordingEngine()
    respond(stage_context(tmp_path, engine, response={"prompt": "plain"}), TASKS[:2])
    assert engine.calls[0][0][1] == "Instruction: Name thing 1\nhere\nResponse:"
    # A tuned model writes the end token after a plain prompt too.
    assert engine.calls[0][1].stop == ("<|end|>",)


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


# --- the loop


def recipe(**changed: Any) -> Recipe:
    small = {"synthesis": {"tasks": 6, "batch_size": 2, "novelty": None, "budget": 8}, "evaluation": ["lamb"]}
    return Recipe.model_validate({"model": "fake", "iterations": 2, **small, **changed})


class World:
    """Fakes at the doors: what the models write, and what was opened and trained."""

    score = "9"

    def __init__(self) -> None:
        self.opened: list[Model] = []
        self.generated: list[Model] = []
        self.trained: list[int] = []

    def open_engine(self, recipe: Recipe, model: Model) -> SeededFunctionEngine:
        self.opened.append(model)

        def write(prompt: str, seed: int) -> str:
            self.generated.append(model)
            if prompt.endswith("<|answer|>"):
                return f"It is {seed}.<|end|>"
            return (
                f"{self.score}||ok"
                if "Please rate" in prompt
                else f" Tell me all about {seed}\nInput: <noinput>\n###\n"
            )

        return SeededFunctionEngine(write)

    def train(self, recipe: Recipe, chat: Any, start: Model, training_file: Path, seed: int, into: Path) -> None:
        data = read_training_file(training_file)
        self.trained.append(len(data.rows))
        record = {"rows": {"trained": len(data.rows) - 1}, "training_file_sha256": data.sha256}
        (into / "training.json").write_text(json.dumps(record))

    @property
    def backend(self) -> Backend:
        return Backend(self.open_engine, self.train, lambda name, model: FakeChat())  # type: ignore[arg-type, return-value]

    def run(self, recipe: Recipe, path: Path, filters: Sequence[PairFunction] = ()) -> tuple[list[Model], RunFolder]:
        with open_run_for_writing(path, recipe) as folder:
            return list(align(recipe, folder, backend=self.backend, filters=filters)), folder


@pytest.fixture
def world() -> World:
    return World()


def test_the_loop_yields_the_base_and_a_model_for_each_iteration(world: World, tmp_path: Path) -> None:
    models, folder = world.run(recipe(), tmp_path / "run")
    adapters = [None, *(tmp_path / "run" / f"iter-{t}" / "adapter" for t in (1, 2))]
    assert models == [Model("fake", adapter) for adapter in adapters]
    # The last model generates nothing.
    assert set(world.generated) == set(models[:2])
    assert world.trained == [6, 6]
    assert count_rows(folder, 2) == (6, 6, 0, 5, None)


def test_a_finished_run_generates_nothing(world: World, tmp_path: Path) -> None:
    first, _ = world.run(recipe(), tmp_path / "run")
    world.generated.clear()
    assert world.run(recipe(), tmp_path / "run")[0] == first
    assert world.generated == [] and world.trained == [6, 6]


def test_a_run_continues_with_more_iterations(world: World, tmp_path: Path) -> None:
    world.run(recipe(), tmp_path / "run")
    grown, _ = world.run(recipe(iterations=3), tmp_path / "run")
    models, _ = world.run(recipe(iterations=3), tmp_path / "whole")
    names = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.json*") if path.is_file()]
    for name in names:
        if name.name != "run.jsonl":
            assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_base_may_judge(world: World, tmp_path: Path) -> None:
    judged = recipe(assessment={"judge": "base"})
    world.run(judged, tmp_path / "run")
    aligned = Model("fake", tmp_path / "run" / "iter-1" / "adapter")
    assert world.opened == [Model("fake"), aligned, Model("fake")]


def test_without_assessment_and_filters_every_pair_is_kept(world: World, tmp_path: Path) -> None:
    _, folder = world.run(recipe(assessment=None, filters=[]), tmp_path / "run")
    assert count_rows(folder, 1) == (6, 6, None, 5, None)
    assert not folder.has("iter-1/assessed.jsonl")


ASKING = {
    "perplexity.jsonl": {"kind": "perplexity", "at_most": 50},
    "embeddings.jsonl": {"kind": "density", "clusters": 3},
    "both": {"kind": "density", "clusters": 3, "choose": "lowest_perplexity"},
    "neither": {"kind": "random", "keep": 3},
}


@pytest.mark.parametrize("name", ASKING)
def test_the_model_computes_only_the_measures_that_a_filter_needs(world: World, tmp_path: Path, name: str) -> None:
    settings = recipe(filters=[{"kind": "score", "at_least": 8}, ASKING[name]], assessment={"judge": "base"})
    _, folder = world.run(settings, tmp_path / "run")
    files = {path.name for path in (folder.path / "iter-2").iterdir()} & {"perplexity.jsonl", "embeddings.jsonl"}
    assert files == {"both": {"perplexity.jsonl", "embeddings.jsonl"}, "neither": set()}.get(name, {name})
    assert world.trained == [6 if name == "perplexity.jsonl" else 3] * 2


def test_a_resume_does_not_filter_again(world: World, tmp_path: Path) -> None:
    settings, filtered_pairs = recipe(filters=[ASKING["both"]]), list[str]()

    def keep(pair: Pair) -> None:
        filtered_pairs.append(pair.id)

    first, folder = world.run(settings, tmp_path / "run", [keep])
    num_filtered = len(filtered_pairs)
    (folder.path / "iter-1" / "embeddings.jsonl").unlink()
    assert world.run(settings, tmp_path / "run", [keep])[0] == first and not folder.has("iter-1/embeddings.jsonl")
    assert num_filtered and len(filtered_pairs) == num_filtered


def test_a_run_that_keeps_no_pair_ends_with_an_error(world: World, tmp_path: Path) -> None:
    world.score = "no idea"
    wrong = r"iteration 1: 0 of 6 pairs left to train on.* with an unreadable rating 6;.* with a new run folder"
    with pytest.raises(UserError, match=wrong):
        world.run(recipe(), tmp_path / "run")


def test_a_run_says_that_its_budget_is_used_up(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = world.run(
        recipe(synthesis={"tasks": 50, "batch_size": 2, "novelty": None, "budget": 8}), tmp_path / "run"
    )
    assert (
        "all 8 prompts of synthesis.budget are used, going on with 8 of 50 tasks"
        in (folder.path / "run.jsonl").read_text()
    )


def test_a_full_disk_is_an_error_of_one_line_and_no_rows_are_lost(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    sections = "synthesis: {tasks: 6, batch_size: 2, novelty: null}\nresponse: {batch_size: 2}\n"
    file.write_text(f"model: fake\niterations: 1\n{sections}")
    run_it = ["run", str(file), "--out", str(tmp_path / "run")]
    answered: list[int] = []

    def full(self: World, *arguments: Any) -> Any:
        engine = World.open_engine(self, *arguments)
        write = engine.answer

        def answer(prompt: str, seed: int) -> str:
            answered.append(seed)
            if len(answered) == 11:
                raise OSError(errno.ENOSPC, "No space left on device", "pairs.jsonl.part")
            return write(prompt, seed)

        engine.answer = answer
        return engine

    use_backend(monkeypatch, replace(world.backend, open_engine=partial(full, world)))
    with pytest.raises(SystemExit) as end:
        main(run_it)
    error = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 2 and error.startswith("isheep: no space left on the device for pairs.jsonl.part")
    assert len((tmp_path / "run" / "iter-1" / "pairs.jsonl.part").read_text().splitlines()) == 4
    with pytest.raises(SystemExit) as end:
        main(run_it)
    assert end.value.code == 0 and "training rows" in capsys.readouterr().out


def test_an_interrupted_command_prints_one_line(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    use_backend(monkeypatch, replace(world.backend, train=interrupted))
    words = ["run", "lamb", "synthesis.tasks=6", "synthesis.novelty=null", "evaluation=[]"]
    with pytest.raises(SystemExit) as end:
        main([*words, "filters=[{kind: score, at_least: 8}]", "--out", str(tmp_path / "run")])
    assert end.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("isheep: interrupted; everything finished is saved")
    assert (tmp_path / "run" / "iter-1" / "train.json").exists()


def test_an_edited_training_file_is_learned_from_or_refused(world: World, tmp_path: Path) -> None:
    world.run(recipe(iterations=1), tmp_path)
    assert world.trained == [6]
    training_file, adapter = tmp_path / "iter-1" / "train.json", tmp_path / "iter-1" / "adapter"
    training_file.write_text(json.dumps(json.loads(training_file.read_text())[:-2]))
    with pytest.raises(UserError, match=r"train\.json has changed since .*adapter was trained on it: restore it, or"):
        world.run(recipe(iterations=1), tmp_path)
    shutil.rmtree(adapter)
    world.run(recipe(iterations=1), tmp_path)
    assert world.trained == [6, 4]


# --- functions of the user's own


def test_a_function_from_prompts_to_texts_is_an_engine(tmp_path: Path) -> None:
    world, prompts_of_calls = World(), []

    def generate(prompts: list[str]) -> list[str]:
        prompts_of_calls.append(prompts)
        engine = world.open_engine(recipe(), Model("fake"))
        return [engine.answer(prompt, len(prompts_of_calls) * 100 + row) for row, prompt in enumerate(prompts)]

    backend = replace(world.backend, open_engine=Backend.of_engine(generate).open_engine)
    with open_run_for_writing(tmp_path, recipe()) as folder:
        assert len(list(align(recipe(), folder, backend=backend))) == 3
    assert world.trained == [6, 6] and len(prompts_of_calls) > 10


def test_an_engine_that_is_passed_in_generates_for_every_model() -> None:
    engine = RecordingEngine()
    backend = Backend.of_engine(engine)
    opened = [backend.open_engine(recipe(), model) for model in (Model("fake"), Model("fake", Path("adapter")))]
    assert all(isinstance(user_engine, UserEngine) and user_engine.engine is engine for user_engine in opened)
    assert backend.check_engine(recipe(), False) == []


def test_a_function_from_a_pair_to_a_reason_is_a_filter(world: World, tmp_path: Path) -> None:
    def first_of_all(pair: Pair) -> str | None:
        return "it is the first" if pair.id.endswith("0") else None

    with open_run_for_writing(tmp_path, recipe()) as folder:
        list(align(recipe(), folder, backend=world.backend, filters=[first_of_all]))
        drops = folder.read("iter-1/dropped.jsonl", Drop)
    assert drops == [Drop(row="t1-00000", by="first_of_all", why="it is the first")] and world.trained == [5, 5]


# --- the training file


def test_an_edit_of_the_training_file_before_training_changes_what_is_learned(world: World, tmp_path: Path) -> None:
    def fail(*arguments: Any) -> None:
        raise KeyboardInterrupt

    training_file = tmp_path / "iter-1" / "train.json"
    with open_run_for_writing(tmp_path, recipe()) as folder:
        with pytest.raises(KeyboardInterrupt):
            list(align(recipe(), folder, backend=replace(world.backend, train=fail)))
        rows = json.loads(training_file.read_text())
        training_file.write_text(json.dumps(rows[:4]))
        list(align(recipe(), folder, backend=world.backend))
    assert world.trained == [4, 6]


# --- the table


def test_the_table_of_a_run_has_percentages_with_intervals(world: World, tmp_path: Path) -> None:
    from rich.console import Console

    _, folder = world.run(recipe(), tmp_path / "run")
    for t, right in enumerate([10, 30]):
        items = {"right": [n < right for n in range(40)]}
        (folder / ("iter-1" if t else "base")).json(
            "eval/lamb.json", lambda items=items: {"scores": {"right": {"items": items["right"]}}}
        )
    with (console := Console(width=100)).capture() as capture:
        console.print(tables.run_table(recipe(), folder, full=True))
    text = capture.get()
    assert "25 [14,40]" in text and "75 [60,86]" in text and "<0.0001" in text
