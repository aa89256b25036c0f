"""Replicas on a real Ray of two nodes: the same bytes as one engine, whoever dies; and what is said else."""

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
from isheep.recipe.schema import Machine, Recipe
from isheep.records import Model, Sampling
from tests.helpers.command import isheep
from tests.helpers.kills import hash_files

ray: Any = pytest.importorskip("ray", reason="Ray is not installed: pip install 'isheep[ray]'")

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
SMALL = [
    *(
        "lamb",
        "synthesis.tasks=12",
        "synthesis.batch_size=4",
        "response.batch_size=4",
        "assessment.batch_size=4",
        "training.batch_size=4",
    ),
    *("training.eval_every=1", "evaluation=[]", "machine.threads=1", "machine.device=cpu"),
    "filters=[{kind: score, at_least: 2}, {kind: perplexity, at_most: 1000}]",
]
PROMPTS = ["What is 12 plus 30?", "a", "hot", "Name the capital of France."]
DRAWN = Sampling(max_tokens=8)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with a core each, on this machine; this process joins them with the first call of an engine."""
    from ray.cluster_utils import Cluster

    before = signal.getsignal(signal.SIGTERM)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        nodes = Cluster(initialize_head=True, head_node_args=NODE)
        nodes.add_node(**NODE)
    except Exception as error:  # Ray's own start, before anything of ours
        pytest.skip(f"Ray does not start on this machine: {error}")
    yield nodes
    ray.shutdown()
    nodes.shutdown()
    actors.current = None
    signal.signal(signal.SIGTERM, before)


def machine(cluster: Any, **more: Any) -> Machine:
    return Machine.model_validate({"replicas": 2, "ray": cluster.address, "threads": 1, "device": "cpu", **more})


def opened(cluster: Any, model: Model, **more: Any) -> Engine:
    return backends.open_engine(Recipe(model=model.base, machine=machine(cluster, **more)), model)


def alone(model: Model) -> Engine:
    return backends.open_engine(Recipe(model=model.base, machine=Machine(threads=1, device="cpu")), model)


def asked(actor: Any, what: Callable[[Any], Any]) -> Any:
    """What a function of the Replica in it gives."""
    return ray.get(actor.__ray_call__.remote(what))


def node_of(replica: Any) -> str:
    return str(ray.get_runtime_context().get_node_id())


def doom(replica: Any) -> None:
    """The next batch is computed, and the process killed before it can say so."""
    write = replica.engine.generate

    def die(*given: Any) -> None:
        write(*given)
        os.kill(os.getpid(), signal.SIGKILL)

    replica.engine.generate = die


def when_taken(monkeypatch: pytest.MonkeyPatch, number: int, happens: Callable[[Any], bool]) -> list[int]:
    """Has something happen to an actor that is given the batch `number`, or a later one where it says that it was not
    the right actor. What it returns is empty until then."""
    take, taken, happened = actors.ReplicaPool.take, list[Any](), list[int]()

    def disturbed(pool: actors.ReplicaPool) -> Any:
        actor = take(pool)
        if actor:
            taken.append(actor)
            if len(taken) >= number and not happened and happens(actor):
                happened.append(len(taken))
        return actor

    monkeypatch.setattr(actors.ReplicaPool, "take", disturbed)
    return happened


def files(run: Path) -> dict[str, str]:
    return {name: digest for name, digest in hash_files(run).items() if name != "recipe.yaml"}  # that one has `machine`


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one engine in this process."""
    out = tmp_path_factory.mktemp("one") / "run"
    done = isheep("run", *SMALL, "iterations=2", "--out", out)
    assert done.code == 0, done.err
    return out


def run(out: Path, cluster: Any, *words: str) -> str:
    done = isheep("run", *SMALL, "machine.replicas=2", f"machine.ray={cluster.address}", *words, "--out", out)
    assert done.code == 0, done.err
    return done.err


# --- the same bytes


def test_two_replicas_write_the_same_files(one: Path, cluster: Any, tmp_path: Path) -> None:
    run(tmp_path / "two", cluster, "iterations=2")
    assert files(tmp_path / "two") == files(one)
    assert "iter-2/adapter/adapter_model.safetensors" in files(one)
    recipes = [loading.load_saved_recipe(path / "recipe.yaml") for path in (one, tmp_path / "two")]
    assert recipes[0].machine != recipes[1].machine
    assert len({recipe.model_copy(update={"machine": Machine()}).model_dump_json() for recipe in recipes}) == 1


def first_iteration(run: Path) -> dict[str, str]:
    return {name: digest for name, digest in files(run).items() if name.startswith("iter-1/")}


@pytest.mark.slow  # on a busy machine Ray takes minutes over a death, and batches may go elsewhere
def test_a_dead_replicas_batch_is_done_again(
    one: Path, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def happens(actor: Any) -> bool:
        asked(actor, doom)
        return True

    happened = when_taken(monkeypatch, 5, happens)
    said = run(tmp_path / "run", cluster, "iterations=1")
    assert happened and said.count("a replica died, its batch is done again") == 1
    assert first_iteration(tmp_path / "run") == first_iteration(one)


@pytest.mark.slow  # on a busy machine Ray takes minutes over a death, and batches may go elsewhere
def test_all_replicas_die_between_two_calls(cluster: Any, qwen2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine, pool = opened(cluster, Model(str(qwen2))), actors.pool_of(machine(cluster))
    written = engine.generate(PROMPTS, DRAWN, 7)
    for actor in pool.alive:
        ray.kill(actor)
        with pytest.raises(ray.exceptions.RayActorError):
            while True:  # until it has died
                asked(actor, node_of)
    assert engine.generate(PROMPTS, DRAWN, 7) == written
    assert not capsys.readouterr().err
    engine.close()


@pytest.mark.slow  # on a busy machine Ray takes minutes over a death, and batches may go elsewhere
def test_a_node_that_dies_takes_nothing_with_it(
    one: Path, cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its replica can't be placed elsewhere: the other one goes on alone."""
    (node,) = cluster.worker_nodes

    def happens(actor: Any) -> bool:
        if asked(actor, node_of) != node.node_id:
            return False
        cluster.remove_node(node, allow_graceful=False)
        return True

    happened = when_taken(monkeypatch, 5, happens)
    said = run(tmp_path / "run", cluster, "iterations=1")
    cluster.add_node(**NODE)
    assert happened and said.count("a replica died, its batch is done again") == 1
    assert first_iteration(tmp_path / "run") == first_iteration(one)


@pytest.mark.numeric
def test_every_method_gives_what_one_engine_gives(cluster: Any, qwen2: Path) -> None:
    engine, model = opened(cluster, Model(str(qwen2))), Model(str(qwen2))
    calls: list[Callable[[Engine], Any]] = [
        lambda engine: engine.generate(PROMPTS, DRAWN, 7),
        lambda engine: engine.logprobs(PROMPTS, PROMPTS[::-1]),
        lambda engine: engine.choices(PROMPTS, [" 1", " 10"]),
        lambda engine: engine.embed(PROMPTS).tolist(),
    ]
    assert engine.max_in_flight == 2
    found = list(ordered_map(lambda call: call(engine), calls, engine.max_in_flight))
    assert found == [call(alone(model)) for call in calls]
    engine.close()


# --- what is said where it can't be


def said_by(engine: Engine) -> str:
    with pytest.raises(UserError) as error:
        engine.generate(PROMPTS, DRAWN, 1)
    engine.close()
    return str(error.value)


def test_an_engines_own_error_comes_through(cluster: Any, qwen2: Path) -> None:
    long, engine = ["hot " * 400], opened(cluster, Model(str(qwen2)))
    with pytest.raises(TooLong) as here:
        alone(Model(str(qwen2))).generate(long, DRAWN, 1)
    with pytest.raises(TooLong) as there:
        engine.generate(long, DRAWN, 1)
    assert str(there.value) == str(here.value)
    assert engine.generate(PROMPTS, DRAWN, 1) == alone(Model(str(qwen2))).generate(PROMPTS, DRAWN, 1)
    engine.close()


def test_a_model_that_a_node_does_not_see(cluster: Any, qwen2: Path, tmp_path: Path) -> None:
    (tmp_path / "here").symlink_to(qwen2)
    engine = opened(cluster, Model(str(tmp_path / "here")))
    engine.model = engine.model._replace(base=str(tmp_path / "gone"))  # type: ignore[attr-defined]
    assert "Ray node" in (said := said_by(engine)) and f"{tmp_path / 'gone'} does not exist" in said
    engine = opened(cluster, Model(str(qwen2), tmp_path / "adapter"))
    assert f"does not see {tmp_path / 'adapter'}: give a run folder that all nodes share" in said_by(engine)


def test_other_versions_on_a_node(cluster: Any, qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = actors.versions() | {"torch": "1.0"}
    monkeypatch.setattr(actors, "versions", lambda: other)
    actors.pool_of(machine(cluster)).end()
    said = said_by(opened(cluster, Model(str(qwen2))))
    assert "Ray node" in said and f"has torch {metadata.version('torch')}, not 1.0: install the same" in said


def test_no_room(cluster: Any, qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors, "NOTICE", 0.0)
    monkeypatch.setattr(actors, "PATIENCE", 0.5)
    said = said_by(opened(cluster, Model(str(qwen2)), threads=64))
    assert re.search(r"no replica has started in 0.5 s: each needs 64 CPU, and Ray has [12] CPU and 0 GPU in all", said)


def test_a_batch_that_ends_every_replica(cluster: Any, qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = opened(cluster, Model(str(qwen2)))
    engine.open_one = lambda model: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[attr-defined]
    assert "3 replicas died of one batch" in said_by(engine)


@pytest.mark.parametrize(
    ("address", "said"),
    [("127.0.0.1:9", "nobody answers there"), ("ray://127.0.0.1:9", "nobody answers there"), ("auto", "Ray")],
)
def test_an_address_without_ray(address: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    done = isheep("run", "lamb", f"machine.ray={address}", "--out", tmp_path / "run")
    assert (done.code, done.err.count("\n")) == (2, 1) and said in done.err
    assert not (tmp_path / "run").exists()


def test_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    done = isheep("run", "lamb", "machine.replicas=2", "--out", tmp_path / "run")
    assert (done.code, done.err.count("\n")) == (2, 1) and "pip install 'isheep[ray]'" in done.err


# --- a Ray of the run's own


def started(out: Path, mark: str, *words: str) -> "subprocess.Popen[bytes]":
    """A run that starts Ray itself; its processes and Ray's have `mark` in their environment."""
    command = [sys.executable, "-c", "from isheep.cli import main; main()", "run", *SMALL, *words, "--out", str(out)]
    silent = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ISHEEP_TEST": mark}
    return subprocess.Popen(command, **silent, env=environment)  # type: ignore[call-overload]


def marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("ISHEEP_TEST") == mark:
                found.append(process)
    return found


@pytest.mark.slow
def test_a_run_starts_ray_itself_and_leaves_nothing_behind(one: Path, tmp_path: Path) -> None:
    """Ended, interrupted, killed: Ray's processes end too, two small ones of them only after a minute or two."""
    whole = started(tmp_path / "whole", "whole", "machine.replicas=2", "iterations=1")
    printed, _ = whole.communicate()
    assert whole.returncode == 0, printed.decode()
    assert first_iteration(tmp_path / "whole") == first_iteration(one)
    assert not psutil.wait_procs(marked("whole"), timeout=30)[1]
    for number, code in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        out, mark = tmp_path / number.name, number.name
        process = started(out, mark, "machine.replicas=2", "iterations=1")
        assert process.stdout
        while b"replies.jsonl" not in process.stdout.readline():
            pass
        process.send_signal(number)
        process.communicate()
        assert process.returncode == code
        assert not psutil.wait_procs(marked(mark), timeout=300)[1]
        printed, _ = (again := started(out, mark, "iterations=1")).communicate()  # goes on with one engine
        assert again.returncode == 0, printed.decode()
        assert first_iteration(out) == first_iteration(one)
