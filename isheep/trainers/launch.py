"""Training in several processes: start them by `accelerate launch`, read their output, and never leave one behind."""

import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from isheep.batching import num_cpu_threads
from isheep.errors import UserError, says_out_of_memory
from isheep.rundir import progress
from isheep.rundir.atomic import write_text
from isheep.trainers.job import Job
from isheep.trainers.memory import TrainingMemoryError
from isheep.trainers.worker import ERROR_PREFIX, LOSS_PREFIX, STEP_LINE

CONFIG_DIR = Path(__file__).parent
"""The folder of accelerate's configurations, one for each value of machine.strategy."""

JOB_FILE, LOG_FILE = "job.json", "training.log"

SHUTDOWN_SECONDS = 20
"""How long processes may take to exit by themselves before they are killed."""


class TrainingCommand(NamedTuple):
    """A command that trains, the file for its output, and what its environment has beside this process's.

    `description` is the subject of the error message if it fails.
    """

    description: str
    argv: Sequence[str]
    log: Path
    environment: Mapping[str, str]
    cwd: Path | None = None


def launch(job: Job, advance: Callable[[int], None]) -> None:
    """Run `fit` in `job.machine.processes` processes that train together.

    `advance` is called with the number of steps that are done. Raises UserError as `run_training_command`.
    """
    write_text(job.output_dir / JOB_FILE, job.model_dump_json())
    environment = {"OMP_NUM_THREADS": str(job.machine.threads)} if job.machine.threads else {}
    description = f"training in {job.machine.processes} processes"
    command = TrainingCommand(description, accelerate_command(job), job.output_dir / LOG_FILE, environment)

    def on_line(line: str) -> None:
        if line == STEP_LINE:
            advance(1)
        elif line.startswith(LOSS_PREFIX):
            progress.report_losses(*json.loads(line.removeprefix(LOSS_PREFIX)))

    run_training_command(command, on_line)


def run_training_command(command: TrainingCommand, on_line: Callable[[str], None] = lambda line: None) -> None:
    """Run a command that trains, and wait for its end.

    Its output goes to `command.log`; `on_line` is called with each line of its standard output. Raises UserError if it
    fails, with the reason that a worker reported, or else with the last line of its output.
    """
    reason = ""
    with command.log.open("w", encoding="utf-8") as log, _running(command, log.fileno()) as process:
        assert process.stdout
        for line in process.stdout:
            on_line(line)
            if line.startswith(ERROR_PREFIX):
                reason = reason or line.removeprefix(ERROR_PREFIX).strip()
            elif line != STEP_LINE and not line.startswith(LOSS_PREFIX):
                log.write(line)
                log.flush()
        status = process.wait()
    if status:
        reason = reason or _last_line(command.log) or "it gave no reason"
        error_class = TrainingMemoryError if says_out_of_memory(reason) else UserError
        raise error_class(
            f"{command.description} failed with exit status {status}: {reason}; its output is in {command.log}; "
            "the same command resumes from the last checkpoint"
        )


def accelerate_command(job: Job) -> list[str]:
    """Return the `accelerate launch` command of a job; with several nodes srun runs it once on each of them."""
    machine = job.machine
    argv = [sys.executable, "-m", "accelerate.commands.launch"]
    argv += ["--config_file", str(CONFIG_DIR / f"{machine.strategy}.yaml")]
    argv += ["--num_processes", str(machine.processes), "--num_machines", str(machine.nodes)]
    argv += ["--main_process_port", str(_free_port()), "--num_cpu_threads_per_process", str(_threads_per_process(job))]
    worker = ["-m", "isheep.trainers.worker", str((job.output_dir / JOB_FILE).resolve())]
    if machine.nodes == 1:
        return [*argv, *worker]
    argv += ["--main_process_ip", socket.gethostname(), "--same_network"]
    shell_line = f'exec {shlex.join(argv)} --machine_rank "$SLURM_PROCID" {shlex.join(worker)}'
    nodes = str(machine.nodes)
    return ["srun", "--nodes", nodes, "--ntasks", nodes, "--ntasks-per-node", "1", "sh", "-c", shell_line]


def _threads_per_process(job: Job) -> int:
    """Return machine.threads; else OMP_NUM_THREADS if it is set, or an equal share of the CPU's cores."""
    if job.machine.threads:
        return job.machine.threads
    if os.environ.get("OMP_NUM_THREADS"):
        return num_cpu_threads()
    return max(1, num_cpu_threads() // job.machine.gpus)


@contextlib.contextmanager
def _running(command: TrainingCommand, log: int) -> Iterator["subprocess.Popen[str]"]:
    """Run a command whose processes exit at the end of the block, or when this process is killed.

    They watch their standard input, and this process holds its other end. The command has a session of its own, so that
    Ctrl-C in a terminal reaches this process alone, which then ends them.
    """
    process = subprocess.Popen(
        command.argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        errors="replace",
        cwd=command.cwd,
        env={**os.environ, **command.environment},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        assert process.stdin
        process.stdin.close()
        try:
            process.wait(SHUTDOWN_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("", 0))
        port: int = server.getsockname()[1]
        return port


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")
