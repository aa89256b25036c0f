"""Replicas that answer wrongly: one line, and nothing of it is written. The actors are fakes that run the real code."""

import math
import queue
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from isheep.engines.actors import Replica, ReplicaAnswer
from isheep.engines.function import SeededFunctionEngine
from isheep.engines.ray import Replicas
from isheep.engines.vllm_engine import VLLMEngine
from isheep.errors import UserError
from isheep.recipe.machine import Machine
from isheep.records import Model, Reply, Sampling, TokenLogprobs
from isheep.rundir.folder import RunFolder

PROMPTS, SAMPLING = ["a", "b", "c", "d"], Sampling(max_tokens=4)
Spoil = Callable[[ReplicaAnswer], Any]


class FakeActor:
    """An actor in this process, whose answers are spoiled on their way."""

    def __init__(self, spoil: Spoil) -> None:
        self.replica, self.spoil = Replica({}), spoil
        self.call = SimpleNamespace(remote=lambda *arguments: self.spoil(self.replica.call(*arguments)))


def replicas(spoil: Spoil, monkeypatch: pytest.MonkeyPatch) -> Replicas:
    """Return replicas whose only actor spoils its answers."""
    errors = SimpleNamespace(RayTaskError=ZeroDivisionError, RayError=ZeroDivisionError)
    ray = SimpleNamespace(get=lambda answer: answer, exceptions=errors)
    pool = SimpleNamespace(ray=ray, free=queue.SimpleQueue())

    def open_single(model: Model) -> Any:
        return SeededFunctionEngine(lambda prompt, seed: f"{prompt} {seed}")

    engine, actor = Replicas(open_single, Model("lamb"), Machine(replicas=2)), FakeActor(spoil)
    monkeypatch.setattr(engine, "_take_actor", lambda num_closings: (pool, actor))
    return engine


def with_result(change: Callable[[Any], Any]) -> Spoil:
    return lambda answer: answer._replace(result=change(answer.result))


def always(result: Any) -> Spoil:
    return with_result(lambda rows: result)


WRONG: list[tuple[Spoil, str]] = [
    (with_result(lambda rows: rows[:-1]), "3 results for 4 prompts, in place of one for each"),
    (with_result(lambda rows: [*rows, rows[0]]), "5 results for 4 prompts"),
    (with_result(lambda rows: None), "None, in place of a list of 4"),
    (with_result(lambda rows: [*rows[:-1], None]), "None for a prompt, in place of a Completion"),
    (with_result(lambda rows: [row.text for row in rows]), "for a prompt, in place of a Completion"),
    (with_result(lambda rows: [row._replace(tokens=-1) for row in rows]), "in place of a Completion"),
    (lambda answer: None, "None, in place of an answer with its call and its model"),
    (lambda answer: answer.result, "in place of an answer with its call and its model"),
    (lambda answer: answer._replace(number=answer.number - 1), "the result of call"),
    (lambda answer: answer._replace(model=Model("other")), "a result of 'other', in place of one of 'lamb'"),
    (lambda answer: answer._replace(model=Model("lamb", Path("x"))), "a result of 'lamb' with the adapter 'x'"),
    (lambda answer: answer._replace(model=None), "a result of no model"),
]


@pytest.mark.parametrize(("spoil", "message"), WRONG)
def test_nothing_of_a_wrong_answer_is_written(
    spoil: Spoil, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, engine = RunFolder(tmp_path, tmp_path), replicas(spoil, monkeypatch)

    def make_batch(start: int) -> list[Reply]:
        completions = engine.generate(PROMPTS, SAMPLING, start)
        return [Reply(id=str(start), text=row.text, finish=row.finish, tokens=row.tokens) for row in completions]

    with pytest.raises(UserError) as error:
        folder.map_batches("replies.jsonl", Reply, make_batch, 8, 4)
    assert message in str(error.value) and "\n" not in str(error.value) and "run the same command" in str(error.value)
    assert (tmp_path / "replies.jsonl.part").read_bytes() == b"" and not (tmp_path / "replies.jsonl").exists()
    # The next one answers rightly.
    engine = replicas(lambda answer: answer, monkeypatch)
    assert len(folder.map_batches("replies.jsonl", Reply, make_batch, 8, 4)) == 8


def test_answers_in_the_order_of_other_calls_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to a call comes as that to the next one."""
    late = list[ReplicaAnswer]()

    def delay(answer: ReplicaAnswer) -> Any:
        late.append(answer)
        return late[0]

    engine = replicas(delay, monkeypatch)
    first = engine.generate(PROMPTS, SAMPLING, 1)
    assert [completion.text.split()[0] for completion in first] == PROMPTS
    with pytest.raises(UserError, match=r"answered generate with the result of call \d+, in place of that of call"):
        engine.generate(PROMPTS[::-1], SAMPLING, 1)


def test_the_results_of_all_methods_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Callable[[Replicas], Any], Any, str]] = [
        (lambda engine: engine.choices(PROMPTS, ["1", "2"]), [[0.5, math.nan]] * 4, "a list of 2 probabilities"),
        (lambda engine: engine.choices(PROMPTS, ["1", "2"]), [[0.5]] * 4, "a list of 2 probabilities"),
        (lambda engine: engine.logprobs(PROMPTS, PROMPTS), [TokenLogprobs([1, 2], [-1.0])] * 4, "a TokenLogprobs"),
        (lambda engine: engine.embed(PROMPTS), np.zeros((3, 2), np.float32), "a row for each of 4 texts"),
        (lambda engine: engine.embed(PROMPTS), None, "a row for each of 4 texts"),
    ]
    for call, result, needed in calls:
        engine = replicas(always(result), monkeypatch)
        with pytest.raises(UserError, match=needed):
            call(engine)
        call(replicas(lambda answer: answer, monkeypatch))


@pytest.mark.parametrize("results", [[], [([1], "stop")] * 3, None, {}])
def test_another_number_of_results_of_vllm_is_one_line(results: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = VLLMEngine(Model("lamb"), Machine(), 0, lambda: None)  # type: ignore[arg-type, return-value]
    worker = SimpleNamespace(call=lambda *arguments: results, log=Path("vllm.log"))
    monkeypatch.setattr(engine, "_open_worker", lambda pooling: worker)
    with pytest.raises(UserError, match=r"vLLM on 'lamb': it gave (0|3|no) results for 2 requests") as error:
        engine.generate(["a", "b"], SAMPLING, 1)
    assert "\n" not in str(error.value)
