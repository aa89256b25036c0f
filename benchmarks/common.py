"""Provide what several speed scripts share: clocks, a timed engine, child processes, and one way to begin a script."""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import psutil

from isheep.engines import Engine, SeededEngine
from isheep.errors import UserError
from isheep.records import Completion, Sampling, TokenLogprobs

T = TypeVar("T")

ISHEEP = (sys.executable, "-c", "from isheep.cli import main; main()")
"""The command line of isheep, as the beginning of a child's command."""


def make_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help begins with `doc`, the docstring of a script."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def run_script(main: Callable[[], None]) -> None:
    """Run a script's `main`. Exits with one line on stderr if it raises UserError."""
    try:
        main()
    except UserError as error:
        sys.exit(str(error))


# --- clocks


def best_time(
    work: Callable[[], T], repeats: int = 1, clock: Callable[[], float] = time.process_time
) -> tuple[float, T]:
    """Return the least seconds that a call of `work` takes in `repeats` calls, and the result of the last call.

    `clock` returns seconds; without one they are CPU seconds of this process. Raises UserError if `repeats` is below 1.
    """
    if repeats < 1:
        raise UserError(f"--repeats {repeats}: give 1 or more")
    seconds = []
    for _ in range(repeats):
        start = clock()
        result = work()
        seconds.append(clock() - start)
    return min(seconds), result


def process_seconds() -> float:
    """Return the CPU seconds that this process and its living children have used so far."""
    current = psutil.Process()
    times = [process.cpu_times() for process in (current, *current.children(recursive=True))]
    return sum(float(process.user) + float(process.system) for process in times)


@contextmanager
def add_cpu_seconds(spent: dict[str, float], name: str) -> Iterator[None]:
    """Add the CPU seconds that this process spends in the block to `spent[name]`."""
    start = time.process_time()
    try:
        yield
    finally:
        spent[name] = spent.get(name, 0.0) + time.process_time() - start


class TimedEngine:
    """An engine that adds the CPU seconds of each call to `spent`, by the name of the method."""

    def __init__(self, engine: Engine, spent: dict[str, float]) -> None:
        self.engine, self.spent = engine, spent
        if isinstance(engine, SeededEngine):
            self.generate_seeded = partial(self._generate_seeded, engine)

    def _generate_seeded(
        self, engine: SeededEngine, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        with add_cpu_seconds(self.spent, "generate"):
            return engine.generate_seeded(prompts, sampling, seeds)

    @property
    def max_in_flight(self) -> int:
        return self.engine.max_in_flight

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        with add_cpu_seconds(self.spent, "generate"):
            return self.engine.generate(prompts, sampling, seed)

    def logprobs(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[TokenLogprobs]:
        with add_cpu_seconds(self.spent, "logprobs"):
            return self.engine.logprobs(prompts, outputs)

    def choices(self, prompts: Sequence[str], options: Sequence[str]) -> list[list[float]]:
        with add_cpu_seconds(self.spent, "choices"):
            return self.engine.choices(prompts, options)

    def embed(self, texts: Sequence[str]) -> Any:
        with add_cpu_seconds(self.spent, "embed"):
            return self.engine.embed(texts)

    def close(self) -> None:
        self.engine.close()


# --- child processes


def run_child(command: Sequence[str]) -> tuple[float, str]:
    """Run a command on one thread; return the CPU seconds of its processes, and what it printed.

    Exits with the command and what it wrote on stderr if it fails.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, capture_output=True, text=True, env=environment)
    if process.returncode:
        sys.exit(f"{' '.join(command)}\n{process.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, process.stdout + process.stderr
