"""A real Ray of two nodes on this machine, and replicas on it that fail where a test wants them to."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from isheep.engines import actors
from isheep.engines.function import SeededFunctionEngine
from isheep.engines.ray import Replicas
from isheep.recipe.machine import Machine
from isheep.records import Model

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
# Files in the folder of replicas: the next replica that writes dies; the one on the node in this file hangs.
DIE, HANG = "die", "hang"
# A pipe that a hanging replica opens.
HANGING = "hanging"


@contextlib.contextmanager
def start_cluster() -> Iterator[Any]:
    """Start two nodes with a core each on this machine. This process joins them at the first call of an engine."""
    ray: Any = pytest.importorskip("ray", reason="Ray is not installed: pip install 'isheep[ray]'")
    from ray.cluster_utils import Cluster

    handler = signal.getsignal(signal.SIGTERM)
    # The nodes do not have the tests.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        nodes = Cluster(initialize_head=True, head_node_args=NODE)
        nodes.add_node(**NODE)
    # Only Ray's own start can fail here.
    except Exception as error:
        pytest.skip(f"Ray does not start on this machine: {error}")
    yield nodes
    ray.shutdown()
    nodes.shutdown()
    actors.current_pool = None
    signal.signal(signal.SIGTERM, handler)


def machine(cluster: Any, **settings: Any) -> Machine:
    """Return the settings of two replicas on a cluster."""
    return Machine.model_validate({"replicas": 2, "ray": cluster.address, "threads": 1, "device": "cpu", **settings})


def start_replicas(cluster: Any) -> list[Any]:
    """Wait until both replicas are alive, and return their actors."""
    pool, taken = actors.pool_of(machine(cluster)), list[Any]()
    while len(taken) < 2:
        if actor := pool.take():
            taken.append(actor)
    for actor in taken:
        pool.free.put(actor)
    return taken


def process_of(actor: Any) -> int:
    """Return the process id of an actor."""
    import ray

    process: int = ray.get(actor.__ray_call__.remote(lambda replica: os.getpid()))
    return process


def open_functions(cluster: Any, folder: Path) -> Replicas:
    """Return replicas of a function as engine, which die and hang as the files in `folder` say."""
    return Replicas(partial(open_function, folder), Model("function"), machine(cluster))


def open_function(folder: Path, model: Model) -> SeededFunctionEngine:
    """Return one such engine."""
    return SeededFunctionEngine(partial(write, folder))


def write(folder: Path, prompt: str, seed: int) -> str:
    """Return a text of the prompt and the seed, unless this process is to die or to hang first."""
    if take_file(folder / DIE, lambda text: True):
        os.kill(os.getpid(), signal.SIGKILL)
    if take_file(folder / HANG, lambda text: text == _node_id()):
        with (folder / HANGING).open("w"):
            threading.Event().wait()
    return f"{prompt} {seed}"


def take_file(path: Path, is_meant: Callable[[str], bool]) -> bool:
    """Delete a file and return True if it exists and its text is meant for this process; only one process does."""
    with contextlib.suppress(FileNotFoundError):
        if is_meant(path.read_text()):
            path.unlink()
            return True
    return False


def _node_id() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())
