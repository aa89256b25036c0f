"""Several random seeds of a sweep at a time: a process of `isheep sweep` for each seed, with its log in a file."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

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
# What the command line of a process begins with. The guard ends it when this process is gone, however it ended.
GUARD = [sys.executable, "-m", "isheep.sandbox.process_guard"]
CLI = [*GUARD, sys.executable, "-c", "from isheep.cli import main; main()"]


class SeedProcess(NamedTuple):
    """A process that makes the runs of one random seed. `log_start` is the size of its log before it began."""

    process: "subprocess.Popen[bytes]"
    log: Path
    log_start: int

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def read_log(self) -> list[str]:
        """Return the lines that the process has printed."""
        with self.log.open("rb") as file:
            file.seek(self.log_start)
            return file.read().decode(errors="replace").splitlines()


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
    waiting, processes = list(seeds), dict[int, SeedProcess]()
    jobs = jobs or num_usable_cores()
    num_shown: dict[int, int] = {}
    try:
        while waiting or any(process.is_running for process in processes.values()):
            while waiting and sum(process.is_running for process in processes.values()) < jobs:
                seed = waiting.pop(0)
                processes[seed] = _start([*CLI, "sweep", *words, "--seeds", f"{seed},"], out / f"seed-{seed}.log")
            for seed, process in processes.items():
                _show_progress(seed, process, len(settings), num_shown)
            time.sleep(POLL_SECONDS)
    finally:
        # At the end of its standard input a guard ends what it runs.
        for process in processes.values():
            assert process.process.stdin
            process.process.stdin.close()
        for process in processes.values():
            process.process.wait()
    return [_failure(seed, process) for seed, process in processes.items() if process.process.returncode]


def _start(command: Sequence[str], log: Path) -> SeedProcess:
    with log.open("ab") as file:
        log_start = file.tell()
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=file, stderr=file)
        return SeedProcess(process, log, log_start)


def _show_progress(seed: int, process: SeedProcess, num_settings: int, num_shown: dict[int, int]) -> None:
    """Print which run a process has come to, once for each run."""
    runs = [line.removeprefix(RUN_MARK) for line in process.read_log() if line.startswith(RUN_MARK)]
    if runs and num_shown.get(seed) != len(runs):
        num_shown[seed] = len(runs)
        text = f"random seed {seed}: run {len(runs)} of {num_settings}, {runs[-1]}"
        console.print(text, markup=False, soft_wrap=True)


def _failure(seed: int, process: SeedProcess) -> str:
    """Return the last line that a process has printed."""
    lines = [line for line in process.read_log() if line.strip()]
    reason = lines[-1].removeprefix("isheep: ") if lines else "it printed nothing"
    return f"random seed {seed}: {reason} (see {shell_word(process.log)})"
