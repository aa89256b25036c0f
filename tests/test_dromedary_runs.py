"""Dromedary's method as whole runs, on fakes and on real models."""

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from isheep import prompts
from isheep.algorithm import align
from isheep.backends import Backend
from isheep.cli import main
from isheep.engines.function import SeededFunctionEngine
from isheep.errors import UserError
from isheep.evaluation.counts import count_rows
from isheep.lamb import CHECKPOINT as LAMB_CHECKPOINT
from isheep.recipe.schema import Recipe
from isheep.records import Drop, Model, Pair, Reply, Task
from isheep.rundir.folder import RunFolder
from isheep.rundir.run import open_run_for_writing
from isheep.rundir.training_file import read_training_file
from isheep.stages.respond import respond
from tests.helpers.copies import copy_writable
from tests.helpers.dromedary import LONG, SHORT
from tests.helpers.fakes import FakeChat
from tests.helpers.hashes import hash_files
from tests.helpers.kills import count_moments, run_until_killed
from tests.helpers.stages import stage_context

# --- the whole of it, on fakes

SETTINGS: dict[str, Any] = {
    "model": "fake",
    "iterations": 2,
    "synthesis": {"tasks": 8, "batch_size": 4, "novelty": None, "budget": 12, "topics": {"share": 0.5, "rounds": 2}},
    "response": {"batch_size": 4, "prompt": LONG},
    "assessment": None,
    "filters": [],
    "iteration": {
        2: {"synthesis": {"tasks_of": 1}, "response": {"prompt": "dromedary/verbose"}, "training": {"start": "last"}}
    },
}


class World:
    """Fakes at the doors: what each model is asked, and what each training starts from."""

    def __init__(self) -> None:
        self.asked: dict[Path | None, list[str]] = {}
        self.starts: list[Path | None] = []

    def open_engine(self, recipe: Recipe, model: Model) -> SeededFunctionEngine:
        def answer(prompt: str, seed: int) -> str:
            self.asked.setdefault(model.adapter, []).append(prompt)
            if prompt.endswith("Thoughts:"):
                return f" Think {seed}.\n" + "Assistant: Short." * (not prompt.endswith("7.\nThoughts:"))
            if prompt.endswith(";"):
                return " new topic; newer topic"
            return "Long." if prompt.endswith("<|answer|>") else f" Tell me about {seed % 10**6} and {seed % 10}."

        return SeededFunctionEngine(answer)

    def train(self, recipe: Recipe, chat: Any, start: Model, training_file: Path, seed: int, into: Path) -> None:
        self.starts.append(start.adapter)
        (into / "training.json").write_text(
            json.dumps({"rows": {"trained": len(read_training_file(training_file).rows)}})
        )

    def run(self, path: Path, **changed: Any) -> RunFolder:
        recipe = Recipe.model_validate({**SETTINGS, **changed})
        backend = Backend(self.open_engine, self.train, lambda name, model: FakeChat())  # type: ignore[arg-type, return-value]
        with open_run_for_writing(path, recipe) as folder:
            list(align(recipe, folder, backend=backend))
            return folder


@pytest.fixture
def world() -> World:
    return World()


def test_a_run_has_dromedary_s_four_stages(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = world.run(tmp_path / "run")
    first = tmp_path / "run/iter-1"
    base, engraved = world.asked[None], world.asked[first / "adapter"]
    # topics and tasks, in part for topics, which the model has written in part itself
    assert [prompt.endswith(";") for prompt in base[:40]] == [True] * 40
    assert "iteration 1: 40 new topics in 40 replies, 40 refused" in capsys.readouterr().err
    assert [bool(re.search(r"Topic: .*\n6\. Instruction:$", prompt)) for prompt in base[40:48]] == [
        False,
        False,
        True,
        True,
    ] * 2
    # answers under principles, and engraving: the thoughts and the principles are not trained on
    assert all(prompt.startswith(prompts.load_prompts(LONG)["preamble"]) for prompt in base[48:])
    tasks, pairs = folder / "iter-1", (folder / "iter-1").read("pairs.jsonl", Pair)
    silent = [pair.id for pair in pairs if pair.instruction.endswith("7.")]
    assert [pair.id for pair in pairs if pair.unanswered] == silent
    assert (folder / "iter-1").read("dropped.jsonl", Drop) == [
        Drop(row=id, by="answer", why="no answer after the thoughts") for id in silent
    ]
    trained = json.loads((first / "train.json").read_text())
    assert trained == [
        {"instruction": pair.instruction, "input": "", "output": "Short.", "finish": "stop"}
        for pair in pairs
        if not pair.unanswered
    ]
    # verbose cloning: the same tasks, no principles, from the engraved model and onto it
    verbose = prompts.load_prompts("dromedary/verbose")["chat"]
    again = tasks.read("tasks.jsonl", Task)
    assert engraved == [f"<|user|>{verbose.replace('{instruction}', task.content)}<|answer|>" for task in again]
    assert {path.name for path in (tmp_path / "run/iter-2").glob("*.jsonl")} == {
        "tasks.jsonl",
        "pairs.jsonl",
        "dropped.jsonl",
    }
    assert (tmp_path / "run/iter-2/tasks.jsonl").read_bytes() == (first / "tasks.jsonl").read_bytes()
    cloned = json.loads((tmp_path / "run/iter-2/train.json").read_text())
    assert cloned == [
        {"instruction": task.instruction, "input": "", "output": "Long.", "finish": "stop"} for task in again
    ]
    assert world.starts == [None, first / "adapter"]


def test_every_iteration_may_have_settings_of_its_own(world: World, tmp_path: Path) -> None:
    """Each key of iteration 2 by itself changes what it says, and nothing else does."""
    world.run(tmp_path / "plain", iteration={})
    assert (tmp_path / "plain/iter-2/replies.jsonl").exists() and world.starts == [None, None]
    world.run(tmp_path / "tasks", iteration={2: {"synthesis": {"tasks_of": 1}}})
    assert not (tmp_path / "tasks/iter-2/replies.jsonl").exists()
    assert all(prompt.endswith("Thoughts:") for prompt in world.asked[tmp_path / "tasks/iter-1/adapter"])
    world.run(tmp_path / "start", iteration={2: {"training": {"start": "last"}}})
    assert world.starts[-1] == tmp_path / "start/iter-1/adapter"
    world.run(tmp_path / "prompt", iteration={2: {"response": {"prompt": "dromedary/verbose"}}})
    assert sum(prompt.endswith("<|answer|>") for prompt in world.asked[tmp_path / "prompt/iter-1/adapter"]) == 8


def test_topics_may_be_of_a_file_of_one_s_own(world: World, tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    kinds = [{"kind": "sings", "topics": [f"bird {n}"], "instruction": f"Sing to me of bird {n}."} for n in range(5)]
    own.write_text(yaml.safe_dump({**prompts.read_prompt_file("dromedary/topics"), "kinds": kinds}))
    synthesis = {**SETTINGS["synthesis"], "topics": {"file": str(own), "share": 1.0, "rounds": 1}}
    folder = world.run(tmp_path / "run", synthesis=synthesis)
    assert all(world.asked[None][n].endswith(f"sings\nTopics: bird {n};") for n in range(5))
    assert all("6. Kind: sings\n" in prompt for prompt in world.asked[None][5:13])
    assert yaml.safe_load((folder.path / "prompts.yaml").read_text()) == {str(own): own.read_text()}


def test_the_seeds_are_enough_for_every_iteration(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="seed tasks .* found, 999 needed for one prompt"):
        world.run(tmp_path / "run", iteration={2: {"synthesis": {"examples": 999, "topics": None}}})


def test_pairs_without_an_answer_are_counted_and_shown(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = world.run(tmp_path / "run", synthesis={**SETTINGS["synthesis"], "tasks": 12}, seed=3)
    number = sum(pair.unanswered for pair in (folder / "iter-1").read("pairs.jsonl", Pair))
    assert number and count_rows(folder, 1).unanswered == number and count_rows(folder, 2).unanswered is None
    for words, expected in (
        (["status", str(folder.path)], rf"unreadable answers +{number} +-"),
        (["show", str(folder.path), "1", "--dropped"], rf"dropped by answer: {number}"),
        (["show", str(folder.path), "1", "--dropped"], r"thoughts: Think \d+\.\n +output: \(no answer\)"),
        (["show", str(folder.path), "2"], r"instruction: Tell me .*\n +output: Long\."),
    ):
        with pytest.raises(SystemExit):
            main(words)
        assert re.search(expected, capsys.readouterr().out), expected


class SilentWorld(World):
    """Models that never write an answer after their thoughts."""

    def open_engine(self, recipe: Recipe, model: Model) -> SeededFunctionEngine:
        return SeededFunctionEngine(lambda prompt, seed: f" Tell me {seed}")


def test_a_run_without_any_answer_ends_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"0 of 8 pairs left .*dropped by: answer 8;"):
        SilentWorld().run(tmp_path / "run", synthesis={**SETTINGS["synthesis"], "rules": False, "topics": None})


@pytest.mark.parametrize("share", [0.05, 0.4, 0.8])
def test_a_run_that_is_killed_and_started_again_has_the_same_files(
    undisturbed: Path, tmp_path: Path, share: float
) -> None:
    out = tmp_path / "killed"
    assert run_until_killed(out, 1 + int(share * count_moments(undisturbed)), "dromedary") == -signal.SIGKILL
    assert run_until_killed(out, 3, "dromedary") == -signal.SIGKILL
    assert run_until_killed(out, 0, "dromedary") == 0
    assert hash_files(out) == hash_files(undisturbed)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert run_until_killed(out, 0, "dromedary") == 0
    assert {"iter-1/topics.jsonl", "iter-2/adapter/weights"} <= hash_files(out).keys()
    return out


# --- real models


@pytest.mark.numeric
def test_lamb_answers_under_the_short_principles(tmp_path: Path) -> None:
    """It has read pages of this form: nearly all of its replies hold an answer."""
    from isheep.engines.transformers import open_engine
    from isheep.lamb.pages import task_text
    from isheep.lamb.suite import validation
    from isheep.models.chat_template import load_chat_template

    tasks = [Task(id=str(n), instruction=task_text(quest)) for n, quest in enumerate(validation()[:32])]
    response = {"prompt": SHORT, "sampling": {"top_p": 1.0, "max_tokens": 96}}
    engine = open_engine(Model("lamb"), threads=1, device="cpu")
    chat = load_chat_template("tokenizer", "lamb")
    pairs = respond(stage_context(tmp_path, engine, chat=chat, response=response), tasks)
    assert sum(pair.unanswered for pair in pairs) <= 4 and all("Assistant:" not in pair.output for pair in pairs)


def test_a_prompt_that_does_not_fit_lamb_is_refused_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb, name in (("run", "lamb/dromedary"), ("sweep", str(tmp_path / "sweep.yaml"))):
        (tmp_path / "sweep.yaml").write_text("model: lamb\ngrid: {seed: [1, 2]}\n")
        with pytest.raises(SystemExit) as end:
            main([verb, name, "--out", str(tmp_path / "run"), f"response.prompt={LONG}"])
        error = capsys.readouterr().err
        assert end.value.code == 2 and error.count("\n") == 1 and not (tmp_path / "run").exists()
        assert re.match(rf"isheep: response.prompt '{LONG}' has 1\d\d\d tokens .* and 'lamb' reads 1024: take", error)


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lamb with a context that it was never trained on: it reads the long principles, and writes noise after them."""
    folder = tmp_path_factory.mktemp("base") / "far"
    copy_writable(LAMB_CHECKPOINT, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    return folder


SMALL = [
    "synthesis={tasks: 12, batch_size: 8, novelty: null, sampling: {max_tokens: 48}, topics: {share: 0.5, rounds: 1}}",
    "response={batch_size: 12, sampling: {temperature: 3.0, top_p: 1.0, max_tokens: 24}}",
    "training={epochs: 1, batch_size: 4, eval_every: 1}",
    *("evaluation=[]", "filters=[]", "machine.threads=1", "machine.device=cpu"),
]


@pytest.mark.numeric
@pytest.mark.slow
def test_the_long_principles_run_end_to_end_on_noise(
    far: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All four stages through the command line; a letter marks the answer, which noise writes now and then."""
    prompt_file = tmp_path / "mine.yaml"
    turn = {"turn": "User: {instruction}\nThoughts: {thoughts}e"}
    prompt_file.write_text(yaml.safe_dump(prompts.load_prompts(LONG) | turn))
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as end:
        main(["run", "lamb/dromedary", f"model={far}", *SMALL, f"response.prompt={prompt_file}", "--out", str(out)])
    assert end.value.code in (0, None), capsys.readouterr().err
    folder = RunFolder(out, out)
    pairs = (folder / "iter-1").read("pairs.jsonl", Pair)
    dropped = {drop.row for drop in (folder / "iter-1").read("dropped.jsonl", Drop) if drop.by == "answer"}
    assert {pair.id for pair in pairs if pair.unanswered} == dropped and 0 < len(dropped) < 11
    assert len((folder / "iter-1").read("topics.jsonl", Reply)) == 20
    assert [p.id for p in (folder / "iter-2").read("pairs.jsonl", Pair)] == [p.id for p in pairs]
    adapters = [out / f"iter-{t}/adapter/adapter_model.safetensors" for t in (1, 2)]
    assert adapters[0].read_bytes() != adapters[1].read_bytes()
    assert yaml.safe_load((out / "prompts.yaml").read_text()) == {str(prompt_file): prompt_file.read_text()}


def test_a_model_that_never_answers_under_principles_ends_the_run_with_an_error(
    far: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(
            ["run", "lamb/dromedary", f"model={far}", *SMALL, f"response.prompt={LONG}", "--out", str(tmp_path / "run")]
        )
    assert end.value.code == 2
    assert "0 of 12 pairs left to train on, and training needs 2 (dropped by: answer 12;" in capsys.readouterr().err
