"""Comparing two models on the same items of a benchmark."""

from dataclasses import dataclass, field
from pathlib import Path

from isheep.api.models import RunModel, evaluate, find_model
from isheep.benchmarks import Benchmark
from isheep.errors import UserError
from isheep.evaluation.compare import num_items
from isheep.evaluation.evaluate import same_fingerprints
from isheep.evaluation.formatting import format_p_value
from isheep.evaluation.statistics import Comparison
from isheep.evaluation.statistics import compare as compare_items


@dataclass(frozen=True)
class BenchmarkComparison:
    """Two models on the same items: for each score of a benchmark, both values, the difference, its interval, and p.

    The p values are those of tests over items, which say nothing about another random seed. They are not corrected for
    the number of scores; `isheep compare` prints corrected ones, and compares over random seeds. `left_out` has the
    scores that can't be compared, because the two have another number of items, or only one of them has the score: the
    numbers of items before and after, 0 without the score. `part` says what differs from the original benchmark,
    such as "reported half" if a stop rule reads the other half, else "".
    """

    before: RunModel
    after: RunModel
    scores: dict[str, Comparison]
    left_out: dict[str, tuple[int, int]] = field(default_factory=dict)
    part: str = ""

    def __str__(self) -> str:
        lines = [f"before: {self.before}", f"after:  {self.after}"]
        if self.part:
            lines.append(f"items:  {self.part}")
        width = max(map(len, self.scores), default=0)
        for name, score in self.scores.items():
            values = f"{score.before.value:.3f} -> {score.after.value:.3f}"
            interval = f"{score.difference:+.3f} ({score.low:+.3f} to {score.high:+.3f})"
            lines.append(f"{name:<{width}}  {values}  {interval}  p over items {format_p_value(score.p)}")
        for name, (num_before, num_after) in self.left_out.items():
            lines.append(f"{name} is left out: {num_before} items before, {num_after} after")
        return "\n".join(lines)


def compare(a: RunModel | str | Path, b: RunModel | str | Path, benchmark: str | Benchmark) -> BenchmarkComparison:
    """Compare two models on the same items of a benchmark; the differences are those of `b` minus `a`.

    A model comes from `align` or `read_run`, or is the path of a run folder, which stands for its result (the newest
    model, or the best by the recipe's stop rule). A model that was not scored on the benchmark is scored first. Shares
    are compared with McNemar's exact test, means with sign flips, scores whose items belong together (such as the
    constraints of a prompt) with Student's t over the clusters.
    Raises UserError if the two were scored on different items, or by different rules, or have no score in common.

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
    counts = {name: (num_items(first, name), num_items(second, name)) for name in {**first.scores, **second.scores}}
    scores = {
        name: compare_items(
            first.scores[name].items,
            second.scores[name].items,
            first.scores[name].clusters,
            first.scores[name].unit or second.scores[name].unit,
        )
        for name, (num_before, num_after) in counts.items()
        if num_before == num_after
    }
    left_out = {name: numbers for name, numbers in counts.items() if name not in scores}
    if not scores:
        differing = ", ".join(f"{name} {numbers[0]} and {numbers[1]} items" for name, numbers in left_out.items())
        raise UserError(f"{before} and {after} have no score with as many items ({differing}): score both anew")
    return BenchmarkComparison(before, after, scores, left_out, first.part)
