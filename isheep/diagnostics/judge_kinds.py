"""Judge calibration by kind of task: in which kinds do high ratings not mean right answers, although pairs are kept?

A figure over all kinds hides those in which the judge can't tell right from wrong. Where a benchmark knows the truth
about generated pairs, and their kinds, every run is measured. The loop itself never reads these figures.
"""

import math
from collections.abc import Mapping, Sequence

from isheep.benchmarks import Benchmark, is_readable, load_benchmark
from isheep.diagnostics.judge_metrics import TruthMetrics, truth_metrics
from isheep.recipe.schema import Recipe
from isheep.records import AssessedPair
from isheep.rundir.findings import Finding
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import iteration_dir

MOST_PAIRS = 20_000
"""Of more pairs, evenly spaced ones are measured."""

MIN_KEPT = 10
"""A kind is judged from this number of pairs that pass the score filters."""

BLIND_BELOW = 0.75
"""The judge is blind in a kind if the interval of its AUROC contains 0.5 and ends below this value. Without an upper
limit any kind of few pairs would count, about which nothing is known."""

VERDICTS = (
    f"Blind: AUROC's interval contains 0.5 and ends below {BLIND_BELOW}. Mostly wrong: the interval of the right pairs"
    f" among those that pass ends below 50%. Both only where {MIN_KEPT} pairs or more pass."
)

MOST_NAMED = 4

ADVICE = "do not take scores of such tasks for knowledge (isheep judge-calibration shows all kinds)"


def benchmarks_with_kinds(recipe: Recipe) -> dict[str, Benchmark]:
    """Return the recipe's benchmarks that know the truth about generated pairs and their kinds, by label.

    Code of the user that is not allowed is not loaded for this.
    """
    readable = {entry.label: load_benchmark(entry.name) for entry in recipe.evaluation if is_readable(entry.name)}
    return {label: benchmark for label, benchmark in readable.items() if benchmark.is_right and benchmark.kinds_of}


def metrics_by_kind(recipe: Recipe, benchmark: Benchmark, pairs: Sequence[AssessedPair]) -> dict[str, TruthMetrics]:
    """Return how well the ratings tell right from wrong pairs, by kind; a pair counts for each of its kinds."""
    assert benchmark.is_right and benchmark.kinds_of
    by_kind: dict[str, list[AssessedPair]] = {}
    for pair in pairs[:: -(-len(pairs) // MOST_PAIRS) or 1]:
        for kind in benchmark.kinds_of(pair):
            by_kind.setdefault(kind, []).append(pair)
    return {
        kind: truth_metrics(recipe, members, [benchmark.is_right(pair) for pair in members])
        for kind, members in sorted(by_kind.items())
    }


def verdict(metrics: TruthMetrics) -> str:
    """Return what is wrong with the ratings of a kind: "blind", "mostly wrong" for what passes, or "" if neither."""
    if (metrics.num_passing or 0) < MIN_KEPT or metrics.precision is None:
        return ""
    if metrics.auroc.low <= 0.5 and metrics.auroc.high < BLIND_BELOW:
        return "blind"
    return "mostly wrong" if metrics.precision.high < 0.5 else ""


def blind_judge(recipe: Recipe, run: RunFolder, iteration: int) -> Finding | None:
    """Return a finding that names the kinds of an iteration whose ratings have a verdict, the most kept ones first."""
    folder = iteration_dir(run, iteration)
    if iteration == 0 or not folder.has("assessed.jsonl"):
        return None
    pairs = folder.read("assessed.jsonl", AssessedPair)
    for benchmark in benchmarks_with_kinds(recipe).values():
        measured = metrics_by_kind(recipe.at(iteration), benchmark, pairs)
        blind = {kind: metrics for kind, metrics in measured.items() if verdict(metrics)}
        if blind:
            return Finding(
                "blind_judge", iteration, describe_blind_kinds(blind), "see the report and docs/diagnostics.md"
            )
    return None


def describe_blind_kinds(blind: Mapping[str, TruthMetrics]) -> str:
    """Return kinds in words, those with the most kept pairs first, each with its AUROC and its kept right pairs."""
    ordered = sorted(blind.items(), key=lambda item: -(item[1].num_passing or 0))
    texts = [f"{kind} ({_describe(metrics)})" for kind, metrics in ordered[:MOST_NAMED]]
    if len(ordered) > MOST_NAMED:
        texts.append(f"{len(ordered) - MOST_NAMED} more kinds")
    return f"high ratings do not mean right answers in {', '.join(texts)}"


def _describe(metrics: TruthMetrics) -> str:
    share = f"{metrics.precision.value:.0%} of {metrics.num_passing} kept are right" if metrics.precision else ""
    auroc = "" if math.isnan(metrics.auroc.low) else f"AUROC {metrics.auroc.value:.2f}, "
    return f"{auroc}{share}"
