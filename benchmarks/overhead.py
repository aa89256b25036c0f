"""What an iteration spends outside the engine and the training: `isheep run lamb`, CPU seconds by where they go.

    OMP_NUM_THREADS=1 python benchmarks/overhead.py [KEY=VALUE ...]

One iteration by default, as `isheep run` does it. CPU seconds of this process, taken around every call of the engine
and of the training; what is left is all else: prompts, parsing, novelty, filters, figures, files and their fsyncs.
What a run does once, however many iterations it has, stands below the table.
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
    from isheep.cli import main as isheep
    from isheep.engines.transformers import TransformersEngine
    from isheep.evaluation import evaluate
    from isheep.trainers import peft

    for name in ("generate", "logprobs", "choices", "embed"):
        setattr(TransformersEngine, name, counted(name, getattr(TransformersEngine, name)))
    peft.train = counted("train", peft.train)
    marks, examine = [], evaluate.evaluate

    def examined(*args):
        examine(*args)
        marks.append((time.process_time(), spent.copy()))  # the end of an iteration, the base's exam being the 0th

    evaluate.evaluate = examined
    with tempfile.TemporaryDirectory() as folder:
        sys.argv = ["isheep", "run", "lamb", "iterations=1", *sys.argv[1:], "--out", f"{folder}/run"]
        with contextlib.suppress(SystemExit):
            isheep()
    (start, before), (end, after) = marks[0], marks[-1]
    inside = after - before
    total = end - start
    print(f"\n{len(marks) - 1} iteration(s), with their exams where the recipe has one\n")
    print("| where | CPU s | share |\n|---|---:|---:|")
    for name, seconds in [*inside.items(), ("all else", total - inside.total()), ("together", total)]:
        print(f"| {name} | {seconds:.2f} | {seconds / total:.1%} |")
    outside = time.process_time() - started - total - (spent - inside).total()
    print(f"\nOnce in a run, beside them: {outside:.1f} s for libraries, the first exam's figures and the last table")


if __name__ == "__main__":
    main()
