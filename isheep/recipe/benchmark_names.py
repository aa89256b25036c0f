"""The names of benchmarks, from the files of isheep/benchmarks; nothing is imported."""

import difflib
from functools import cache
from pathlib import Path

from isheep import extensions

BENCHMARKS_DIR = Path(__file__).parents[1] / "benchmarks"
HELPERS = "support"  # the folder that holds no benchmarks

_added: list[str] = []


def benchmark_names() -> tuple[str, ...]:
    """Return the names of the packaged benchmarks, then those that this process has added."""
    return (*packaged_names(), *_added)


@cache
def packaged_names() -> tuple[str, ...]:
    """Return the names of the benchmarks that come with isheep, those of protocols such as "paper/piqa" last."""
    folders = sorted(path.parent for path in BENCHMARKS_DIR.glob("*/__init__.py") if path.parent.name != HELPERS)
    names = _module_names(BENCHMARKS_DIR)
    return (*names, *(f"{folder.name}/{name}" for folder in folders for name in _module_names(folder)))


def add_name(name: str) -> None:
    """Add the name of a benchmark that is an object of this process."""
    if name not in _added:
        _added.append(name)


def check_benchmark_name(name: str) -> str:
    """Return the name. Raises ValueError, with the nearest name, if it is neither a benchmark's nor names code."""
    if name in benchmark_names() or extensions.parse_reference(name):
        return name
    raise ValueError(unknown_benchmark(name))


def benchmark_label(name: str) -> str:
    """Return a benchmark's name in tables and file names: the last part of file.py:name and package.module:name."""
    reference = extensions.parse_reference(name)
    return reference.name if reference else name


def unknown_benchmark(name: str) -> str:
    """Return a message that says that there is no benchmark of this name, with the nearest one."""
    if tasks := [task for task in benchmark_names() if task.endswith(f"/{name}")]:
        return f"benchmark {name!r} needs the name of a protocol before it: write {' or '.join(tasks)}"
    if near := difflib.get_close_matches(name, benchmark_names(), n=1):
        return f"benchmark {name!r} is not known: did you mean {near[0]!r}?"
    return f"benchmark {name!r} is not known: take one of {', '.join(benchmark_names())}"


def _module_names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
