"""Intervals and paired tests (scipy)."""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple


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


class Estimate(NamedTuple):
    """A mean with its interval; nan where there is too little to say. `items` is how many could be read."""

    value: float
    low: float
    high: float
    items: int


def estimate(values: Sequence[float | None], clusters: Sequence[Hashable] | None = None) -> Estimate:
    """A mean and its 95% t interval. Values of one cluster (the turns of a dialogue) depend on each other.

    The variance is that of the clusters' summed residuals, with G / (G - 1) for G clusters (Liang and Zeger 1986).
    """
    from scipy.stats import t

    groups = range(len(values)) if clusters is None else clusters
    read = [(value, group) for value, group in zip(values, groups, strict=True) if value is not None]
    if not read:
        return Estimate(math.nan, math.nan, math.nan, 0)
    mean = math.fsum(value for value, _ in read) / len(read)
    sums: dict[Hashable, float] = {}
    for value, group in read:
        sums[group] = sums.get(group, 0.0) + value - mean
    if len(sums) < 2:
        return Estimate(mean, math.nan, math.nan, len(read))
    error = math.sqrt(math.fsum(s * s for s in sums.values()) * len(sums) / (len(sums) - 1)) / len(read)
    margin = float(t.isf(0.025, len(sums) - 1)) * error
    return Estimate(mean, mean - margin, mean + margin, len(read))
