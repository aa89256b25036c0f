"""Batches made ahead of what is asked for: in order, so many at a time, and none that nobody wants."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isheep.batching import ordered_map
from isheep.engines.function import SeededFunctionEngine
from isheep.recipe.packaged import PACKAGED_SEEDS
from isheep.records import Task
from isheep.seeds import load_seed_file
from isheep.stages.respond import respond
from isheep.stages.synthesize import generate_replies
from tests.helpers.stages import stage_context


class Busy(SeededFunctionEngine):
    """A fake that is kept busy by several calls; they wait for each other, so that they must come at the same time."""

    def __init__(self, answer: Any, max_in_flight: int) -> None:
        super().__init__(answer)
        self.max_in_flight = max_in_flight  # type: ignore[misc]
        self.together = threading.Barrier(max_in_flight)

    def generate(self, *arguments: Any) -> Any:
        self.together.wait(timeout=60)
        return super().generate(*arguments)


def test_results_come_in_order_whichever_call_ends_first() -> None:
    finished = {index: threading.Event() for index in range(8)}

    def make(index: int) -> int:
        if index + 1 in finished and index % 2 == 0:
            # A call with an even index ends after the next call.
            assert finished[index + 1].wait(timeout=60)
        finished[index].set()
        return index

    assert list(ordered_map(make, range(8), 2)) == [*range(8)]


def test_with_one_in_flight_a_result_is_made_when_it_is_needed() -> None:
    calls: list[int] = []
    results = ordered_map(lambda index: calls.append(index) or index, range(5), 1)
    assert (next(results), next(results), calls) == (0, 1, [0, 1])


def test_at_most_twice_as_many_calls_are_submitted() -> None:
    started: list[int] = []

    def indices() -> Iterator[int]:
        for index in range(100):
            started.append(index)
            yield index

    results = ordered_map(lambda index: index, indices(), 3)
    assert next(results) == 0 and len(started) == 6
    results.close()  # type: ignore[attr-defined]
    assert len(started) == 6


def test_an_error_is_raised_at_its_position() -> None:
    def make(index: int) -> int:
        if index == 2:
            raise ValueError("two")
        return index

    results = ordered_map(make, range(9), 2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)


@pytest.mark.parametrize("max_in_flight", [1, 2])
def test_stages_write_the_same_rows_however_many_calls_are_in_flight(max_in_flight: int, tmp_path: Path) -> None:
    tasks = [Task(id=f"{n}", instruction=f"Say {n}") for n in range(16)]
    busy, alone = (
        respond(stage_context(tmp_path / name, engine, response={"batch_size": 2}), tasks)
        for name, engine in (
            ("busy", Busy(lambda prompt, seed: f"{seed}", max_in_flight)),
            ("alone", SeededFunctionEngine(lambda prompt, seed: f"{seed}")),
        )
    )
    assert busy == alone


def test_synthesis_discards_the_batches_that_it_does_not_need() -> None:
    seed_tasks = load_seed_file(PACKAGED_SEEDS["isheep"]).tasks
    synthesis = {"tasks": 6, "batch_size": 2, "novelty": None, "budget": 100}

    def answer(prompt: str, seed: int) -> str:
        return f" Tell me at length about {seed}\nInput: <noinput>\n###\n7. Instruction:"

    def replies(engine: SeededFunctionEngine) -> list[Any]:
        context = stage_context(Path(), engine, seed_tasks=seed_tasks, synthesis=synthesis)
        return list(generate_replies(context, None, []))

    assert len(replies(SeededFunctionEngine(answer))) == 3
    several = SeededFunctionEngine(answer)
    several.max_in_flight = 4
    assert replies(several) == replies(SeededFunctionEngine(answer))
