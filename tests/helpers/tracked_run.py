"""A run on lamb that takes seconds, for the tests of trackers."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

SETTINGS = (
    *("iterations=1", "evaluation=[]", "assessment=null", "filters=[]", "machine.threads=1", "machine.device=cpu"),
    "machine.report=false",
    *("synthesis.tasks=8", "synthesis.batch_size=8", "response.batch_size=8"),
    "training={max_steps: 2, batch_size: 2, eval_every: 1, warmup_steps: 0, cutoff: 256}",
)
LOSSES = {f"training/{name}/iteration {iteration}" for name in ("loss", "held-out loss") for iteration in (1, 2)}
"""The series of losses of two iterations."""


def run_command(*words: str, **environment: str) -> str:
    """Run isheep in a process of its own and return what it prints. Raises AssertionError if it fails."""
    command = [sys.executable, "-c", "from isheep.cli import main; main()", *words]
    process = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout + process.stderr
