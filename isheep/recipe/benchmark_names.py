"""The names of the benchmarks that come with isheep, from the files of isheep/benchmarks; nothing is imported."""

import difflib
from functools import cache
from pathlib import Path

BENCHMARKS_DIR = Path(__file__).parents[1] / "benchmarks"
HELPERS = "support"  # the folder that holds no benchmarks


@cache
def protocols() -> tuple[str, ...]:
    """Return the names of the folders of benchmarks, which names such as "paper/piqa" begin with."""
    folders = (path.parent.name for path in BENCHMARKS_DIR.glob("*/__init__.py"))
    return tuple(sorted(name for name in folders if name != HELPERS))


@cache
def benchmark_names() -> tuple[str, ...]:
    """Return the names of all benchmarks, those of the protocols last."""
    names = sorted(_module_names(BENCHMARKS_DIR))
    for protocol in protocols():
        names += sorted(f"{protocol}/{name}" for name in _module_names(BENCHMARKS_DIR / protocol))
    return tuple(names)


def unknown_benchmark(name: str) -> str:
    """Return a message that says that there is no benchmark of this name, with the nearest one."""
    if tasks := [known for known in benchmark_names() if known.endswith(f"/{name}")]:
        return f"benchmark {name!r} needs the name of a protocol before it: write {' or '.join(tasks)}"
    if near := difflib.get_close_matches(name, benchmark_names(), n=1):
        return f"benchmark {name!r} is not known: did you mean {near[0]!r}?"
    return f"benchmark {name!r} is not known: take one of {', '.join(benchmark_names())}"


def _module_names(folder: Path) -> list[str]:
    return [path.stem for path in folder.glob("*.py") if path.stem != "__init__"]
