"""Compare the whole loop with the same loop built from common parts (glued.py), in CPU seconds.

    python -m benchmarks.loop [--recipe lamb] [--model lamb] [--tasks 700] [--iterations 3] [--batch 16] [KEY=VALUE ...]

Both sides start from nothing and load their libraries; neither evaluates. KEY=VALUE changes isheep's recipe.
"""

import sys
import tempfile
from collections.abc import Sequence

from benchmarks.common import ISHEEP, make_parser, run_child, run_script

# lamb's other filter compares with a benchmark, which the common parts do not.
FILTERS = {"lamb": ["filters=[{kind: score, at_least: 8}]"]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what both sides print, and the table of their CPU seconds."""
    parser = make_parser(__doc__)
    parser.add_argument("--recipe", default="lamb", help="Name the recipe.")
    parser.add_argument("--model", default="lamb", help="Name the checkpoint of the base.")
    parser.add_argument("--tasks", type=int, default=700, help="Set the number of tasks of an iteration.")
    parser.add_argument("--iterations", type=int, default=3, help="Set the number of iterations.")
    parser.add_argument("--batch", type=int, default=16, help="Set the rows of a padded batch of the common parts.")
    parser.add_argument("--pool", type=int, default=0, help="Set the processes that the common parts start for a task.")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="Change isheep's recipe.")
    args = parser.parse_intermixed_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        run = [*ISHEEP, "run", args.recipe, "--model", args.model, "evaluation=[]", *FILTERS.get(args.recipe, [])]
        sizes = [f"synthesis.tasks={args.tasks}", f"iterations={args.iterations}"]
        seconds, output = run_child([*run, *sizes, *args.settings, "--out", f"{folder}/run"])
        print(output)
        glued = [sys.executable, "-m", "benchmarks.glued", folder]
        for name in ("recipe", "model", "tasks", "iterations", "batch", "pool"):
            glued += [f"--{name}", str(getattr(args, name))]
        glued_seconds, output = run_child(glued)
        print("\n".join(line for line in output.splitlines() if line.startswith(("iteration", "{'train_runtime"))))
    print(f"\n{args.iterations} iterations of {args.tasks} tasks\n")
    print("| common parts, CPU s | isheep, CPU s | ratio |\n|---:|---:|---:|")
    print(f"| {glued_seconds:.0f} | {seconds:.0f} | {glued_seconds / seconds:.1f} |")


if __name__ == "__main__":
    run_script(main)
