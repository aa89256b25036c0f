"""TensorBoard, MLflow, Weights & Biases and Trackio for real, in one run that is continued. `make test-track` runs it.

MLflow has a server on loopback, W&B is in its offline mode, and Trackio writes into a folder of the tests. Each test
skips where its package is missing. The second iteration trains in two processes.
"""

import contextlib
import importlib.util
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from helpers.tracked_run import LOSSES, SETTINGS, run_command

NAMES = [name for name in ("tensorboard", "mlflow", "wandb", "trackio") if importlib.util.find_spec(name)]
FIGURES = {"data/kept share", "data/training rows", "diversity/vocabulary", "cost/tokens", "cost/seconds"}

pytestmark = pytest.mark.skipif(not NAMES, reason="trackers have an environment of their own: make test-track")


class TrackedTwice(NamedTuple):
    """A run of one iteration that was continued to two, and the address of MLflow's server."""

    out: Path
    mlflow_url: str
    environment: dict[str, str]

    @property
    def losses(self) -> dict[str, list[list[float]]]:
        """The losses of the run by series: [step, value]."""
        records = {t: json.loads((self.out / f"iter-{t}" / "adapter" / "training.json").read_text()) for t in (1, 2)}
        keys = {"loss": "loss", "eval_loss": "held-out loss"}
        return {
            f"training/{name}/iteration {t}": record[key] for t, record in records.items() for key, name in keys.items()
        }


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackedTwice]:
    folder = tmp_path_factory.mktemp("tracked")
    out, environment = folder / "run", {"WANDB_MODE": "offline", "TRACKIO_DIR": str(folder / "trackio")}
    words = (f"machine.track=[{','.join(NAMES)}]", *SETTINGS, "--out", str(out))
    server = mlflow_server(folder) if "mlflow" in NAMES else contextlib.nullcontext("")
    with server as url:
        environment |= {"MLFLOW_TRACKING_URI": url} if url else {}
        printed = run_command("run", "lamb", *words, **environment)
        printed += run_command("run", str(out), "iterations=2", "machine.gpus=2", **environment)
        assert "gets nothing more" not in printed
        yield TrackedTwice(out, url, environment)


@contextlib.contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """MLflow's server on loopback with a file of its own; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder, start_new_session=True
    )
    try:
        assert process.stdout
        lines = list(itertools.takewhile(lambda line: "Application startup complete" not in line, process.stdout))
        assert process.poll() is None, lines
        # Nothing reads what it prints from now on, and a full pipe would stop it.
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield f"http://127.0.0.1:{port}"
    finally:
        server = psutil.Process(process.pid)
        for child in (*server.children(recursive=True), server):
            child.kill()
        process.wait()


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(name not in NAMES, reason=f"{name} is not installed: make test-track")


@needs("tensorboard")
def test_tensorboard_has_one_run_with_losses_and_figures(tracked: TrackedTwice) -> None:
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    events = EventMultiplexer().AddRunsFromDirectory(str(tracked.out))
    events.Reload()
    assert list(events.Runs()) == ["tracking/tensorboard"]
    accumulator = events.GetAccumulator("tracking/tensorboard")
    tags = set(accumulator.Tags()["scalars"])
    assert tags >= LOSSES | FIGURES
    for series, losses in tracked.losses.items():
        points = [(event.step, event.value) for event in accumulator.Scalars(series)]
        assert [step for step, _ in points] == [step for step, _ in losses]
        assert [value for _, value in points] == pytest.approx([value for _, value in losses])
    assert [event.step for event in accumulator.Scalars("data/kept share")] == [1, 2]
    (recipe,) = accumulator.Tensors("recipe/text_summary")
    text = recipe.tensor_proto.string_val[0].decode()
    assert '"training.max_steps": 2' in text and str(tracked.out) not in text


@needs("mlflow")
def test_mlflow_on_its_server_has_one_run_with_losses_and_figures(tracked: TrackedTwice) -> None:
    import mlflow

    client = mlflow.MlflowClient(tracked.mlflow_url)
    experiment = client.get_experiment_by_name("isheep")
    assert experiment
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "run" and run.info.status == "FINISHED"
    assert set(run.data.metrics) >= LOSSES | FIGURES
    for series, losses in tracked.losses.items():
        assert [[point.step, point.value] for point in client.get_metric_history(run.info.run_id, series)] == losses
    assert run.data.params["training.max_steps"] == "2"
    assert run.data.tags["mlflow.source.name"] == run.data.tags["mlflow.user"] == "isheep"
    assert str(tracked.out.parent) not in repr((run.data.params, run.data.tags))


@needs("mlflow")
def test_mlflow_writes_into_the_run_folder_without_a_server(tmp_path: Path) -> None:
    import mlflow

    out = tmp_path / "run"
    words = ("machine.track=[mlflow]", *SETTINGS, "--out", str(out))
    run_command("run", "lamb", *words, MLFLOW_TRACKING_URI="")
    client = mlflow.MlflowClient(f"sqlite:///{out / 'tracking' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("isheep")
    assert experiment
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.metrics["data/training rows"] > 0


@needs("wandb")
def test_wandb_offline_has_one_run_with_losses_and_figures(tracked: TrackedTwice) -> None:
    from wandb.proto.wandb_internal_pb2 import Record

    files = sorted(tracked.out.glob("tracking/wandb/offline-run-*/*.wandb"))
    # Each call writes a file, and W&B joins those with the same id when they are synced.
    run_id = json.loads((tracked.out / "tracking" / "sent.json").read_text())["id"]
    assert len(files) == 2 and {path.name for path in files} == {f"run-{run_id}.wandb"}
    rows: list[dict[str, Any]] = []
    for path in files:
        for data in leveldb_records(path.read_bytes()):
            record = Record.FromString(data)
            assert record.run.host in ("", "isheep")
            if record.HasField("history"):
                items = record.history.item
                rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    assert {name for row in rows for name in row} >= LOSSES | FIGURES
    for series, losses in tracked.losses.items():
        assert [[row["step"], row[series]] for row in rows if series in row] == losses
    assert [row["iteration"] for row in rows if "data/kept share" in row] == [1, 2]
    content = b"".join(path.read_bytes() for path in files)
    for private in (str(tracked.out), str(Path.cwd()), sys.executable):
        assert private.encode() not in content, private


def leveldb_records(content: bytes) -> Iterator[bytes]:
    """The records of a file of W&B: blocks of 32 kB with pieces of (checksum, length, kind, data) after a header."""
    position, pieces = 7, b""
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        pieces += content[position + 7 : position + 7 + length]
        position += 7 + length
        # 1: whole, 2: first, 3: middle, 4: last
        if kind in (1, 4):
            yield pieces
            pieces = b""


@needs("trackio")
def test_trackio_has_one_run_with_losses_and_figures(tracked: TrackedTwice) -> None:
    script = (
        "import json; from trackio.sqlite_storage import SQLiteStorage as s; "
        "runs = [[n, s.get_logs('isheep', n), s.get_run_config('isheep', n)] for n in s.get_runs('isheep')]; "
        "print(json.dumps(runs, default=str))"
    )
    process = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **tracked.environment},
    )
    ((name, rows, settings),) = json.loads(process.stdout.splitlines()[-1])
    assert name.startswith("run-") and settings["training.max_steps"] == 2 and settings["_Username"] is None
    for series, losses in tracked.losses.items():
        assert [[row["step"], row[series]] for row in rows if series in row] == losses
    assert {key for row in rows for key in row} >= LOSSES | FIGURES
