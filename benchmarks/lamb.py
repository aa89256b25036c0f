"""Print the tables of docs/lamb.md from runs with several seeds: gains with intervals, and the judge's accuracy.

    python -m benchmarks.lamb runs/reproduce/plain/seed-*

The runs are those of one setting of the laboratory.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import isnan
from pathlib import Path
from statistics import fmean

from scipy.stats import bootstrap

from benchmarks.common import make_parser, run_script
from isheep.benchmarks import Result
from isheep.errors import UserError
from isheep.evaluation.counts import count_rows
from isheep.evaluation.results import load_result
from isheep.evaluation.statistics import auroc, compare_over_seeds, mcnemar, wilson
from isheep.lamb.suite import is_truly_right
from isheep.records import AssessedPair, Drop
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import iteration_dir
from isheep.rundir.run import open_run
from isheep.stages.filters import kept_pairs

SCORES = ("right", "prompt strict", "instruction strict", "content")


def seed_name(run: RunFolder) -> str:
    """Return the random seed of a run in a sweep, else the name of its folder."""
    return run.path.name.removeprefix("seed-")


def format_share(items: Sequence[bool]) -> str:
    """Return a share with its 95% interval; "" without items."""
    if not items:
        return ""
    low, high = wilson(sum(items), len(items))
    return f"{sum(items) / len(items):.3f} [{low:.3f}, {high:.3f}]"


def format_gain(before: Sequence[bool], after: Sequence[bool]) -> str:
    """Return the paired difference with a 95% bootstrap interval (BCa over items), and McNemar's exact p."""
    differences = [float(new) - float(old) for old, new in zip(before, after, strict=True)]
    interval = bootstrap((differences,), lambda x, axis: x.mean(axis), vectorized=True, rng=0).confidence_interval
    p = mcnemar(before, after)
    return f"{sum(differences) / len(differences):+.3f} [{interval.low:+.3f}, {interval.high:+.3f}], p = {p:.1e}"


def judge_auroc(pairs: Iterable[AssessedPair]) -> float:
    """Return the AUROC of the sum of a pair's ratings for truly right pairs; an unreadable rating counts 0."""
    rows = [(sum(grade.score or 0.0 for grade in pair.grades.values()), is_truly_right(pair)) for pair in pairs]
    return auroc([score for score, _ in rows], [right for _, right in rows]).value


def read_result(run: RunFolder, iteration: int) -> Result:
    """Return a model's result on lamb. Raises UserError if there is none."""
    result = load_result(run, iteration, "lamb")
    if result is None:
        raise UserError(f"{run.path} has no scores of iteration {iteration}: finish the run first")
    return result


def print_scores(runs: Sequence[RunFolder], iterations: int, score: str) -> None:
    """Print a score of every model and the gain of the last over the base by seed, and the test over seeds."""
    models = " | ".join(["base", *(f"iteration {t}" for t in range(1, iterations + 1))])
    print(f"\n{score}\n\n| seed | {models} | gain, p over items |")
    print("|---" * (iterations + 3) + "|")
    before, after = [], []
    for run in runs:
        results = [read_result(run, iteration) for iteration in range(iterations + 1)]
        rights = [[bool(item) for item in result.scores[score].items] for result in results]
        shares = " | ".join(map(format_share, rights))
        print(f"| {seed_name(run)} | {shares} | {format_gain(rights[0], rights[-1])} |")
        before.append(fmean(rights[0]))
        after.append(fmean(rights[-1]))
    if len(runs) > 1:
        seeds = compare_over_seeds(before, after)
        # Equal gains have no spread, so that there is no interval.
        interval = "" if isnan(seeds.low) else f" [{seeds.low:+.3f}, {seeds.high:+.3f}], p = {seeds.p:.2g}"
        print(f"\nOver seeds: {seeds.difference:+.3f}{interval} (paired t of {len(runs)} gains).")


def print_data(runs: Sequence[RunFolder], iterations: int) -> None:
    """Print the number and the accuracy of the pairs of every iteration."""
    columns = ("generated", "kept", "unreadable", "trained", "accuracy, all pairs", "accuracy, kept pairs", "judge")
    print(f"\n| seed | iteration | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 2) + "|")
    for run in runs:
        for t in range(1, iterations + 1):
            folder, rows = iteration_dir(run, t), count_rows(run, t)
            pairs = folder.read("assessed.jsonl", AssessedPair)
            kept = kept_pairs(pairs, folder.read("dropped.jsonl", Drop))
            counts = f"{rows.generated} | {rows.kept} | {rows.unreadable} | {rows.trained}"
            shares = " | ".join(format_share([is_truly_right(pair) for pair in group]) for group in (pairs, kept))
            print(f"| {seed_name(run)} | {t} | {counts} | {shares} | {judge_auroc(pairs):.2f} |")


def print_breakdown(runs: Sequence[RunFolder], iterations: int) -> None:
    """Print the shares of each constraint and family over all seeds, for the base and the last iteration."""
    for kind in ("constraint", "family"):
        print(f"\n| {kind} | items | base | iteration {iterations} |\n|---|---|---|---|")
        totals: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        for run in runs:
            for column, t in enumerate((0, iterations)):
                path = iteration_dir(run, t).path / "eval" / "lamb.json"
                breakdown = json.loads(path.read_text(encoding="utf-8"))["breakdowns"][kind]
                for name, (met, number) in breakdown.items():
                    totals[name][column] += met
                    totals[name][2] += number if column == 0 else 0
        for name, (before, after, number) in totals.items():
            print(f"| {name} | {number // len(runs)} | {before / number:.2f} | {after / number:.2f} |")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = make_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="Name the run folders, one for each random seed.")
    args = parser.parse_args(arguments)
    recipes, runs = zip(*(open_run(path) for path in args.runs), strict=True)
    iterations = recipes[0].iterations
    if any(recipe.iterations != iterations for recipe in recipes):
        raise UserError("the runs have different numbers of iterations: give those of one setting")
    for score in SCORES:
        print_scores(runs, iterations, score)
    print_data(runs, iterations)
    print_breakdown(runs, iterations)


if __name__ == "__main__":
    run_script(main)
