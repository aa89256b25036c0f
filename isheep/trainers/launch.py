"""Processes that train together: started by `accelerate launch`, watched, and never left behind."""

import contextlib
import importlib.util
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from isheep.batching import num_cpu_threads
from isheep.errors import UserError
from isheep.recipe.schema import Recipe
from isheep.rundir.atomic import write_text
from isheep.trainers.job import Job
from isheep.trainers.worker import ERROR, STEP

HERE = Path(__file__).parent
JOB, LOG = FILES = ("job.json", "training.log")
LLAMAFACTORY = "llamafactory-cli"
PATIENCE = 20  # seconds that processes have to end by themselves


def launch(job: Job, advance: Callable[[int], None]) -> None:
    """`fit` in `job.machine.processes` processes at once. `advance` is told of steps. Raises as `run`."""
    write_text(job.into / JOB, job.model_dump_json())
    environment = {"OMP_NUM_THREADS": str(job.machine.threads)} if job.machine.threads else {}
    what = f"training in {job.machine.processes} processes"
    run_training_command(what, command(job), job.into / LOG, environment, heard=lambda line: advance(int(line == STEP)))


def run_training_command(
    what: str,
    words: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    cwd: Path | None = None,
    heard: Callable[[str], None] = lambda line: None,
) -> None:
    """Run a command that trains, and wait for its end; `log` gets what it writes, `heard` each line that it prints.

    Raises UserError where it fails: the reason that it gave, or its last line.
    """
    said = ""
    with log.open("w", encoding="utf-8") as file, _started(words, file.fileno(), environment, cwd) as process:
        assert process.stdout
        for line in process.stdout:
            heard(line)
            if line.startswith(ERROR):
                said = said or line.removeprefix(ERROR).strip()
            elif line != STEP:
                file.write(line)
                file.flush()
        status = process.wait()
    if status:
        said = said or _last_line(log) or "nothing was said"
        raise UserError(
            f"{what} ended with status {status}: {said}; what it wrote is in {log}; "
            "checkpoints are kept: the same command goes on from the last one"
        )


def command(job: Job) -> list[str]:
    """`accelerate launch` for a job; on several nodes once on each of them, by srun."""
    machine, port = job.machine, _free_port()
    each = num_cpu_threads() if os.environ.get("OMP_NUM_THREADS") else max(1, num_cpu_threads() // machine.gpus)
    share = machine.threads or each
    words = [sys.executable, "-m", "accelerate.commands.launch"]
    words += ["--config_file", str(HERE / f"{machine.strategy}.yaml")]
    words += ["--num_processes", str(machine.processes), "--num_machines", str(machine.nodes)]
    words += ["--main_process_port", str(port), "--num_cpu_threads_per_process", str(share)]
    last = ["-m", "isheep.trainers.worker", str((job.into / JOB).resolve())]
    if machine.nodes == 1:
        return [*words, *last]
    words += ["--main_process_ip", socket.gethostname(), "--same_network"]
    line = f'exec {shlex.join(words)} --machine_rank "$SLURM_PROCID" {shlex.join(last)}'
    nodes = str(machine.nodes)
    return ["srun", "--nodes", nodes, "--ntasks", nodes, "--ntasks-per-node", "1", "sh", "-c", line]


def check_training_machine(recipe: Recipe) -> None:
    """Raises UserError where this machine can't train as the recipe says. Cheap where one process trains."""
    machine, quantize = recipe.machine, any(one.training.quantize for one in recipe.variants)
    if machine.processes > 1 or quantize:
        import torch

        cuda = torch.cuda.is_available() and machine.device != "cpu"
        if quantize and not (cuda and _installed("bitsandbytes")):
            raise UserError(
                "training.quantize: nf4 needs CUDA and bitsandbytes (pip install bitsandbytes), "
                f"and this machine has {'CUDA alone' if cuda else 'no CUDA'}: set it to null"
            )
        if machine.strategy != "ddp" and not cuda:
            raise UserError(f"machine.strategy {machine.strategy} needs CUDA, which is not here: set it to ddp")
        if cuda and machine.gpus > torch.cuda.device_count():
            raise UserError(f"machine.gpus is {machine.gpus}, and this machine has {torch.cuda.device_count()}")
    if machine.strategy == "zero3" and not _installed("deepspeed"):
        raise UserError("machine.strategy zero3 needs DeepSpeed: pip install deepspeed, or set it to fsdp")
    if machine.trainer == "llamafactory" and not shutil.which(LLAMAFACTORY):
        raise UserError(f"machine.trainer llamafactory needs {LLAMAFACTORY}, which is not installed: set it to peft")
    if machine.nodes > 1 and not (shutil.which("srun") and "SLURM_JOB_ID" in os.environ):
        raise UserError(
            f"machine.nodes is {machine.nodes}: more than one node needs srun in a Slurm allocation (docs/scale.md), "
            "and this process is in none: start it with sbatch or salloc, or set machine.nodes to 1"
        )


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@contextlib.contextmanager
def _started(
    words: Sequence[str], log: int, environment: Mapping[str, str], cwd: Path | None
) -> Iterator["subprocess.Popen[str]"]:
    """A command whose processes end where this block does, and where this process is killed: they watch their standard
    input, whose other end is here. A terminal's Ctrl-C comes to this process alone, which ends them."""
    process = subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        errors="replace",
        cwd=cwd,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        assert process.stdin
        process.stdin.close()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("", 0))
        port: int = found.getsockname()[1]
        return port


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")
