"""lamb's real loop, killed with SIGKILL at random moments and started again, ends as one that was never stopped."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.hashes import hash_files

SMALL = [
    *(
        "lamb",
        "synthesis.tasks=20",
        "synthesis.batch_size=8",
        "response.batch_size=8",
        "assessment.batch_size=8",
        "iterations=2",
    ),
    *("training.eval_every=1", "training.batch_size=4", "filters=[{kind: score, at_least: 2}]", "evaluation=[]"),
    *("machine.threads=1", "machine.report=false"),
]


def start(out: Path) -> "subprocess.Popen[bytes]":
    """The run as a process of its own, through the real command line."""
    command = [sys.executable, "-c", "from isheep.cli import main; main()", "run", *SMALL, "--out", str(out)]
    silent = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    return subprocess.Popen(command, **silent, env={**os.environ, "OMP_NUM_THREADS": "1"})  # type: ignore[call-overload]


def kill_until(kills: int, undisturbed: float, expected: dict[str, str], folder: Path, rng: random.Random) -> list[str]:
    """Runs, each killed a few times at random moments and then left to end, until `kills` kills were made.

    Returns where the kills struck: the newest file at that moment.
    """
    struck: list[str] = []
    while len(struck) < kills:
        out = folder / f"run-{len(struck)}"
        for _ in range(min(4, kills - len(struck))):
            process = start(out)
            try:
                process.wait(timeout=rng.uniform(0.2, 1.0) * undisturbed)
                break
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                files = [path for path in out.rglob("*") if path.is_file() and path.name not in ("run.jsonl", "lock")]
                newest = max(files, key=lambda path: path.stat().st_mtime_ns, default=out)
                struck.append(str(newest.relative_to(out)))
        process = start(out)
        printed, _ = process.communicate()
        assert process.returncode == 0, printed.decode()
        assert hash_files(out) == expected, struck
    return struck


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[float, dict[str, str]]:
    """Seconds and files of a run that nothing stopped."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    began = time.monotonic()
    process = start(out)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed.decode()
    return time.monotonic() - began, hash_files(out)


def test_a_killed_run_ends_with_the_same_files(undisturbed: tuple[float, dict[str, str]], tmp_path: Path) -> None:
    assert "iter-2/adapter/adapter_model.safetensors" in undisturbed[1]
    kill_until(1, *undisturbed, tmp_path, random.Random(1))


@pytest.mark.slow
def test_a_run_that_is_killed_forty_times_ends_with_the_same_files(
    undisturbed: tuple[float, dict[str, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    struck = kill_until(40, *undisturbed, tmp_path, random.Random(2))
    with capsys.disabled():
        print(f"\nkilled while or after writing: {sorted(struck)}")
