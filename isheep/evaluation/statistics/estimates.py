"""Estimates of one score: a share or a mean with its 95% interval, over independent items or over clusters (scipy).

A figure that cannot be computed (too few values, or all values equal) is nan.
"""

import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from isheep.evaluation.power import ALPHA

Value = bool | float | None
# The cluster of each item; None: every item is a cluster of its own.
Clusters = Sequence[Hashable] | None


class Estimate(NamedTuple):
    """A share, a mean or a coefficient with its 95% interval, and the number of readable items that it is made of."""

    value: float
    low: float
    high: float
    num_items: int


def estimate(values: Sequence[Value], clusters: Clusters = None, unit: str = "") -> Estimate:
    """Return the share of true values with Wilson's interval, or the mean of numbers with Student's.

    The mean of numbers with the unit "share" has Wilson's interval as well. Such numbers vary less than truth values,
    so the interval is wider than necessary, never too narrow.

    With clusters, a share's Wilson interval is that of as many independent items as would have its cluster-robust
    standard error (as many as there are clusters if the error is 0, and never more than there are items); a mean's
    interval has that standard error, with one degree of freedom less than there are clusters.
    """
    from scipy.stats import t

    readable = [index for index, value in enumerate(values) if value is not None]
    numbers, groups = floats(values, readable), groups_of(clusters, readable)
    if not readable:
        return unknown()
    mean, error, freedom = mean_with_error(numbers, groups)
    if not is_share(values, unit):
        reach = float(t.isf(ALPHA / 2, freedom)) * error if freedom else math.nan
        return Estimate(mean, mean - reach, mean + reach, len(readable))
    size = float(len(readable))
    if clusters is not None:
        num_clusters = len(set(groups))
        size = min(size, mean * (1 - mean) / error**2 if error and freedom else num_clusters)
    return Estimate(mean, *wilson(mean * size, size), len(readable))


def win_rate(points: Sequence[float]) -> Estimate:
    """Return the mean of 1 for a win, 0.5 for a tie and 0 for a loss, with Wilson's interval.

    A tie varies less than a win or a loss, so with ties the interval is wider than necessary, never too narrow.
    """
    if not points:
        return unknown()
    total = math.fsum(points)
    return Estimate(total / len(points), *wilson(total, len(points)), len(points))


def wilson(successes: float, total: float, confidence: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion; (0, 1) if `total` is 0.

    It is written out because scipy's function takes whole counts, and an effective number of items is not whole.
    """
    from scipy.stats import norm

    if not total:
        return 0.0, 1.0
    z, p = float(norm.ppf((1 + confidence) / 2)), successes / total
    centre = (p + z**2 / (2 * total)) / (1 + z**2 / total)
    reach = z * math.sqrt(p * (1 - p) / total + z**2 / (4 * total**2)) / (1 + z**2 / total)
    low = max(0.0, centre - reach) if successes > 0 else 0.0
    high = min(1.0, centre + reach) if successes < total else 1.0
    return low, high


def is_share(values: Sequence[Value], unit: str = "") -> bool:
    """Return whether all readable values are truth values, or numbers from 0 to 1 with the unit "share"."""
    return unit == "share" or all(isinstance(value, bool) for value in values if value is not None)


# --- sums over items and clusters, which the tests of two scores use as well


def unknown(num_items: int = 0) -> Estimate:
    """Return an estimate that says that nothing is known: all its numbers are nan."""
    return Estimate(math.nan, math.nan, math.nan, num_items)


def mean_with_error(values: Any, groups: Sequence[Hashable]) -> tuple[float, float, int]:
    """Return the mean, its cluster-robust standard error with the factor G / (G - 1), and G - 1, for G clusters."""
    sums = cluster_sums(values - values.mean(), groups)
    freedom = len(sums) - 1
    error = math.sqrt((sums**2).sum() * (freedom + 1) / freedom) / len(values) if freedom else math.nan
    return float(values.mean()), error, freedom


def cluster_sums(values: Any, groups: Sequence[Hashable]) -> Any:
    """Return the sum of the values of each cluster."""
    import numpy as np

    _, index = np.unique([repr(group) for group in groups], return_inverse=True)
    return np.bincount(index, weights=values)


def groups_of(clusters: Clusters, indices: Sequence[int]) -> Sequence[Hashable]:
    """Return the clusters of the items at some indices; without clusters each item is one."""
    return indices if clusters is None else [clusters[index] for index in indices]


def floats(values: Sequence[Value], indices: Sequence[int]) -> Any:
    """Return the values at some indices as an array of numbers."""
    import numpy as np

    return np.array([values[index] for index in indices], float)
