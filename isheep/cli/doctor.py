"""What this machine has and what isheep can do on it."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from isheep.backends import ENGINES, engine_module
from isheep.models import checkpoint
from isheep.rundir.folder import PACKAGES

MISSING = "missing"
CGROUP = Path("/sys/fs/cgroup")


def doctor() -> Iterator[tuple[str, str]]:
    """(what, its value) in the order in which `isheep doctor` prints them."""
    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    for package in PACKAGES:
        yield package, version(package)
    yield "device", device()
    yield "cores", cores()
    yield "memory", memory()
    yield "disk", f"{_gigabytes(shutil.disk_usage(Path.cwd()).free)} free here"
    yield "lamb", "its checkpoint is there" if (checkpoint.LAMB_CHECKPOINT / "config.json").is_file() else MISSING
    for extra, (package, allows) in extras().items():
        found = next((one for one in map(version, (package, f"{package}-cpu")) if one != MISSING), MISSING)
        has = f"not installed (pip install 'isheep[{extra}]')" if found == MISSING else f"{package} {found}"
        yield f"[{extra}]", f"{allows}: {has}"


def extras() -> dict[str, tuple[str, str]]:
    """Return for each extra of the package: a distribution that it installs, and the feature that it enables."""
    engines = {name: engine_module(name).PACKAGE for name in ENGINES}
    return {
        "eval": ("lm_eval", "IFEval"),
        "ray": ("ray", "machine.replicas and machine.ray"),
        **{name: (package, f"machine.engine: {name}") for name, package in engines.items() if package},
        "dev": ("pytest", "make test, for who works on isheep"),
    }


def version(package: str) -> str:
    """A package's version, or "missing"."""
    if package == "isheep":
        from isheep import __version__

        return __version__
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return MISSING


def device() -> str:
    """Where models compute when the recipe does not say."""
    try:
        torch: Any = import_module("torch")
    except (ImportError, OSError) as error:  # a broken installation is just what a doctor is asked about
        return f"torch does not load: {' '.join(str(error).split())}"
    if not torch.cuda.is_available():
        return "cpu (torch sees no CUDA device)"
    cards = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    return "cuda: " + ", ".join(f"{card.name} with {_gigabytes(card.total_memory)}" for card in cards)


def cores() -> str:
    """Cores of the machine, and how many of them this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, *period = _cgroup("cpu.max").split()
    share = f", limited to the time of {int(quota) / int(period[0]):g}" if quota.isdecimal() else ""
    threads = os.environ.get("OMP_NUM_THREADS")
    return f"{usable} of {os.cpu_count()}{share}" + (f" (OMP_NUM_THREADS is {threads})" if threads else "")


def memory() -> str:
    """Free and whole main memory, and the container's limit where there is one."""
    import psutil

    now, limit = psutil.virtual_memory(), _cgroup("memory.max")
    limited = f", limited to {_gigabytes(int(limit))}" if limit.isdecimal() else ""
    return f"{_gigabytes(now.available)} free of {_gigabytes(now.total)}{limited}"


def complete() -> bool:
    """Whether everything that a run imports is installed."""
    return sys.version_info >= (3, 11) and all(version(package) != MISSING for package in PACKAGES)


def _cgroup(name: str) -> str:
    """A limit of the container that we are in, "max" where there is none."""
    try:
        return (CGROUP / name).read_text(encoding="ascii").strip() or "max"
    except OSError:
        return "max"


def _gigabytes(number: int) -> str:
    return f"{number / 2**30:.1f} GiB"
