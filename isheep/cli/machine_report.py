"""What `isheep doctor` prints: versions, the hardware, and what the installed extras allow."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from isheep import __version__
from isheep.backends import ENGINES, engine_module
from isheep.errors import one_line
from isheep.models.checkpoint import has_bfloat16_instructions
from isheep.recipe.packaged import PACKAGED_MODELS
from isheep.rundir.run import PACKAGES

MISSING = "missing"
CGROUP = Path("/sys/fs/cgroup")


def machine_report() -> Iterator[tuple[str, str]]:
    """Yield (name, value) in the order in which `isheep doctor` prints them."""
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    for package in PACKAGES:
        yield package, version_of(package)
    yield "device", describe_device()
    yield "cores", describe_cores()
    yield "memory", describe_memory()
    yield "disk", f"{_gigabytes(shutil.disk_usage(Path.cwd()).free)} free in the current folder"
    for name, folder in PACKAGED_MODELS.items():
        yield name, "checkpoint found" if (folder / "config.json").is_file() else MISSING
    for extra, (package, purpose) in extras().items():
        yield f"[{extra}]", f"{purpose}: {_describe_extra(extra, package)}"


def extras() -> dict[str, tuple[str, str]]:
    """Return for each extra of the package: a package that it installs, and what it allows."""
    engines = {name: engine_module(name).PACKAGE for name in ENGINES}
    return {
        "eval": ("lm_eval", "IFEval"),
        "ray": ("ray", "machine.replicas and machine.ray"),
        **{name: (package, f"machine.engine: {name}") for name, package in engines.items() if package},
        "dev": ("pytest", "make test, for developers of isheep"),
    }


def _describe_extra(extra: str, package: str) -> str:
    for name in (package, f"{package}-cpu"):
        if (version := version_of(name)) != MISSING:
            return f"{package} {version}"
    return f"not installed (pip install 'isheep[{extra}]')"


def version_of(package: str) -> str:
    """Return the version of a package, or "missing"."""
    if package == "isheep":
        return __version__
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return MISSING


def describe_device() -> str:
    """Return the devices that models run on if the recipe names none."""
    try:
        torch: Any = import_module("torch")
    except (ImportError, OSError) as error:
        return f"torch cannot be loaded: {one_line(error)}"
    if not torch.cuda.is_available():
        instructions = "with" if has_bfloat16_instructions() else "without"
        return f"cpu (torch finds no CUDA device), {instructions} instructions for bfloat16"
    devices = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    return "cuda: " + ", ".join(f"{device.name} with {_gigabytes(device.total_memory)}" for device in devices)


def describe_cores() -> str:
    """Return the number of cores that this process may use, that of the machine, and the limits."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, *period = _cgroup("cpu.max").split()
    limit = f", limited to the time of {int(quota) / int(period[0]):g}" if quota.isdecimal() else ""
    threads = os.environ.get("OMP_NUM_THREADS")
    variable = f" (OMP_NUM_THREADS is {threads})" if threads else ""
    return f"{usable} of {os.cpu_count()}{limit}{variable}"


def describe_memory() -> str:
    """Return the free and the total main memory, and the container's limit if there is one."""
    import psutil

    memory, limit = psutil.virtual_memory(), _cgroup("memory.max")
    limited = f", limited to {_gigabytes(int(limit))}" if limit.isdecimal() else ""
    return f"{_gigabytes(memory.available)} free of {_gigabytes(memory.total)}{limited}"


def is_complete() -> bool:
    """Return whether everything that a run imports is installed."""
    return sys.version_info >= (3, 11) and all(version_of(package) != MISSING for package in PACKAGES)


def _cgroup(name: str) -> str:
    """Return a limit of the container that this process runs in; "max" if there is none."""
    try:
        return (CGROUP / name).read_text(encoding="ascii").strip() or "max"
    except OSError:
        return "max"


def _gigabytes(number: int) -> str:
    return f"{number / 2**30:.1f} GiB"
