"""Several random seeds of a sweep at a time: a process of `isheep sweep` for each seed, with its log in a file."""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from isheep import api
from isheep.batching import num_usable_cores
from isheep.errors import UserError, shell_word, unknown_name
from isheep.recipe.sweeps import SeedChoice, with_seeds
from isheep.rundir.progress import console
from isheep.rundir.seed_sweep import check_layout, declare_runs

# Seconds between two looks at the processes.
POLL_SECONDS = 1.0
# The line with which `isheep sweep` begins a run.
RUN_MARK = "== "
# What the command line of a process begins with.
CLI = [sys.executable, "-c", "from isheep.cli import main; main()"]


def run_seeds(
    sweep: str, settings: Sequence[str], overrides: Sequence[str], out: Path, choice: SeedChoice, jobs: int | None
) -> list[str]:
    """Run settings of a sweep with random seeds, `jobs` seeds at a time, and return a line for each seed that failed.

    All runs of a seed are made by one process, so that they share what is the same. Existing runs are continued.
    Raises UserError before anything runs if a setting can't be loaded. On Ctrl-C the processes end, too.
    """
    recipes = api.load_sweep(sweep, list(overrides))
    for name in settings:
        if name not in recipes:
            raise UserError(f"{sweep}: {unknown_name('setting', name, list(recipes))}")
    runs = with_seeds({name: recipes[name] for name in settings}, choice)
    check_layout(out, runs)
    declare_runs(out, runs)
    seeds = choice.numbers(recipes[settings[0]].seed)
    words = [sweep, *overrides, "--out", str(out), *(word for name in settings for word in ("--setting", name))]
    waiting, processes = list(seeds), dict[int, subprocess.Popen[bytes]]()
    jobs = jobs or num_usable_cores()
    num_shown: dict[int, int] = {}
    try:
        while waiting or any(process.poll() is None for process in processes.values()):
            while waiting and sum(process.poll() is None for process in processes.values()) < jobs:
                seed = waiting.pop(0)
                processes[seed] = _start([*CLI, "sweep", *words, "--seeds", f"{seed},"], _log_of(out, seed))
            for seed in processes:
                _show_progress(seed, _log_of(out, seed), len(settings), num_shown)
            time.sleep(POLL_SECONDS)
    except BaseException:
        for process in processes.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in processes.values():
            process.wait()
        raise
    return [_failure(seed, _log_of(out, seed)) for seed, process in processes.items() if process.returncode]


def _log_of(out: Path, seed: int) -> Path:
    return out / f"seed-{seed}.log"


def _start(command: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("ab") as file:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)


def _show_progress(seed: int, log: Path, num_settings: int, num_shown: dict[int, int]) -> None:
    """Print which run a process has come to, once for each run."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    runs = [line.removeprefix(RUN_MARK) for line in lines if line.startswith(RUN_MARK)]
    if runs and num_shown.get(seed) != len(runs):
        num_shown[seed] = len(runs)
        number = (len(runs) - 1) % num_settings + 1
        console.print(f"random seed {seed}: run {number} of {num_settings}, {runs[-1]}", markup=False, soft_wrap=True)


def _failure(seed: int, log: Path) -> str:
    """Return the last line that a process has printed."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    reason = lines[-1].removeprefix("isheep: ") if lines else "it printed nothing"
    return f"random seed {seed}: {reason} (see {shell_word(log)})"
