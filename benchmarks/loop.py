"""The whole of lamb's loop against the same loop glued together from the usual parts (glued.py), CPU seconds.

    OMP_NUM_THREADS=1 python benchmarks/loop.py [--tasks 700] [--iterations 3] [--batch 16] [--pool 2] [KEY=VALUE ...]

Both sides start from nothing and load their libraries; neither evaluates. KEY=VALUE changes the recipe of ours.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

SCORE = "filters=[{kind: score, at_least: 8}]"  # lamb's other filter compares with an exam, which is left out here


def seconds(command: list[str]) -> tuple[float, str]:
    """CPU seconds of a command and its children, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout + done.stderr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=700)
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16, help="rows in a padded batch of the glued side")
    parser.add_argument("--pool", type=int, default=0, help="processes that the glued side starts for an instruction")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        run = [sys.executable, "-c", "from isheep.cli import main; main()", "run", "lamb", "evaluation=[]", SCORE]
        sizes = [f"synthesis.tasks={args.tasks}", f"iterations={args.iterations}"]
        our_seconds, output = seconds([*run, *sizes, *args.settings, "--out", f"{folder}/run"])
        print(output)
        glued = [sys.executable, str(Path(__file__).with_name("glued.py")), folder]
        glued_seconds, output = seconds(
            [*glued, str(args.tasks), str(args.iterations), str(args.batch), str(args.pool)]
        )
        print("\n".join(line for line in output.splitlines() if line.startswith(("iteration", "{'train_runtime"))))
    print(f"\n{args.iterations} iterations of {args.tasks} tasks\n")
    print("| glued, CPU s | isheep, CPU s | ratio |\n|---:|---:|---:|")
    print(f"| {glued_seconds:.0f} | {our_seconds:.0f} | {glued_seconds / our_seconds:.1f} |")


if __name__ == "__main__":
    main()
