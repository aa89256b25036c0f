"""What a model runs on: a GPU by name from gpus.yaml, or this machine, measured in half a second."""

import difflib
import re
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import psutil
import yaml

from isheep.errors import UserError
from isheep.models.checkpoint import check_device
from isheep.records import Record

MEASURED = 0.15  # seconds of each of the two measurements


class Device(Record):
    """One of `count` equal ones. `number` is the bytes of a number in it: 2 for bfloat16, 4 for float32."""

    name: str
    memory: float  # bytes
    bandwidth: float  # bytes a second
    flops: float  # a second, at best
    number: int = 2
    count: int = 1
    measured: bool = False

    @property
    def gpu(self) -> bool:
        return self.number == 2


@cache
def known() -> dict[str, Device]:
    """The GPUs of gpus.yaml by name."""
    rows = yaml.safe_load((Path(__file__).parent / "gpus.yaml").read_text(encoding="utf-8"))
    return {
        name: Device(
            name=name, memory=row["memory"] * 1e9, bandwidth=row["bandwidth"] * 1e12, flops=row["tflops"] * 1e12
        )
        for name, row in rows.items()
    }


def named(name: str) -> Device:
    """A GPU by its name, case and marks aside. Raises UserError, with near names, where it is not known."""

    def bare(text: str) -> str:
        return re.sub(r"[^a-z0-9]", "", text.lower())

    names = {bare(one): one for one in known()}
    if bare(name) in names:
        return known()[names[bare(name)]]
    near = [one for key, one in names.items() if key.startswith(bare(name))]
    near = near or [one for key, one in names.items() if bare(name).startswith(key)]
    near = near or [names[key] for key in difflib.get_close_matches(bare(name), names, n=3, cutoff=0.5)]
    ours = f"did you mean {' or '.join(near)}?" if bare(name) and near else f"take one of {', '.join(known())}"
    raise UserError(f"GPU {name!r} is not known: {ours}")


def this_machine(threads: int | None, device: str | None) -> Device:
    """What a recipe's machine.device is here: memory as told, speed as a product of matrices and a copy show it.

    Raises UserError where this machine has no such device.
    """
    import torch

    check_device(device)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    cuda, before = place.type == "cuda", torch.get_num_threads()
    torch.set_num_threads(threads or before)
    dtype, side = (torch.bfloat16, 8192) if cuda else (torch.float32, 768)
    wait = torch.cuda.synchronize if cuda else (lambda: None)
    one = torch.ones(side, side, dtype=dtype, device=place)
    source = torch.ones(2**28 if cuda else 2**24, dtype=dtype, device=place)
    target = torch.empty_like(source)
    flops = 2 * side**3 * _rate(lambda: torch.mm(one, one), wait)
    bandwidth = 2 * source.nbytes * _rate(lambda: target.copy_(source), wait)
    torch.set_num_threads(before)
    card = torch.cuda.get_device_properties(place) if cuda else None
    return Device(
        name=card.name if card else f"this CPU (threads: {threads or before})",
        memory=card.total_memory if card else psutil.virtual_memory().total,
        bandwidth=bandwidth,
        flops=flops,
        number=2 if cuda else 4,
        measured=True,
    )


def _rate(work: Callable[[], object], wait: Callable[[], object]) -> float:
    """How often a second `work` can be done: its best time in MEASURED seconds, the first time not counted."""
    work()
    wait()
    times, started = list[float](), time.monotonic()
    while not times or time.monotonic() - started < MEASURED:
        begun = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - begun)
    return 1 / min(times)
