"""Replicas on a real Ray of two nodes: the same files as from one engine, even if replicas die, and the error lines."""

import contextlib
import os
import re
import signal
import subprocess
import sys
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
from tests.helpers.ray_cluster import machine, process_of, start_cluster, start_replicas

ray: Any = pytest.importorskip("ray", reason="Ray is not installed: pip install 'isheep[ray]'")

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
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with start_cluster() as nodes:
        yield nodes


def open_replicas(cluster: Any, model: Model, **settings: Any) -> Engine:
    return backends.open_engine(Recipe(model=model.base, machine=machine(cluster, **settings)), model)


def open_single(model: Model) -> Engine:
    return backends.open_engine(Recipe(model=model.base, machine=Machine(threads=1, device="cpu")), model)


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


@pytest.mark.slow
def test_a_run_whose_replica_is_killed_has_the_same_files(
    single: Path, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take, taken = actors.ReplicaPool.take, list[Any]()

    def take_and_kill_the_fifth(pool: actors.ReplicaPool) -> Any:
        if actor := take(pool):
            taken.append(actor)
            if len(taken) == 5:
                os.kill(process_of(actor), signal.SIGKILL)
        return actor

    start_replicas(cluster)
    monkeypatch.setattr(actors.ReplicaPool, "take", take_and_kill_the_fifth)
    messages = run(tmp_path / "run", cluster, "iterations=1")
    assert messages.count("a replica died: another one repeats its batch") == 1
    assert hash_first_iteration(tmp_path / "run") == hash_first_iteration(single)


@pytest.mark.slow
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
