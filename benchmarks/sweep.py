"""A sweep on lamb against its settings run one by one: CPU seconds, and how often each stage was made.

    python benchmarks/sweep.py [--sweep lamb/thresholds] [--out FOLDER] [KEY=VALUE ...]

Runs everything anew in FOLDER (a temporary one without it), each in a process of its own with one thread.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from isheep import api
from isheep.recipe import loading
from isheep.rundir.run import read_events

STAGES = ("replies.jsonl", "pairs.jsonl", "assessed.jsonl", "adapter", "eval/lamb.json")


def seconds(*words: str) -> float:
    """CPU seconds of an isheep command, its children's included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", "from isheep.cli import main; main()", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def made(folder: Path) -> Counter[str]:
    """How many files of each stage the runs in a folder made themselves, and ("... shared") took from one another."""
    counts: Counter[str] = Counter()
    for run in (path.parent for path in folder.glob("*/recipe.yaml")):
        for event in read_events(run):
            stage = next((stage_name for stage_name in STAGES if str(event.get("file", "")).endswith(stage_name)), None)
            if stage:
                counts[f"{stage} shared" if "shared_from" in event else stage] += 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sweep", default="lamb/thresholds")
    parser.add_argument("--out", type=Path)
    parser.add_argument("words", nargs="*")
    args = parser.parse_args()
    out = args.out or Path(tempfile.mkdtemp())
    path = loading.find_recipe(args.sweep)
    together = seconds("sweep", str(path), *args.words, "--out", str(out / "sweep"))
    recipes, alone = api.load_sweep(path, args.words), 0.0
    for name, recipe in recipes.items():
        file = out / f"{name}.json"
        file.write_text(json.dumps(recipe.model_dump(mode="json")), encoding="utf-8")  # JSON is YAML
        alone += seconds("run", str(file), "--out", str(out / "alone" / name))
    print(f"| {len(recipes)} settings of {args.sweep} | CPU seconds | made: {', '.join(STAGES)} |\n|---|---|---|")
    for label, cost, folder in (("one by one", alone, out / "alone"), ("as a sweep", together, out / "sweep")):
        counts = made(folder)
        print(f"| {label} | {cost:.0f} | {', '.join(str(counts[stage]) for stage in STAGES)} |")
    print(f"\nThe sweep takes {together / alone:.2f} of the time.")


if __name__ == "__main__":
    main()
