"""Fakes behind the interfaces of isheep for commands, which take neither a backend nor a benchmark as an argument."""

import pytest

from isheep.backends import DEFAULT_BACKEND, Backend
from isheep.benchmarks import Benchmark, register_benchmark
from isheep.benchmarks.support import loading
from isheep.recipe import benchmark_names


def use_backend(monkeypatch: pytest.MonkeyPatch, backend: Backend) -> None:
    """Let the commands open and train models with this backend. Functions of isheep get it as `backend=` instead."""
    for name, function in vars(backend).items():
        monkeypatch.setattr(DEFAULT_BACKEND, name, function)


def isolate_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget at the end of the test which benchmarks it registers."""
    monkeypatch.setattr(loading, "_REGISTERED", {**loading._REGISTERED})
    monkeypatch.setattr(benchmark_names, "_added", [*benchmark_names._added])


def add_benchmark(monkeypatch: pytest.MonkeyPatch, benchmark: Benchmark) -> None:
    """Register a benchmark until the end of the test, so that recipes and commands may name it."""
    isolate_benchmarks(monkeypatch)
    register_benchmark(benchmark)
