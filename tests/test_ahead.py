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
from isheep.seeds import load_seed_tasks
from isheep.stages.respond import respond
from isheep.stages.synthesize import generate_replies
from tests.helpers.stages import stage_context


class Busy(SeededFunctionEngine):
    """A fake that is kept busy by several calls; they wait for each other, so that they must come at the same time."""

    def __init__(self, answer: Any, max_in_flight: int) -> None:
        super().__init__(answer)
        self.max_in_flight = max_in_flight  # type: ignore[misc]
        self.together = threading.Barrier(max_in_flight)

    def generate(self, *given: Any) -> Any:
        self.together.wait(timeout=60)
        return super().generate(*given)


def test_in_order_whoever_is_first() -> None:
    later = {place: threading.Event() for place in range(8)}

    def made(place: int) -> int:
        if place + 1 in later and place % 2 == 0:
            assert later[place + 1].wait(timeout=60)  # an even one ends after the odd one that follows it
        later[place].set()
        return place

    assert list(ordered_map(made, range(8), 2)) == [*range(8)]


def test_one_at_a_time_is_made_when_it_is_asked_for() -> None:
    made: list[int] = []
    some = ordered_map(lambda place: made.append(place) or place, range(5), 1)
    assert (next(some), next(some), made) == (0, 1, [0, 1])


def test_no_further_ahead_than_twice_as_many() -> None:
    asked: list[int] = []

    def places() -> Iterator[int]:
        for place in range(100):
            asked.append(place)
            yield place

    some = ordered_map(lambda place: place, places(), 3)
    assert next(some) == 0 and len(asked) == 6
    some.close()  # type: ignore[attr-defined]
    assert len(asked) == 6


def test_an_error_comes_at_its_place() -> None:
    def made(place: int) -> int:
        if place == 2:
            raise ValueError("two")
        return place

    some = ordered_map(made, range(9), 2)
    assert [next(some), next(some)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(some)


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
    seed_tasks = load_seed_tasks(PACKAGED_SEEDS["isheep"])
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
