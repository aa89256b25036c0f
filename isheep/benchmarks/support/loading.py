"""Finding a benchmark by its name in a recipe: a module of isheep, an object of the user's, or code of the user's."""

import re

from isheep import extensions
from isheep.benchmarks.support.base import Benchmark
from isheep.benchmarks.support.user_benchmarks import guard_benchmark
from isheep.errors import UserError, excerpt
from isheep.recipe import benchmark_names

_REGISTERED: dict[str, Benchmark] = {}
# Names become names of files: no "..", no absolute path, nothing hidden.
_NAME = re.compile(r"(?!.{101})[A-Za-z0-9_][\w.-]*(?:/[A-Za-z0-9_][\w.-]*)?", re.ASCII)


def is_readable(name: str) -> bool:
    """Return whether `load_benchmark` may load a benchmark: it is not code of the user's that is not allowed."""
    return name in _REGISTERED or not extensions.parse_reference(name) or extensions.is_code_allowed()


def load_benchmark(name: str) -> Benchmark:
    """Return the benchmark of that name in a recipe's `evaluation`.

    For a name of user code (file.py:name or package.module:name), raises UserError if code is not allowed or if the
    object is not a Benchmark.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]
    if extensions.parse_reference(name):
        benchmark = extensions.load_object(name, "benchmark")
        if not isinstance(benchmark, Benchmark):
            raise UserError(
                f"benchmark {name} is of type {type(benchmark).__name__}: make it an isheep.benchmarks.Benchmark"
            )
        return guard_benchmark(benchmark)
    return _load_packaged(name)


def _load_packaged(name: str) -> Benchmark:
    """Return the benchmark of a file in isheep/benchmarks. Raises UserError if the file has none, or one of another
    name, under which a recipe could not name it.
    """
    file = f"isheep/benchmarks/{name}.py"
    module = extensions.import_registered(f"isheep.benchmarks.{name.replace('/', '.')}", file)
    benchmark = getattr(module, "BENCHMARK", None)
    if not isinstance(benchmark, Benchmark):
        raise UserError(f"{file} has no BENCHMARK: write BENCHMARK = Benchmark(...) (docs/extending.md)")
    if benchmark.name != name:
        raise UserError(f"{file}: the name of its BENCHMARK is {benchmark.name!r}: make it {name!r}, like the file")
    return benchmark


def register_benchmark(benchmark: Benchmark) -> None:
    """Make a benchmark known by its name in this process, so that recipes may name it.

    Raises UserError if isheep has a benchmark of that name, or if the name could not be the name of a file.
    """
    if not isinstance(benchmark, Benchmark) or not isinstance(benchmark.name, str):
        raise UserError(f"benchmark {excerpt(benchmark)} is not a Benchmark: pass a name, or an isheep.Benchmark")
    if not _NAME.fullmatch(benchmark.name):
        raise UserError(
            f"benchmark name {excerpt(benchmark.name)}: use at most 100 letters, digits and the signs _ . - /"
        )
    if benchmark.name in benchmark_names.packaged_names():
        raise UserError(f"benchmark {benchmark.name!r} comes with isheep: give yours another name")
    _REGISTERED[benchmark.name] = guard_benchmark(benchmark)
    benchmark_names.add_name(benchmark.name)
