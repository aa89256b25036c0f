"""Self-Instruct's own way to pairs: kinds, instances in two orders, what is unreadable; on a fake and for real."""

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isheep.cli import main
from isheep.engines.function import SeededFunctionEngine
from isheep.errors import UserError
from isheep.recipe.schema import Response
from isheep.records import Completion, Instance, Pair, Sampling, Task, TaskKind
from isheep.seeds import SeedTask
from isheep.stages.context import StageContext
from isheep.stages.instances import (
    classify_tasks,
    generate_instances,
    pairs_of_instances,
    parse_kind,
    parse_part,
    writing_order,
)
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.fakes import FakeChat
from tests.helpers.stages import stage_context, write_killed_stage

SEEDS = [
    SeedTask(
        id=f"s{n}",
        instruction=f"Sort the {n} thing." if n % 2 else f"Tell of {n}.",
        input=f"thing {n}" if n % 3 else "",
        output=f"group {n}" if n % 2 else f"Story {n}.\nThe end.",
        is_classification=bool(n % 2),
    )
    for n in range(20)
]
TASKS = [Task(id=f"t1-{n}", instruction=f"Do task number {n}") for n in range(10)]
RESPONSE = {"prompt": "instances", "batch_size": 4, "examples": 4, "sampling": {"max_tokens": 5, "stop": ["STOP"]}}


class Heard(SeededFunctionEngine):
    """A fake engine that says of every third task that it is classification, of the next that it is not, and of the
    last nothing that can be read; a part of an instance is numbered by its task. It remembers its calls."""

    def __init__(self, parts: dict[str, str] | None = None) -> None:
        super().__init__(self.write)
        self.calls: list[tuple[list[str], Sampling, int]] = []
        self.parts = parts or {"Input": " thing {n}\n5. Output: never", "Output": " words {n} {seed}\n###\n6."}

    def write(self, prompt: str, seed: int) -> str:
        n = re.findall(r"Do task number (\d+)", prompt)[-1]
        label = re.findall(r"\d+\. (\w+):$", prompt)[0]
        if label == "Classification":
            return (" Yes\n###", " no, it is open", " 18.")[int(n) % 3]
        return self.parts[label].replace("{n}", n).replace("{seed}", str(seed % 1000))

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        self.calls.append((list(prompts), sampling, seed))
        return super().generate(prompts, sampling, seed)


def instance_context(
    folder: Path, engine: SeededFunctionEngine, response: dict[str, Any] | None = None, iteration: int = 1
) -> StageContext:
    settings = response or RESPONSE
    return stage_context(folder, engine, iteration, seed_tasks=SEEDS, chat=FakeChat(end="<end>"), response=settings)


def classified(engine: SeededFunctionEngine, done: Sequence[TaskKind] = ()) -> list[TaskKind]:
    """The kinds of the tasks, when a killed run had made the rows `done`."""
    with tempfile.TemporaryDirectory() as folder:
        context = instance_context(Path(folder), engine)
        write_killed_stage(context, "task_kinds.jsonl", done)
        return list(classify_tasks(context, TASKS))


def generated(
    engine: SeededFunctionEngine, done: Sequence[Instance] = (), response: dict[str, Any] | None = None, count: int = 10
) -> list[Instance]:
    """The instances of the first `count` tasks, when a killed run had made the rows `done`."""
    tasks_with_kinds = list(zip(TASKS[:count], classified(Heard()), strict=False))
    with tempfile.TemporaryDirectory() as folder:
        context = instance_context(Path(folder), engine, response)
        write_killed_stage(context, "instances.jsonl", done)
        return list(generate_instances(context, tasks_with_kinds))


# --- kinds


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (" Yes", True), ("yes.", True), (" YES, a group", True), ("\n**Yes**", True), (" No", False), ("(no)", False),
        (" no\nYes", False), ("", None), (" Yesterday", None), (" None", None), (" It is: yes", None), (" 18.", None),
    ],
)  # fmt: skip
def test_a_reply_is_read_as_a_kind(reply: str, kind: bool | None) -> None:
    assert parse_kind(reply) is kind


@given(st.text() | st.text("yesnoYESNO .*_\n"))
def test_any_reply_is_a_kind_or_unreadable(reply: str) -> None:
    assert parse_kind(reply) in (True, False, None)


def test_kinds_are_generated_greedily_with_examples_of_both_kinds_and_resume() -> None:
    engine, resumed_engine = Heard(), Heard()
    rows = classified(engine)
    assert [row.classification for row in rows] == [True, False, None] * 3 + [True]
    assert (rows[0].reply, rows[2].reply, rows[2].tokens) == (" Yes", " 18.", 1)
    assert [len(prompts) for prompts, _, _ in engine.calls] == [4, 4, 2]
    heads = {prompt.partition("Do task")[0] for prompt in engine.calls[0][0]}
    assert len(heads) == 1 and len({prompts[0].partition("Do task")[0] for prompts, _, _ in engine.calls}) == 3
    assert re.findall(r"\d+\. Instruction: (\w+)", heads.pop()).count("Sort") == 2
    for prompts, sampling, _ in engine.calls:
        examples = re.findall(r"Instruction: (\w+) .*\n\d\. Classification: (\w+)", prompts[0])
        assert sorted(examples) == [("Sort", "Yes")] * 2 + [("Tell", "No")] * 2
        assert sampling.temperature == 0 and sampling.stop == ("<end>", "\n")
        assert prompts[0].endswith("5. Classification:")
    assert classified(resumed_engine, rows[:4]) == rows and resumed_engine.calls == engine.calls[1:]


# --- instances


def test_the_output_is_written_first_only_for_classification() -> None:
    engine = Heard()
    rows = generated(engine)
    # The calls of the first batch: input first (two calls), then output first (two calls).
    first, then, label, fits = engine.calls[:4]
    assert [len(prompts) for prompts, _, _ in engine.calls] == [2, 2, 2, 2, 3, 3, 1, 1, 1, 1, 1, 1]
    assert first[0][0].endswith("5. Instruction: Do task number 1\n5. Input:")
    assert then[0][1].endswith(
        "5. Instruction: Do task number 2\n5. Input: thing 2\n5. Output:"
        # A task whose kind is unreadable is written input first, too.
    )
    assert label[0][0].endswith("5. Instruction: Do task number 0\n5. Output:")
    assert fits[0][1].endswith(f"5. Output: {rows[3].output}\n5. Input:")
    assert all("Sort" not in prompt for prompt in first[0] + then[0])
    assert all("Tell" not in prompt for prompt in label[0] + fits[0])
    assert "1. Output: group" in label[0][0] and "<noinput>" in first[0][0] and "The end.\n###\n" in first[0][0]
    assert first[1].stop == ("<end>", "\n###", "\n5. Output:", "STOP") and label[1].stop[2] == "\n5. Input:"
    assert [row.id for row in rows] == [task.id for task in TASKS]
    assert (rows[4].input, rows[4].output.split()[:2], rows[4].tokens) == ("thing 4", ["words", "4"], 5)
    assert len({seed for _, _, seed in engine.calls}) == 12


@pytest.mark.parametrize("num_rows", [4, 8])
def test_an_interrupted_stage_ends_the_same(num_rows: int) -> None:
    rows = generated(Heard())
    assert generated(Heard(), rows[:num_rows]) == rows


def test_the_number_of_seed_tasks_in_the_prompt_can_be_set() -> None:
    engine = Heard({"Input": " a", "Output": " b"})
    generated(engine, response={**RESPONSE, "examples": 2})
    assert engine.calls[0][0][0].endswith("\n3. Input:")
    assert Response(prompt="instances").num_instance_examples == 6


@pytest.mark.parametrize(
    ("text", "finish", "expected", "cut"),
    [
        (" red \n", "stop", "red", False),
        ("a\r\nb", "stop", "a\nb", False),
        (" red\n7. Output: x", "length", "red", False),
        (" red\n### 8. Instruction: x", "length", "red", False),
        (" red ### and blue", "stop", "red ### and blue", False),
        (" red\nInstruction: x", "stop", "red", False),
        (" red\n７．Output：x", "stop", "red", False),
        (" red\n٧) Instruction : x", "stop", "red", False),
        (" red an", "length", "red an", True),
        ("", "length", "", True),
        (" 7. Output: x", "stop", "", False),
    ],
)
def test_a_part_ends_where_the_next_one_begins(text: str, finish: str, expected: str, cut: bool) -> None:
    assert parse_part(Completion(text, 3, finish)) == (expected, cut, 3)


LONG = "one two three four five six"


@pytest.mark.parametrize(
    ("parts", "input_first", "output_first", "num_calls"),
    [
        ({"Input": " x", "Output": " y"}, None, None, 2),
        ({"Input": " <noinput>", "Output": " y"}, None, None, 2),
        ({"Input": "\n", "Output": " y"}, None, None, 2),
        ({"Input": " x", "Output": "\n###"}, "no output", "no output", 3),
        ({"Input": LONG, "Output": " y"}, "input cut off", "input cut off", 3),
        ({"Input": " x", "Output": LONG}, None, "output cut off", 3),
    ],
)
def test_an_instance_that_makes_no_pair_says_why(
    parts: dict[str, str], input_first: str | None, output_first: str | None, num_calls: int, tmp_path: Path
) -> None:
    engine = Heard(parts)
    tasks_with_kinds = list(zip(TASKS[:2], classified(Heard()), strict=False))
    rows = generated(engine, count=2)
    good = (Task(id="t1-9", instruction="Do it"), TaskKind(id="t1-9", classification=False, reply="", tokens=0))
    also = Instance(id="t1-9", input="none", output="Done.", cut=(), tokens=2)
    pairs, rejected = pairs_of_instances(instance_context(tmp_path, engine), [*tasks_with_kinds, good], [*rows, also])
    why = {"t1-0": output_first, "t1-1": input_first}
    assert {row.id: row.why for row in rejected} == {id: reason for id, reason in why.items() if reason}
    assert all(row.by == "instances" and row.text for row in rejected)
    assert {pair.id for pair in pairs} == {"t1-9"} | {id for id, reason in why.items() if not reason}
    assert pairs[-1] == Pair(**pairs[-1].model_dump() | {"input": "", "output": "Done.", "finish": "stop", "tokens": 2})
    for pair in pairs[:-1]:
        assert pair.input == ("x" if parts["Input"] == " x" else "")
        assert pair.finish == ("length" if parts["Output"] == LONG else "stop")
    assert sum(len(prompts) > 0 for prompts, _, _ in engine.calls) == 4 - (num_calls == 3)


def test_an_iteration_without_any_pair_is_an_error_of_one_line(tmp_path: Path) -> None:
    tasks_with_kinds = list(zip(TASKS, classified(Heard()), strict=True))
    rows = generated(Heard({"Input": LONG, "Output": ""}))
    with pytest.raises(UserError, match=r"iteration 3: none of 10 instances .*input cut off: 6, no output: 4") as error:
        pairs_of_instances(instance_context(tmp_path, Heard(), iteration=3), tasks_with_kinds, rows)
    assert "\n" not in str(error.value)


def test_an_unreadable_kind_counts_as_no_classification() -> None:
    kinds = [TaskKind(id="a", classification=kind, reply="", tokens=0) for kind in (True, False, None)]
    assert [writing_order(kind) for kind in kinds] == [
        "output_first", "input_first", "input_first",
    ]  # fmt: skip


# --- for real: the command line on lamb and on a random checkpoint


def command(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return int(end.value.code or 0)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


SMALL = [
    *(
        "synthesis.tasks=6",
        "synthesis.batch_size=2",
        "synthesis.budget=24",
        "response.batch_size=4",
        "response.examples=2",
    ),
    *(
        "response.sampling.max_tokens=12",
        "training.epochs=1",
        "training.held_out=0",
        "training.keep=last",
        "evaluation=[]",
        "filters=[]",
    ),
]


def pipeline(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a finished run of the own pipeline holds, whatever its model can do."""
    kinds, instances = rows(run / "iter-1/task_kinds.jsonl"), rows(run / "iter-1/instances.jsonl")
    pairs, rejected = rows(run / "iter-1/pairs.jsonl"), rows(run / "iter-1/unanswered.jsonl")
    assert len(kinds) == len(instances) == len(pairs) + len(rejected) == len(rows(run / "iter-1/tasks.jsonl"))
    assert all(row["is_classification"] is not None for row in rows(run / "seeds.jsonl"))
    events = {event["file"]: event for event in rows(run / "run.jsonl") if "file" in event}
    assert events["iter-1/instances.jsonl"]["tokens"] and "tokens" not in events["iter-1/pairs.jsonl"]
    capsys.readouterr()
    assert command("status", run) == 0
    output = capsys.readouterr().out
    is_classification = [row["classification"] for row in kinds]
    counts = {
        "tasks called classification": is_classification.count(True),
        "unreadable kinds of task": is_classification.count(None),
        "tasks without an instance": len(rejected),
    }
    for label, count in counts.items():
        assert re.search(rf"{label} +{count}\b", output), output
    assert "1 of 1 iterations are trained" in output
    assert command("show", run, "1", "--dropped") == 0
    output = capsys.readouterr().out
    assert f"rejected by instances: {len(rejected)}" in output if rejected else "rejected by instances" not in output


@pytest.mark.numeric
def test_the_pipeline_runs_on_lamb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("run", "lamb/self-instruct-own", "--out", tmp_path / "run", *SMALL) == 0
    pipeline(tmp_path / "run", capsys)


@pytest.mark.numeric
def test_the_pipeline_runs_on_a_random_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_checkpoint(tmp_path / "model", "Qwen2", max_position_embeddings=1024)
    words = ["synthesis.rules=false", "synthesis.novelty=null", "synthesis.sampling.stop=[e]", "training.batch_size=2"]
    words += ["synthesis.sampling.max_tokens=64", "response.sampling.max_tokens=64", "response.sampling.stop=[e]"]
    words += ["seed_tasks=lamb", "machine.device=cpu", "machine.threads=1", f"model={model}"]
    out = tmp_path / "run"
    assert command("run", "paper/self-instruct-own", "--out", out, *SMALL, *words) == 0, capsys.readouterr().err
    pipeline(out, capsys)


def test_seeds_that_don_t_say_their_kind_are_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds, out = tmp_path / "seeds.jsonl", tmp_path / "run"
    seeds.write_text("".join(json.dumps({"instruction": f"Tell of {n}.", "output": "x"}) + "\n" for n in range(9)))
    assert command("run", "lamb/self-instruct-own", f"seed_tasks={seeds}", "--out", out) == 2
    assert "0 found with is_classification true and an output" in capsys.readouterr().err
    assert not (out / "recipe.yaml").exists()
