"""The device that a model runs on: a GPU by name from gpus.yaml, or this machine, measured in half a second."""

import difflib
import re
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import psutil

from isheep.errors import UserError
from isheep.files.yaml_files import read_yaml
from isheep.models.checkpoint import check_device
from isheep.records import Record

# The duration of each of the two measurements.
MEASURE_SECONDS = 0.15


class Device(Record):
    """A device, of which there are `count` equal ones."""

    name: str
    memory: float
    """Bytes."""
    bandwidth: float
    """Bytes per second."""
    flops: float
    """Peak FLOPs per second."""
    number_bytes: int = 2
    """Bytes of a number in computation: 2 for bfloat16 (GPU), 4 for float32 (CPU)."""
    count: int = 1
    measured: bool = False
    """Whether this machine was measured, rather than a GPU looked up."""

    @property
    def gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.number_bytes == 2


@cache
def known_gpus() -> dict[str, Device]:
    """Return the GPUs of gpus.yaml by name."""
    rows = read_yaml(Path(__file__).parent / "gpus.yaml")
    return {
        name: Device(
            name=name, memory=row["memory"] * 1e9, bandwidth=row["bandwidth"] * 1e12, flops=row["tflops"] * 1e12
        )
        for name, row in rows.items()
    }


def gpu_by_name(name: str) -> Device:
    """Return a GPU by its name, without regard to case and punctuation. Raises UserError with similar names."""

    def bare(text: str) -> str:
        return re.sub(r"[^a-z0-9]", "", text.lower())

    wanted = bare(name)
    names = {bare(gpu): gpu for gpu in known_gpus()}
    if wanted in names:
        return known_gpus()[names[wanted]]
    similar = [gpu for key, gpu in names.items() if key.startswith(wanted)]
    similar = similar or [gpu for key, gpu in names.items() if wanted.startswith(key)]
    similar = similar or [names[key] for key in difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(similar)}?" if wanted and similar else f"take one of {', '.join(known_gpus())}"
    raise UserError(f"GPU {name!r} is not known: {hint}")


def this_machine(threads: int | None, device: str | None) -> Device:
    """Return the device that machine.device names on this machine; with None, CUDA if there is any.

    Its speed is measured with a matrix product, its bandwidth with a copy. Raises UserError if there is no such device.
    """
    import torch

    check_device(device)
    target_device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    cuda, original_threads = target_device.type == "cuda", torch.get_num_threads()
    torch.set_num_threads(threads or original_threads)
    dtype, side = (torch.bfloat16, 8192) if cuda else (torch.float32, 768)
    wait = torch.cuda.synchronize if cuda else (lambda: None)
    matrix = torch.ones(side, side, dtype=dtype, device=target_device)
    source = torch.ones(2**28 if cuda else 2**24, dtype=dtype, device=target_device)
    target = torch.empty_like(source)
    flops = 2 * side**3 * _rate(lambda: torch.mm(matrix, matrix), wait)
    bandwidth = 2 * source.nbytes * _rate(lambda: target.copy_(source), wait)
    torch.set_num_threads(original_threads)
    card = torch.cuda.get_device_properties(target_device) if cuda else None
    return Device(
        name=card.name if card else f"this CPU (threads: {threads or original_threads})",
        memory=card.total_memory if card else psutil.virtual_memory().total,
        bandwidth=bandwidth,
        flops=flops,
        number_bytes=2 if cuda else 4,
        measured=True,
    )


def _rate(work: Callable[[], object], wait: Callable[[], object]) -> float:
    """Return how often per second `work` can be done: its best time in MEASURE_SECONDS, after one that warms up."""
    work()
    wait()
    times, started = list[float](), time.monotonic()
    while not times or time.monotonic() - started < MEASURE_SECONDS:
        begun = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - begun)
    return 1 / min(times)
