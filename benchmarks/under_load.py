"""Repeat tests beside processes that keep the cores busy, because some faults show only on a busy machine.

    python -m benchmarks.under_load [--load 8] [--repeats 20] tests/test_ray_deaths.py

What follows the options is passed on to pytest. Each test runs `--repeats` times in one process, so that fixtures of a
module are made once. The exit code is pytest's.
"""

import multiprocessing
import sys
import time
from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.common import make_parser, run_script


class Repetition:
    """A plugin of pytest that runs every test several times."""

    def __init__(self, num_repeats: int) -> None:
        self.num_repeats = num_repeats

    @pytest.fixture
    def repetition(self, request: pytest.FixtureRequest) -> Any:
        return request.param

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        metafunc.fixturenames.append("repetition")
        metafunc.parametrize("repetition", range(1, self.num_repeats + 1), indirect=True)


def keep_busy() -> None:
    """Compute until the process is ended."""
    while True:
        sum(range(10**6))


def main(arguments: Sequence[str] | None = None) -> None:
    """Start the load, run pytest, and print how long it took."""
    parser = make_parser(__doc__)
    parser.add_argument("--load", type=int, default=8, help="Set the number of busy processes.")
    parser.add_argument("--repeats", type=int, default=20, help="Set how often each test runs.")
    args, words = parser.parse_known_args(arguments)
    context, start = multiprocessing.get_context("spawn"), time.monotonic()
    load = [context.Process(target=keep_busy, daemon=True) for _ in range(args.load)]
    for process in load:
        process.start()
    try:
        code = pytest.main([*words, "-q", "-p", "no:cacheprovider"], plugins=[Repetition(args.repeats)])
    finally:
        for process in load:
            process.kill()
    print(f"{args.repeats} repeats beside {args.load} busy processes: {(time.monotonic() - start) / 60:.1f} minutes")
    sys.exit(code)


if __name__ == "__main__":
    run_script(main)
