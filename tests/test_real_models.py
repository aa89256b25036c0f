"""`isheep run` on checkpoints of real architectures, with their chat templates, and on the public seed tasks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from isheep.records import Task
from isheep.rundir.folder import RunFolder
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.data_files import SEED_TASKS

# Random weights generate noise: the rules that would reject it are off, and completions are short.
SETTINGS = [
    *("iterations=2", "assessment=null", "filters=[]", "machine.threads=1", "machine.device=cpu"),
    "machine.report=false",
    "synthesis={tasks: 4, examples: 2, rules: false, novelty: null, batch_size: 4}",
    "synthesis.sampling={max_tokens: 48, stop: [e]}",
    "response={batch_size: 4, sampling: {max_tokens: 8}}",
    "training={epochs: 1, batch_size: 2, warmup_steps: 0, learning_rate: 0.01}",
]


def run(base: Path, chat: str, out: Path, seeds: str) -> None:
    settings = [f"chat_template={chat}", f"seed_tasks={seeds}", *SETTINGS]
    script = "from isheep.cli import main; main()"
    command = [sys.executable, "-c", script, "run", "--model", str(base), *settings, "--out", str(out)]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


SLOW_CASES = [pytest.param("Llama", chat, marks=pytest.mark.slow) for chat in ("llama3", "tokenizer")]


@pytest.mark.parametrize(("architecture", "chat"), [("Qwen2", "qwen"), *SLOW_CASES])
def test_two_iterations(architecture: str, chat: str, tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base", architecture, max_position_embeddings=4096)
    run(base, chat, tmp_path / "run", "isheep")
    training = json.loads((tmp_path / "run/iter-2/adapter/training.json").read_text())
    assert training["chat"] == chat and training["rows"]["trained"] >= 2
    folder = RunFolder(tmp_path / "run", tmp_path / "run")
    assert len((folder / "iter-2").read("tasks.jsonl", Task)) == 4


@pytest.mark.skipif(not SEED_TASKS.is_file(), reason=f"no public seed tasks: {SEED_TASKS} (set ISHEEP_DATA)")
@pytest.mark.slow
def test_the_public_seed_tasks(tmp_path: Path) -> None:
    base = make_checkpoint(tmp_path / "base", "Qwen2", max_position_embeddings=8192)
    run(base, "qwen", tmp_path / "run", str(SEED_TASKS))
    assert len((tmp_path / "run/seeds.jsonl").read_text().splitlines()) == 175
    assert (tmp_path / "run/iter-2/adapter/adapter_model.safetensors").is_file()
