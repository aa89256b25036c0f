"""Replicas and nodes that die: the batch is computed again elsewhere, with the same result.

The engine is a function, so that a replica starts quickly: `make test-deaths` repeats these tests on a busy machine.
"""

import itertools
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from isheep.batching import ordered_map
from isheep.engines import Engine
from isheep.records import Completion, Model, Sampling
from tests.helpers.ray_cluster import (
    DIE,
    HANG,
    HANGING,
    NODE,
    open_function,
    open_functions,
    start_cluster,
    start_replicas,
)

# On a busy machine Ray takes minutes to notice a death.
pytestmark = pytest.mark.slow

SAMPLING = Sampling(max_tokens=8)
REPEATED = "a replica died: another one repeats its batch"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with start_cluster() as nodes:
        yield nodes


def batches(count: int) -> list[list[str]]:
    return [[f"prompt {batch}-{index}" for index in range(3)] for batch in range(count)]


def complete(engine: Engine, prompts: Iterable[list[str]]) -> list[list[Completion]]:
    """Return the completions of some batches, as many at a time as there are replicas."""
    return list(ordered_map(lambda batch: engine.generate(batch, SAMPLING, 7), prompts, engine.max_in_flight))


def expected(tmp_path: Path, prompts: Sequence[list[str]]) -> list[list[Completion]]:
    """Return what one engine in this process writes."""
    return complete(open_function(tmp_path / "undisturbed", Model("function")), prompts)


def test_the_batch_of_a_dead_replica_is_computed_by_another(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = open_functions(cluster, tmp_path)
    (tmp_path / DIE).touch()
    assert complete(engine, batches(6)) == expected(tmp_path, batches(6))
    assert capsys.readouterr().err.count(REPEATED) == 1
    engine.close()


def test_all_replicas_die_between_two_calls(cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import ray

    engine = open_functions(cluster, tmp_path)
    assert complete(engine, batches(2)) == expected(tmp_path, batches(2))
    for actor in start_replicas(cluster):
        ray.kill(actor)
        # A call may still succeed shortly after the kill.
        with pytest.raises(ray.exceptions.RayActorError):
            while True:
                ray.get(actor.close.remote(None))
    assert complete(engine, batches(4)) == expected(tmp_path, batches(4))
    # On a busy machine the user is told that a replica is starting.
    assert REPEATED not in capsys.readouterr().err
    engine.close()


def test_the_batch_of_a_dead_node_is_computed_on_another(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The node's replica can't start elsewhere, so the other replica does all the work."""
    (node,) = cluster.worker_nodes
    os.mkfifo(tmp_path / HANGING)
    (tmp_path / HANG).write_text(node.node_id)
    engine, is_removed = open_functions(cluster, tmp_path), threading.Event()
    start_replicas(cluster)
    prompts: list[list[str]] = []

    def batches_until_removed() -> Iterator[list[str]]:
        for number in itertools.count():
            prompts.append([f"prompt {number}"])
            yield prompts[-1]
            if is_removed.is_set():
                return

    with ThreadPoolExecutor(1) as executor:
        call = executor.submit(complete, engine, batches_until_removed())
        # Waits until the node's replica hangs with a batch.
        with (tmp_path / HANGING).open():
            cluster.remove_node(node, allow_graceful=False)
        is_removed.set()
        completions = call.result()
    cluster.add_node(**NODE)
    # More than one replica may die, if Ray has put the replacement on the node before it has noticed its death.
    assert REPEATED in capsys.readouterr().err
    assert completions == expected(tmp_path, prompts)
    engine.close()
