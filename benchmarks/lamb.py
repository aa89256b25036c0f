"""lamb's figures: `isheep run lamb` with several seeds, the gains with intervals, and what the judge could see.

    python benchmarks/lamb.py --seeds 4 5 6 --out runs/lamb-seeds [KEY=VALUE ...]

Runs what is not there yet (some minutes a seed), then prints the tables of docs/lamb.md.
"""

import argparse
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from scipy.stats import bootstrap, mannwhitneyu

from isheep.evaluation.counts import count_rows
from isheep.evaluation.results import load_result
from isheep.evaluation.statistics import mcnemar, wilson
from isheep.lamb.suite import is_truly_right
from isheep.records import AssessedPair, Drop
from isheep.rundir.folder import RunFolder
from isheep.rundir.run import open_run, read_events


def share(items: list[bool]) -> str:
    low, high = wilson(sum(items), len(items))
    return f"{mean(items):.3f} [{low:.3f}, {high:.3f}]" if items else ""


def mean(items: list[bool]) -> float:
    return sum(items) / max(1, len(items))


def gain(before: list[bool], after: list[bool]) -> str:
    """The paired difference with a 95% bootstrap interval (BCa over items), and McNemar's exact p."""
    differences = [float(b) - float(a) for a, b in zip(before, after, strict=True)]
    interval = bootstrap((differences,), lambda x, axis: x.mean(axis), vectorized=True, rng=0).confidence_interval
    p = mcnemar(before, after)
    return f"{sum(differences) / len(differences):+.3f} [{interval.low:+.3f}, {interval.high:+.3f}], p = {p:.1e}"


def auroc(pairs: list[AssessedPair]) -> float:
    """The chance that a truly right pair's scores (their sum, an unreadable one counted 0) beat a wrong one's."""
    scores: dict[bool, list[float]] = defaultdict(list)
    for pair in pairs:
        scores[is_truly_right(pair)].append(sum(grade.score or 0 for grade in pair.grades.values()))
    right, wrong = scores[True], scores[False]
    return float(mannwhitneyu(right, wrong).statistic) / (len(right) * len(wrong)) if right and wrong else float("nan")


def print_scores(runs: list[RunFolder], iterations: int, score: str) -> None:
    print(
        f"\n{score}\n\n| seed | "
        + " | ".join(["base", *(f"iteration {t}" for t in range(1, iterations + 1))])
        + " | gain |"
    )
    print("|---" * (iterations + 3) + "|")
    for run in runs:
        results = [load_result(run, t, "lamb") for t in range(iterations + 1)]
        rights = [list(map(bool, result.scores[score].items)) for result in results if result]
        print(f"| {run.path.name} | " + " | ".join(map(share, rights)) + f" | {gain(rights[0], rights[-1])} |")


def print_data(runs: list[RunFolder], iterations: int) -> None:
    print("\n| seed | iteration | written | kept | unreadable | trained | right of written | right of kept | judge |")
    print("|---" * 9 + "|")
    for run in runs:
        for t in range(1, iterations + 1):
            folder, rows = run / f"iter-{t}", count_rows(run, t)
            pairs = folder.read("assessed.jsonl", AssessedPair)
            gone = {drop.row for drop in folder.read("dropped.jsonl", Drop)}
            written, chosen = (
                [is_truly_right(pair) for pair in group] for group in (pairs, [p for p in pairs if p.id not in gone])
            )
            print(
                f"| {run.path.name} | {t} | {rows.written} | {rows.kept} | {rows.unreadable} | {rows.trained} "
                f"| {share(written)} | {share(chosen)} | {auroc(pairs):.2f} |"
            )


def print_breakdown(runs: list[RunFolder], iterations: int) -> None:
    """Shares over all seeds, base and last iteration."""
    for kind in ("constraint", "family"):
        print(f"\n| {kind} | items | base | iteration {iterations} |\n|---|---|---|---|")
        totals: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        for run in runs:
            for column, where in enumerate(("base", f"iter-{iterations}")):
                by = json.loads((run.path / where / "eval" / "lamb.json").read_text(encoding="utf-8"))["breakdowns"][
                    kind
                ]
                for name, (met, number) in by.items():
                    totals[name][column] += met
                    totals[name][2] += number if column == 0 else 0
        for name, (before, after, number) in totals.items():
            print(f"| {name} | {number // len(runs)} | {before / number:.2f} | {after / number:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[4, 5, 6])
    parser.add_argument("--out", type=Path, default=Path("runs/lamb-seeds"))
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_intermixed_args()
    for seed in args.seeds:
        words = ["run", "lamb", f"seed={seed}", *args.settings, "--out", str(args.out / str(seed))]
        subprocess.run([sys.executable, "-c", "from isheep.cli import main; main()", *words], check=True)
    runs = [open_run(args.out / str(seed)) for seed in args.seeds]
    iterations = runs[0][0].iterations
    folders = [folder for _, folder in runs]
    for score in ("right", "right sampled", "content", "prompt strict", "instruction strict"):
        print_scores(folders, iterations, score)
    print_data(folders, iterations)
    print_breakdown(folders, iterations)
    for folder in folders:
        spent = sum(event.get("seconds", 0) for event in read_events(folder.path))
        print(f"\nseed {folder.path.name}: {spent:.0f} s in stages")


if __name__ == "__main__":
    main()
