"""Replicas on a real Ray of two nodes: the same files as from one engine, even if replicas die, and the error lines."""

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import pytest

from isheep import backends
from isheep.batching import ordered_map
from isheep.engines import Engine, actors
from isheep.errors import TooLong, UserError
from isheep.recipe import loading
from isheep.recipe.machine import Machine
from isheep.recipe.schema import Recipe
from isheep.records import Model, Sampling
from tests.helpers.command import isheep, refused
from tests.helpers.hashes import hash_files

ray: Any = pytest.importorskip("ray", reason="Ray is not installed: pip install 'isheep[ray]'")

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
SMALL = [
    *("lamb", "synthesis.tasks=12", "synthesis.batch_size=4", "response.batch_size=4", "assessment.batch_size=4"),
    *("training.batch_size=4", "training.eval_every=1", "evaluation=[]", "machine.threads=1", "machine.device=cpu"),
    "machine.report=false",
    "filters=[{kind: score, at_least: 2}, {kind: perplexity, at_most: 1000}]",
]
# The second iteration's ratings are constrained.
TWO_ITERATIONS = ["iterations=2", "iteration={2: {assessment: {read: constrained, sampling: {temperature: 1.0}}}}"]
PROMPTS = ["What is 12 plus 30?", "a", "hot", "Name the capital of France."]
SAMPLING = Sampling(max_tokens=8)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Start two nodes with a core each on this machine. This process joins them at the first call of an engine."""
    from ray.cluster_utils import Cluster

    handler = signal.getsignal(signal.SIGTERM)
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
    return Machine.model_validate({"replicas": 2, "ray": cluster.address, "threads": 1, "device": "cpu", **settings})


def open_replicas(cluster: Any, model: Model, **settings: Any) -> Engine:
    return backends.open_engine(Recipe(model=model.base, machine=machine(cluster, **settings)), model)


def open_single(model: Model) -> Engine:
    return backends.open_engine(Recipe(model=model.base, machine=Machine(threads=1, device="cpu")), model)


def run_in_actor(actor: Any, function: Callable[[Any], Any]) -> Any:
    """Return what a function returns for the actor's Replica, in the actor's process."""
    return ray.get(actor.__ray_call__.remote(function))


def node_id(replica: Any) -> str:
    return str(ray.get_runtime_context().get_node_id())


def die_before_answering(replica: Any) -> None:
    """Let the process kill itself when it has computed its next call and not yet returned the result."""
    actors.node_name = lambda: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment, return-value]


def hang_before_answering(replica: Any) -> None:
    """Let the process compute its next call and never return the result."""
    actors.node_name = threading.Event().wait  # type: ignore[assignment]


def start_replicas(cluster: Any) -> None:
    """Wait until both replicas are alive: on a busy machine the first one may do all the work of a small run."""
    pool, taken = actors.pool_of(machine(cluster)), list[Any]()
    while len(taken) < 2:
        if actor := pool.take():
            taken.append(actor)
    for actor in taken:
        pool.free.put(actor)


def disturb(monkeypatch: pytest.MonkeyPatch, batch: int, disturbance: Callable[[Any], bool]) -> list[int]:
    """Call `disturbance` with the actor that gets a batch, from number `batch` on, until it returns True.

    It returns False if it needs another actor. The returned list is empty until then, and holds the batch's number.
    """
    take, num_batches, disturbed_batches = actors.ReplicaPool.take, itertools.count(1), list[int]()

    def take_disturbed(pool: actors.ReplicaPool) -> Any:
        actor = take(pool)
        if actor:
            number = next(num_batches)
            if number >= batch and not disturbed_batches and disturbance(actor):
                disturbed_batches.append(number)
        return actor

    monkeypatch.setattr(actors.ReplicaPool, "take", take_disturbed)
    return disturbed_batches


def hash_results(run: Path) -> dict[str, str]:
    """Return the hashes of a run's files except the recipe, which holds the number of replicas."""
    return hash_files(run, ["recipe.yaml"])


def hash_first_iteration(run: Path) -> dict[str, str]:
    return {name: digest for name, digest in hash_results(run).items() if name.startswith("iter-1/")}


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of one engine in this process."""
    out = tmp_path_factory.mktemp("single") / "run"
    done = isheep("run", *SMALL, *TWO_ITERATIONS, "--out", out)
    assert done.code == 0, done.err
    return out


def run(out: Path, cluster: Any, *words: str) -> str:
    """Run with two replicas and return the messages."""
    done = isheep("run", *SMALL, "machine.replicas=2", f"machine.ray={cluster.address}", *words, "--out", out)
    assert done.code == 0, done.err
    return done.err


# --- the same files


@pytest.mark.slow
def test_two_replicas_write_the_same_files(single: Path, cluster: Any, tmp_path: Path) -> None:
    run(tmp_path / "two", cluster, *TWO_ITERATIONS)
    assert hash_results(tmp_path / "two") == hash_results(single)
    assert "iter-2/adapter/adapter_model.safetensors" in hash_results(single)
    recipes = [loading.load_saved_recipe(path / "recipe.yaml") for path in (single, tmp_path / "two")]
    assert recipes[0].machine != recipes[1].machine
    assert len({recipe.model_copy(update={"machine": Machine()}).model_dump_json() for recipe in recipes}) == 1


# On a busy machine Ray takes minutes to notice a death, and the batches may go to other actors.
@pytest.mark.slow
def test_the_batch_of_a_dead_replica_is_repeated(
    single: Path, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill_replica(actor: Any) -> bool:
        run_in_actor(actor, die_before_answering)
        return True

    start_replicas(cluster)
    disturbed_batches = disturb(monkeypatch, 5, kill_replica)
    messages = run(tmp_path / "run", cluster, "iterations=1")
    assert disturbed_batches and messages.count("a replica died: another one repeats its batch") == 1
    assert hash_first_iteration(tmp_path / "run") == hash_first_iteration(single)


@pytest.mark.slow
def test_all_replicas_die_between_two_calls(cluster: Any, qwen2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine, pool = open_replicas(cluster, Model(str(qwen2))), actors.pool_of(machine(cluster))
    completions = engine.generate(PROMPTS, SAMPLING, 7)
    for actor in pool.alive:
        ray.kill(actor)
        # A call may still succeed shortly after the kill.
        with pytest.raises(ray.exceptions.RayActorError):
            while True:
                run_in_actor(actor, node_id)
    assert engine.generate(PROMPTS, SAMPLING, 7) == completions
    assert not capsys.readouterr().err
    engine.close()


@pytest.mark.slow
def test_a_run_survives_the_death_of_a_node(
    single: Path, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node's replica can't start elsewhere, so the other replica does all the work."""
    (node,) = cluster.worker_nodes

    def remove_node(actor: Any) -> bool:
        if run_in_actor(actor, node_id) != node.node_id:
            return False
        # A process outlives its node for a moment, in which it could still return the result.
        run_in_actor(actor, hang_before_answering)
        cluster.remove_node(node, allow_graceful=False)
        return True

    start_replicas(cluster)
    disturbed_batches = disturb(monkeypatch, 5, remove_node)
    messages = run(tmp_path / "run", cluster, "iterations=1")
    cluster.add_node(**NODE)
    # More than one, if Ray has put the replacement on the node before it has noticed that the node is gone.
    assert disturbed_batches and "a replica died: another one repeats its batch" in messages
    assert hash_first_iteration(tmp_path / "run") == hash_first_iteration(single)


@pytest.mark.numeric
def test_every_method_gives_what_one_engine_gives(cluster: Any, qwen2: Path) -> None:
    engine, model = open_replicas(cluster, Model(str(qwen2))), Model(str(qwen2))
    calls: list[Callable[[Engine], Any]] = [
        lambda engine: engine.generate(PROMPTS, SAMPLING, 7),
        lambda engine: engine.logprobs(PROMPTS, PROMPTS[::-1]),
        lambda engine: engine.choices(PROMPTS, [" 1", " 10"]),
        lambda engine: engine.embed(PROMPTS).tolist(),
    ]
    assert engine.max_in_flight == 2
    results = list(ordered_map(lambda call: call(engine), calls, engine.max_in_flight))
    assert results == [call(open_single(model)) for call in calls]
    engine.close()


# --- errors


def error_of(engine: Engine) -> str:
    """Return the message of the UserError that a call of the engine raises, and close the engine."""
    with pytest.raises(UserError) as error:
        engine.generate(PROMPTS, SAMPLING, 1)
    engine.close()
    return str(error.value)


def test_an_error_of_the_engine_reaches_the_caller(cluster: Any, qwen2: Path) -> None:
    long, engine = ["hot " * 400], open_replicas(cluster, Model(str(qwen2)))
    with pytest.raises(TooLong) as local_error:
        open_single(Model(str(qwen2))).generate(long, SAMPLING, 1)
    with pytest.raises(TooLong) as remote_error:
        engine.generate(long, SAMPLING, 1)
    assert str(remote_error.value) == str(local_error.value)
    expected = open_single(Model(str(qwen2))).generate(PROMPTS, SAMPLING, 1)
    assert engine.generate(PROMPTS, SAMPLING, 1) == expected
    engine.close()


def test_a_model_that_a_node_can_not_read_is_named(cluster: Any, qwen2: Path, tmp_path: Path) -> None:
    (tmp_path / "here").symlink_to(qwen2)
    engine = open_replicas(cluster, Model(str(tmp_path / "here")))
    engine.model = engine.model._replace(base=str(tmp_path / "gone"))  # type: ignore[attr-defined]
    message = error_of(engine)
    assert "Ray node" in message and f"{tmp_path / 'gone'} does not exist" in message
    engine = open_replicas(cluster, Model(str(qwen2), tmp_path / "adapter"))
    assert f"can't read {tmp_path / 'adapter'}: give a run folder on a file system of all nodes" in error_of(engine)


def test_a_node_with_other_versions_is_refused(cluster: Any, qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_versions = actors.versions()
    monkeypatch.setattr(actors, "versions", lambda: own_versions | {"torch": "1.0"})
    actors.pool_of(machine(cluster)).end()
    message = error_of(open_replicas(cluster, Model(str(qwen2))))
    torch_version = metadata.version("torch")
    assert "Ray node" in message and f"has torch {torch_version}, not 1.0: install the same versions" in message


def test_replicas_that_need_more_cores_than_ray_has(cluster: Any, qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors, "NOTICE_AFTER", 0.0)
    monkeypatch.setattr(actors, "GIVE_UP_AFTER", 0.5)
    message = error_of(open_replicas(cluster, Model(str(qwen2)), threads=64))
    reason = r"no replica has started in 0.5 s: each needs 64 CPU, and Ray has [12] CPU and 0 GPU in total"
    assert re.search(reason, message)


def test_a_batch_that_kills_three_replicas_ends_the_call(cluster: Any, qwen2: Path) -> None:
    engine = open_replicas(cluster, Model(str(qwen2)))
    engine.open_single = lambda model: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[attr-defined]
    assert "3 replicas died of one batch" in error_of(engine)


@pytest.mark.parametrize(
    ("address", "message"),
    [("127.0.0.1:9", "no server answers"), ("ray://127.0.0.1:9", "no server answers"), ("auto", "Ray")],
)
def test_an_address_without_ray(address: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    assert message in refused("run", "lamb", f"machine.ray={address}", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_ray_a_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'isheep[ray]'" in refused("run", "lamb", "machine.replicas=2", "--out", tmp_path / "run")


# --- a Ray that the run starts


def start_run(out: Path, mark: str, *words: str) -> "subprocess.Popen[bytes]":
    """Start a run that starts Ray itself. Its processes and Ray's have `mark` in their environment."""
    command = [sys.executable, "-c", "from isheep.cli import main; main()", "run", *SMALL, *words, "--out", str(out)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ISHEEP_TEST": mark}
    return subprocess.Popen(command, **streams, env=environment)  # type: ignore[call-overload]


def marked_processes(mark: str) -> list[psutil.Process]:
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("ISHEEP_TEST") == mark:
                processes.append(process)
    return processes


@pytest.mark.slow
def test_a_run_starts_ray_itself_and_leaves_nothing_behind(single: Path, tmp_path: Path) -> None:
    """Finished, interrupted or killed: Ray's processes end too, two small ones of them only after a minute or two."""
    process = start_run(tmp_path / "whole", "whole", "machine.replicas=2", "iterations=1")
    printed, _ = process.communicate()
    assert process.returncode == 0, printed.decode()
    assert hash_first_iteration(tmp_path / "whole") == hash_first_iteration(single)
    assert not psutil.wait_procs(marked_processes("whole"), timeout=30)[1]
    for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        out, mark = tmp_path / number.name, number.name
        process = start_run(out, mark, "machine.replicas=2", "iterations=1")
        assert process.stdout
        while b"replies.jsonl" not in process.stdout.readline():
            pass
        process.send_signal(number)
        process.communicate()
        assert process.returncode == code
        assert not psutil.wait_procs(marked_processes(mark), timeout=300)[1]
        # One engine continues the run.
        continued = start_run(out, mark, "iterations=1")
        printed, _ = continued.communicate()
        assert continued.returncode == 0, printed.decode()
        assert hash_first_iteration(out) == hash_first_iteration(single)
