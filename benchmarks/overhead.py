"""What an iteration spends outside the engine and the training: `isheep run lamb`, CPU seconds by where they go.

    OMP_NUM_THREADS=1 python benchmarks/overhead.py [KEY=VALUE ...]

One iteration by default, as `isheep run` does it, the final table included. CPU seconds of this process, taken around
every call of the engine and of the training; what is left is all else: imports of libraries, prompts, parsing,
novelty, filters, figures, files and their fsyncs.
"""

import contextlib
import sys
import tempfile
import time
from collections import Counter
from functools import wraps

started = time.process_time()
spent: Counter[str] = Counter()


def counted(name: str, work):
    """`work`, its CPU seconds added up under `name`."""

    @wraps(work)
    def call(*args, **kwargs):
        start = time.process_time()
        try:
            return work(*args, **kwargs)
        finally:
            spent[name] += time.process_time() - start

    return call


def main() -> None:
    from isheep import algorithm
    from isheep.cli import main as isheep
    from isheep.engines.transformers import Transformers

    for name in ("generate", "logprobs", "choices", "embed"):
        setattr(Transformers, name, counted(name, getattr(Transformers, name)))
    algorithm.train = counted("train", algorithm.train)
    with tempfile.TemporaryDirectory() as folder:
        sys.argv = ["isheep", "run", "lamb", "iterations=1", *sys.argv[1:], "--out", f"{folder}/run"]
        with contextlib.suppress(SystemExit):
            isheep()
    total = time.process_time() - started
    rest = total - sum(spent.values())
    print("| where | CPU s | share |\n|---|---:|---:|")
    for name, seconds in [*spent.items(), ("all else", rest), ("together", total)]:
        print(f"| {name} | {seconds:.2f} | {seconds / total:.1%} |")


if __name__ == "__main__":
    main()
