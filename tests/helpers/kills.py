"""Runs on a fake engine and trainer, which are killed at a given moment."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# Seconds after which a run that hangs fails; on a busy machine a run takes more than a minute.
WATCHDOG = 600


def run_until_killed(out: Path, kill_at: int, recipe: str = "isheep", words: Sequence[str] = ()) -> int:
    """Run a recipe of killed_run.py, kill it at its moment `kill_at` (0: never), and return the exit status.

    `words` are another command in place of running the recipe.
    """
    script = Path(__file__).with_name("killed_run.py")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(script), str(out), str(kill_at), recipe, *words]
    return subprocess.run(command, env=environment, capture_output=True, timeout=WATCHDOG).returncode


def count_moments(run: Path) -> int:
    """Return the number of moments at which killed_run.py could have killed a finished run."""
    return int(run.with_suffix(".moments").read_text())
