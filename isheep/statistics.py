"""Intervals and paired tests (scipy)."""

import math
from collections.abc import Hashable, Sequence


def wilson(right: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion; (0, 1) where there is nothing to go by."""
    from scipy.stats import binomtest

    if not total:
        return 0.0, 1.0
    interval = binomtest(right, total).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> float:
    """Exact two-sided McNemar p over items answered twice: whether gains and losses are as likely. 1.0 without any.

    Raises ValueError where the two have different lengths.
    """
    from scipy.stats import binomtest

    changed = [now for was, now in zip(before, after, strict=True) if bool(was) != bool(now)]
    return float(binomtest(sum(changed), len(changed)).pvalue) if changed else 1.0


def mean_interval(
    values: Sequence[float], clusters: Sequence[Hashable] | None = None, confidence: float = 0.95
) -> tuple[float, float, float]:
    """A mean and its t interval. Values of one cluster (the turns of a dialogue) count as depending on each other.

    The variance is that of the clusters' summed residuals (Liang and Zeger 1986, with G / (G - 1) for G clusters). With
    fewer than two clusters nothing bounds the mean: the interval is infinite. Raises ValueError without values.
    """
    from scipy.stats import t

    mean = math.fsum(values) / len(values)
    sums: dict[Hashable, float] = {}
    for value, cluster in zip(values, range(len(values)) if clusters is None else clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value - mean
    if len(sums) < 2:
        return mean, -math.inf, math.inf
    error = math.sqrt(math.fsum(s * s for s in sums.values()) * len(sums) / (len(sums) - 1)) / len(values)
    margin = float(t.ppf((1 + confidence) / 2, len(sums) - 1)) * error
    return mean, mean - margin, mean + margin
