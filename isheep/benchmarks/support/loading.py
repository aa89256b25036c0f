"""Finding a benchmark by its name in a recipe: a module of isheep, an object of the user's, or code of the user's."""

from importlib import import_module

from isheep import extensions
from isheep.benchmarks.support.base import Benchmark
from isheep.errors import UserError
from isheep.recipe import benchmark_names

_REGISTERED: dict[str, Benchmark] = {}


def load_benchmark(name: str) -> Benchmark:
    """Return the benchmark of that name in a recipe's `evaluation`.

    Raises UserError if the name is file.py:name or package.module:name, and code is not allowed or it is no Benchmark.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]
    if extensions.parse_reference(name):
        benchmark = extensions.load_object(name, "benchmark")
        if not isinstance(benchmark, Benchmark):
            raise UserError(
                f"benchmark {name} is of type {type(benchmark).__name__}: make it an isheep.benchmarks.Benchmark"
            )
        return benchmark
    built_in: Benchmark = import_module(f"isheep.benchmarks.{name.replace('/', '.')}").BENCHMARK
    return built_in


def register_benchmark(benchmark: Benchmark) -> None:
    """Make a benchmark known by its name in this process, so that recipes may name it.

    Raises UserError if isheep has a benchmark of that name.
    """
    if benchmark.name in benchmark_names.packaged_names():
        raise UserError(f"benchmark {benchmark.name!r} comes with isheep: give yours another name")
    _REGISTERED[benchmark.name] = benchmark
    benchmark_names.add_name(benchmark.name)
