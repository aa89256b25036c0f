"""Comparing two models on the same items of a benchmark."""

from dataclasses import dataclass
from pathlib import Path

from isheep.api.models import RunModel, evaluate, find_model
from isheep.benchmarks import Benchmark
from isheep.errors import UserError
from isheep.evaluation.evaluate import same_fingerprints
from isheep.evaluation.formatting import format_p_value
from isheep.evaluation.statistics import Comparison
from isheep.evaluation.statistics import compare as compare_items


@dataclass(frozen=True)
class BenchmarkComparison:
    """Two models on the same items: for each score of a benchmark, both values, the difference, its interval, and p.

    The p values are those of tests over items, which say nothing about another random seed. They are not corrected for
    the number of scores; `isheep compare` prints corrected ones, and compares over seeds.
    """

    before: RunModel
    after: RunModel
    scores: dict[str, Comparison]

    def __str__(self) -> str:
        lines = [f"before: {self.before}", f"after:  {self.after}"]
        width = max(map(len, self.scores), default=0)
        for name, score in self.scores.items():
            values = f"{score.before.value:.3f} -> {score.after.value:.3f}"
            interval = f"{score.difference:+.3f} ({score.low:+.3f} to {score.high:+.3f})"
            lines.append(f"{name:<{width}}  {values}  {interval}  p over items {format_p_value(score.p)}")
        return "\n".join(lines)


def compare(a: RunModel | str | Path, b: RunModel | str | Path, benchmark: str | Benchmark) -> BenchmarkComparison:
    """Compare two models on the same items of a benchmark; the differences are those of `b` minus `a`.

    A model comes from `align` or `read_run`, or is the path of a run folder, which stands for its newest model. A model
    that was not scored on the benchmark is scored first. Shares are compared with McNemar's exact test, means with sign
    flips, scores whose items belong together (such as the constraints of a prompt) with Student's t over the clusters.
    Raises UserError if the two were scored on different items, or by different rules.

    Example:
        >>> base, *_, newest = isheep.read_run("runs/mine").models
        >>> comparison = isheep.compare(base, newest, "lamb")
        >>> comparison.scores["content"].difference
        -0.067
        >>> print(comparison)
    """
    before, after = find_model(a), find_model(b)
    first, second = evaluate(before, benchmark), evaluate(after, benchmark)
    if not same_fingerprints(first, second):
        raise UserError(
            f"{before} and {after} were scored on different items or by different rules: score both again on the same"
        )
    scores = {
        name: compare_items(score.items, second.scores[name].items, score.clusters)
        for name, score in first.scores.items()
        if name in second.scores and len(second.scores[name].items) == len(score.items)
    }
    return BenchmarkComparison(before, after, scores)
