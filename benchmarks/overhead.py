"""Measure what an iteration spends outside the engine and the training, in CPU seconds: `isheep run lamb`.

    OMP_NUM_THREADS=1 python -m benchmarks.overhead [KEY=VALUE ...]

Runs one iteration by default, as `isheep run` does. The CPU seconds of this process are taken around every call of the
engine and of the training; everything else is the rest: prompts, parsing, novelty, filters, statistics, files and their
fsyncs. What a run does only once, however many iterations it has, is printed below the table. Without evaluation:

    python -m benchmarks.overhead evaluation=[] "filters=[{kind: score, at_least: 8}]"
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import TimedEngine, add_cpu_seconds, make_parser, run_script
from isheep import api, backends
from isheep.backends import Backend
from isheep.cli.output import print_parts
from isheep.engines import Engine
from isheep.evaluation.tables import run_table
from isheep.recipe.schema import Recipe
from isheep.records import Model
from isheep.rundir.run import open_run
from isheep.sweep import check_recipe_ready, iterate_recipe


def timed_backend(spent: dict[str, float]) -> Backend:
    """Return the default backend, with the CPU seconds of its engines and of its training added to `spent`."""

    def open_engine(recipe: Recipe, model: Model) -> Engine:
        return TimedEngine(backends.open_engine(recipe, model), spent)

    def train(*arguments: Any) -> None:
        with add_cpu_seconds(spent, "train"):
            backends.train(*arguments)

    return Backend(open_engine=open_engine, train=train)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the recipe in a temporary folder and print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="Change the recipe lamb.")
    args = parser.parse_args(arguments)
    spent: dict[str, float] = {}
    backend = timed_backend(spent)
    recipe = api.load_recipe("lamb", ["iterations=1", *args.settings])
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        check_recipe_ready(recipe, out, backend=backend)
        # One entry for each model, when it is trained and evaluated; the first is the base.
        marks = [(time.process_time(), dict(spent)) for _ in iterate_recipe(recipe, out, backend=backend)]
        print_parts([run_table(*open_run(out))])
    (start, before), (end, after) = marks[0], marks[-1]
    inside = {name: seconds - before.get(name, 0.0) for name, seconds in after.items()}
    total, inside_total = end - start, sum(inside.values())
    print(f"\n{len(marks) - 1} iteration(s), with their evaluation if the recipe has one\n")
    print("| part | CPU s | share |\n|---|---:|---:|")
    for name, seconds in [*inside.items(), ("everything else", total - inside_total), ("together", total)]:
        print(f"| {name} | {seconds:.2f} | {seconds / total:.1%} |")
    once = time.process_time() - total - (sum(spent.values()) - inside_total)
    print(f"\nOnce in a run: {once:.1f} s for libraries, the statistics of the first evaluation and the last table")


if __name__ == "__main__":
    run_script(main)
