"""Intervals, paired comparisons, corrections and what a comparison could have seen (scipy, statsmodels).

An item's value is a truth value, a number, or None where it could not be read: such items are left out and counted.
Items of one cluster (the instructions of a prompt, the turns of a dialogue) are not independent of each other; clusters
are. Intervals are of 95%, tests are two-sided.
"""

import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

Value = bool | float | None
Clusters = Sequence[Hashable] | None  # the cluster of each item; None: each item is one

ALPHA, POWER = 0.05, 0.8
RESAMPLES = 9999  # of a bootstrap, and sign flips
NO_ERROR = 1e-12  # below it a standard error is rounding: all differences are the same
AT_ONCE = 10**6  # numbers that a resampling holds in memory; more are slower, too


class Estimate(NamedTuple):
    """A share or a mean with its interval; nan where there is too little to say. `items` is how many could be read."""

    value: float
    low: float
    high: float
    items: int


class Comparison(NamedTuple):
    """After minus before over the same items, or over the same seeds."""

    before: Estimate
    after: Estimate
    difference: float
    low: float
    high: float
    p: float
    test: str
    detectable: float  # the difference that this comparison finds with a power of 80% at the 5% level
    items: int  # that both have
    unread: int  # that one of the two has not


def wilson(right: float, total: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion; (0, 1) where there is nothing to go by.

    Written out, since scipy's takes whole counts and ours may be effective ones.
    """
    from scipy.stats import norm

    if not total:
        return 0.0, 1.0
    z, p = float(norm.ppf((1 + confidence) / 2)), right / total
    centre = (p + z**2 / (2 * total)) / (1 + z**2 / total)
    reach = z * math.sqrt(p * (1 - p) / total + z**2 / (4 * total**2)) / (1 + z**2 / total)
    return max(0.0, centre - reach) * (right > 0), 1 - max(0.0, 1 - centre - reach) * (right < total)


def estimate(values: Sequence[Value], clusters: Clusters = None) -> Estimate:
    """The share of true values with Wilson's interval, or the mean of numbers with Student's.

    With clusters, a share's Wilson interval is that of as many independent items as would have its cluster-robust
    standard error (as many as there are clusters where it is 0, and never more than there are items); a mean's
    interval has that standard error, with one degree of freedom less than there are clusters.
    """
    from scipy.stats import t

    kept = [place for place, value in enumerate(values) if value is not None]
    found, groups = _floats(values, kept), _groups(clusters, kept)
    if not kept:
        return Estimate(math.nan, math.nan, math.nan, 0)
    mean, error, freedom = _mean(found, groups)
    if not is_share(values):
        reach = float(t.isf(ALPHA / 2, freedom)) * error if freedom else math.nan
        return Estimate(mean, mean - reach, mean + reach, len(kept))
    size = float(len(kept))
    if clusters is not None:
        apart = len(set(groups))
        size = min(size, mean * (1 - mean) / error**2 if error and freedom else apart)
    return Estimate(mean, *wilson(mean * size, size), len(kept))


def compare(before: Sequence[Value], after: Sequence[Value], clusters: Clusters = None) -> Comparison:
    """Two models on the same items.

    Truth values: McNemar's exact test, and the interval of Agresti and Min (2005) for the difference of paired shares.
    Numbers: random sign flips of the differences, and the BCa bootstrap of their mean (both with a fixed seed).
    With clusters, either: Student's t of the mean difference with its cluster-robust standard error.
    Raises ValueError where the two have different lengths.
    """
    kept = [n for n, pair in enumerate(zip(before, after, strict=True)) if None not in pair]
    groups = _groups(clusters, kept)
    was, now = ([values[n] for n in kept] for values in (before, after))
    first, second = (estimate(values, None if clusters is None else groups) for values in (was, now))
    unread = len(before) - len(kept)
    if not kept:
        return Comparison(first, second, math.nan, math.nan, math.nan, math.nan, "none", math.nan, 0, unread)
    changes = _floats(now, range(len(now))) - _floats(was, range(len(was)))
    if clusters is not None:
        found = _student(changes, groups, "t over clusters")
    elif is_share(was) and is_share(now):
        found = _shares(was, now)
    else:
        found = _numbers(changes)
    return Comparison(first, second, float(changes.mean()), *found, len(kept), unread)


def compare_over_seeds(before: Sequence[float], after: Sequence[float]) -> Comparison:
    """Two settings over the same seeds, one score each: Student's paired t. The items' own noise is in the scores."""
    import numpy as np

    changes = np.subtract(after, before)
    found = _student(changes, range(len(changes)), "paired t over seeds")
    return Comparison(estimate(before), estimate(after), float(changes.mean()), *found, len(changes), 0)


def mcnemar(before: Sequence[Value], after: Sequence[Value]) -> float:
    """Exact two-sided McNemar p over items answered twice: whether gains and losses are as likely. 1.0 without any.

    Raises ValueError where the two have different lengths.
    """
    from scipy.stats import binomtest

    changed = [now for was, now in zip(before, after, strict=True) if bool(was) != bool(now)]
    return float(binomtest(sum(map(bool, changed)), len(changed)).pvalue) if changed else 1.0


def holm(ps: Sequence[float]) -> list[float]:
    """The p values of a family corrected for their number (Holm 1979), in their order; nan stays and does not count."""
    from statsmodels.stats.multitest import multipletests

    known = [p for p in ps if not math.isnan(p)]
    corrected = iter(multipletests(known, method="holm")[1]) if known else iter(())
    return [p if math.isnan(p) else float(next(corrected)) for p in ps]


def minimum_detectable_difference(error: float, observations: int) -> float:
    """The least true difference that a t test of so many independent observations finds with a power of 80%.

    `error` is the standard error of the difference; nan where it or the number says nothing.
    """
    from statsmodels.stats.power import TTestPower

    if observations < 2 or not error > 0:
        return math.nan
    size = TTestPower().solve_power(nobs=observations, alpha=ALPHA, power=POWER, alternative="two-sided")
    return float(size) * math.sqrt(observations) * error


def is_share(values: Sequence[Value]) -> bool:
    """Whether the values that could be read are truth values."""
    return all(isinstance(value, bool) for value in values if value is not None)


# --- what a comparison adds to the two sides: low, high, p, test, detectable

Found = tuple[float, float, float, str, float]


def _shares(before: Sequence[Value], after: Sequence[Value]) -> Found:
    """Half an item is added to each of the four cells (right before or not, after or not), so that no variance is 0."""
    from scipy.stats import norm

    gains = sum(bool(now) > bool(was) for was, now in zip(before, after, strict=True)) + 0.5
    losses = sum(bool(now) < bool(was) for was, now in zip(before, after, strict=True)) + 0.5
    total = len(before) + 2
    middle, changed = (gains - losses) / total, (gains + losses) / total
    reach = float(norm.isf(ALPHA / 2)) * math.sqrt((changed - middle**2) / total)
    p, finds = mcnemar(before, after), minimum_detectable_difference(math.sqrt(changed / total), total)
    return max(-1.0, middle - reach), min(1.0, middle + reach), p, "exact McNemar", finds


def _numbers(changes: Any) -> Found:
    import numpy as np
    from scipy.stats import bootstrap, permutation_test

    if len(changes) < 2 or np.ptp(changes) == 0:  # nothing to draw from
        return math.nan, math.nan, 1.0 if not changes.any() else math.nan, "sign flips", math.nan
    drawing: dict[str, Any] = {"n_resamples": RESAMPLES, "batch": max(1, AT_ONCE // len(changes)), "rng": 0}
    interval = bootstrap((changes,), np.mean, method="BCa", **drawing).confidence_interval
    flipped = permutation_test((changes,), np.mean, permutation_type="samples", **drawing)
    finds = minimum_detectable_difference(_mean(changes, range(len(changes)))[1], len(changes))
    return float(interval.low), float(interval.high), float(flipped.pvalue), "sign flips", finds


def _student(changes: Any, groups: Sequence[Hashable], test: str) -> Found:
    from scipy.stats import t

    mean, error, freedom = _mean(changes, groups)
    if not freedom or error < NO_ERROR:
        return math.nan, math.nan, 1.0 if freedom and not mean else math.nan, test, math.nan
    reach = float(t.isf(ALPHA / 2, freedom)) * error
    p = 2 * float(t.sf(abs(mean) / error, freedom))
    return mean - reach, mean + reach, p, test, minimum_detectable_difference(error, freedom + 1)


def _mean(values: Any, groups: Sequence[Hashable]) -> tuple[float, float, int]:
    """The mean, its cluster-robust standard error with the factor G / (G - 1), and G - 1, for G clusters."""
    import numpy as np

    _, place = np.unique([repr(group) for group in groups], return_inverse=True)
    sums = np.bincount(place, weights=values - values.mean())
    freedom = len(sums) - 1
    error = math.sqrt((sums**2).sum() * (freedom + 1) / freedom) / len(values) if freedom else math.nan
    return float(values.mean()), error, freedom


def _groups(clusters: Clusters, kept: Sequence[int]) -> Sequence[Hashable]:
    return kept if clusters is None else [clusters[n] for n in kept]


def _floats(values: Sequence[Value], kept: Sequence[int]) -> Any:
    import numpy as np

    return np.array([values[n] for n in kept], float)
