"""Compare a sweep on lamb with single runs of its settings: CPU seconds, and how often each stage was computed.

    python -m benchmarks.sweep [--sweep lamb/thresholds] [--out FOLDER] [KEY=VALUE ...]

Runs everything anew in FOLDER, or in a temporary folder without --out. Each side runs in processes of its own with one
thread. KEY=VALUE changes the recipe of every setting.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import ISHEEP, make_parser, run_child, run_script
from isheep import api
from isheep.errors import UserError
from isheep.recipe import loading
from isheep.rundir.events import read_events
from isheep.rundir.run import list_runs

STAGES = ("replies.jsonl", "pairs.jsonl", "assessed.jsonl", "adapter", "eval/lamb.json")


def count_computed_stages(folder: Path) -> Counter[str]:
    """Return how many files of each of STAGES the runs in a folder computed, and did not copy from each other."""
    counts: Counter[str] = Counter()
    for run in list_runs(folder):
        for event in read_events(run):
            stage = next((name for name in STAGES if str(event.get("file", "")).endswith(name)), None)
            if stage and "shared_from" not in event:
                counts[stage] += 1
    return counts


def compare(sweep: str, settings: Sequence[str], out: Path) -> None:
    """Run both sides in a folder and print the table."""
    path = loading.find_recipe(sweep)
    sweep_seconds, _ = run_child([*ISHEEP, "sweep", str(path), *settings, "--out", str(out / "sweep")])
    recipes, single_seconds = api.load_sweep(path, list(settings)), 0.0
    for name, recipe in recipes.items():
        # JSON is YAML.
        file = out / f"{name}.json"
        file.write_text(json.dumps(recipe.model_dump(mode="json")), encoding="utf-8")
        seconds, _ = run_child([*ISHEEP, "run", str(file), "--out", str(out / "single" / name)])
        single_seconds += seconds
    print(f"| {len(recipes)} settings of {sweep} | CPU seconds | computed: {', '.join(STAGES)} |\n|---|---|---|")
    for label, total, folder in (("single runs", single_seconds, "single"), ("as a sweep", sweep_seconds, "sweep")):
        counts = count_computed_stages(out / folder)
        print(f"| {label} | {total:.0f} | {', '.join(str(counts[stage]) for stage in STAGES)} |")
    print(f"\nThe sweep takes {sweep_seconds / single_seconds:.2f} of the time.")


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare in the folder of --out, or in a temporary one."""
    parser = make_parser(__doc__)
    parser.add_argument("--sweep", default="lamb/thresholds", help="Name the sweep.")
    parser.add_argument("--out", type=Path, help="Name the folder of the runs.")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="Change the recipe of every setting.")
    args = parser.parse_intermixed_args(arguments)
    if args.out:
        for name in ("sweep", "single"):
            if (args.out / name).exists():
                raise UserError(f"--out {args.out} holds runs already, which would not be timed: give another folder")
        args.out.mkdir(parents=True, exist_ok=True)
        compare(args.sweep, args.settings, args.out)
        return
    with tempfile.TemporaryDirectory() as folder:
        compare(args.sweep, args.settings, Path(folder))


if __name__ == "__main__":
    run_script(main)
