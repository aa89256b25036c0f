"""Names on the Hugging Face Hub if the Hub does not answer: refused at once, or read from the files on this machine."""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from isheep.lamb import CHECKPOINT as LAMB_CHECKPOINT
from tests.helpers.command import ROOT, refused

NO_CONNECTION = "http://127.0.0.1:9"
JUDGE = "assessment.judge={model: no/such, local: true}"


class Unavailable(BaseHTTPRequestHandler):
    """A Hub that answers every request with status 503, and keeps its path."""

    paths: list[str]

    def do_HEAD(self) -> None:
        self.paths.append(self.path)
        self.send_response(503)
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def unavailable() -> Iterator[HTTPServer]:
    Unavailable.paths = []
    server = HTTPServer(("127.0.0.1", 0), Unavailable)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()


def python(code: str, endpoint: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process for which the Hub is at `endpoint`, with the Hub's files in `home`."""
    environment = {name: value for name, value in os.environ.items() if "OFFLINE" not in name}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def command(*words: str) -> str:
    return f"from isheep.cli import main; main({list(words)})"


@pytest.mark.parametrize("words", [["lamb", JUDGE], ["--model", "no/such"]])
def test_a_name_that_nobody_answers_for_is_refused_at_once(
    words: list[str], unavailable: HTTPServer, tmp_path: Path
) -> None:
    """The libraries would ask for the model again and again."""
    done = python(command("run", *words), f"http://127.0.0.1:{unavailable.server_port}", tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "model 'no/such' not found: there is no folder of this name" in done.stderr
    assert "can't be reached (HTTP 503); give a checkpoint's folder" in done.stderr
    assert not [path for path in Unavailable.paths if "such" in path]


def test_a_hub_without_a_connection_is_named(tmp_path: Path) -> None:
    done = python(command("run", "lamb", "model=no/such"), NO_CONNECTION, tmp_path)
    assert done.returncode == 2 and f"{NO_CONNECTION} can't be reached (ConnectError" in done.stderr


def test_a_name_whose_files_are_here_needs_no_hub(tmp_path: Path) -> None:
    commit = "0" * 40
    model = tmp_path / "hub" / "models--own--lamb"
    shutil.copytree(LAMB_CHECKPOINT, model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    code = (
        "from isheep.models.checkpoint import *; from isheep.records import Model; load_tokenizer('own/lamb'); "
        "load_model(Model('own/lamb'), 'float32'); print(generation_config('own/lamb').eos_token_id, "
        "checkpoint_digest(Model('own/lamb')))"
    )
    done = python(code, NO_CONNECTION, tmp_path)
    assert done.returncode == 0, done.stderr
    end_token, digest = done.stdout.split()
    (model / "refs" / "main").write_text("1" * 40)
    (model / "snapshots" / commit).rename(model / "snapshots" / ("1" * 40))
    # Another commit is another model.
    code = (
        "from isheep.models.checkpoint import checkpoint_digest; from isheep.records import Model; "
        "print(checkpoint_digest(Model('own/lamb')))"
    )
    second = python(code, NO_CONNECTION, tmp_path)
    assert int(end_token) >= 0 and second.returncode == 0 and second.stdout.strip() != digest


def test_a_name_beside_run_folders_is_no_name_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "recipe.yaml").touch()
    monkeypatch.chdir(tmp_path)
    message = refused("run", "lamb", "assessment.judge={model: runs/two, local: true}", "assessment.read=expected")
    assert "model 'runs/two' not found: runs/two does not exist; give a checkpoint's folder or a Hub name" in message
