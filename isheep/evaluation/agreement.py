"""How well two raters agree, and how well a score tells right from wrong: estimates with 95% intervals.

scipy, scikit-learn and statsmodels do the statistics; they have no interval for an AUROC, and none for Spearman's
correlation. None stands where nothing can be said: too few values, or all the same.
"""

import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from isheep.evaluation.statistics import wilson

Z = 1.959964  # standard errors of a 95% interval
RESAMPLES = 2000


class Estimate(NamedTuple):
    """A figure and its 95% interval."""

    value: float
    low: float
    high: float


def share(hits: Sequence[bool]) -> Estimate | None:
    """The share of true ones, with Wilson's interval."""
    return Estimate(sum(hits) / len(hits), *wilson(sum(hits), len(hits))) if hits else None


def mean(values: Sequence[float], groups: Sequence[Hashable] | None = None) -> Estimate | None:
    """The mean: Wilson's interval where every value is 0 or 1, Student's t elsewhere (None around a single value).

    With `groups` (the prompt of each item) the interval is that of as many items as there are groups: items of one
    group may all be right or wrong together, so that it is never too narrow.
    """
    count = len(set(groups)) if groups is not None else len(values)
    if not values or any(value not in (0, 1) for value in values):
        return _student(values, count)
    middle = math.fsum(values) / len(values)
    return Estimate(middle, *_wilson(middle * count, count))


def difference(one: Sequence[float], other: Sequence[float]) -> Estimate | None:
    """The mean of `other` minus `one`, paired, with Student's t interval."""
    return _student([b - a for a, b in zip(one, other, strict=True)], len(one))


def win_rate(points: Sequence[float]) -> Estimate | None:
    """The mean of 1 for a win, 0.5 for a tie and 0 for a loss, with Wilson's interval.

    A tie varies less than a win or a loss, so with ties the interval is wider than it need be, never too narrow.
    """
    total = math.fsum(points)
    return Estimate(total / len(points), *_wilson(total, len(points))) if points else None


def _wilson(hits: float, total: int) -> tuple[float, float]:
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(hits, total, method="wilson")
    return max(0.0, float(low)), min(1.0, float(high))


def _student(values: Sequence[float], count: int) -> Estimate | None:
    from scipy.stats import t

    if count < 2:
        return None
    middle = math.fsum(values) / len(values)
    variance = math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1)
    reach = float(t.isf(0.025, count - 1)) * math.sqrt(variance / count)
    return Estimate(middle, middle - reach, middle + reach)


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> Estimate | None:
    """Spearman's correlation; the interval by Fisher's z with the standard error of Bonett and Wright (2000)."""
    from scipy.stats import spearmanr

    if len(one) < 4 or len(set(one)) < 2 or len(set(other)) < 2:
        return None
    value = float(spearmanr(one, other).statistic)
    if abs(value) > 1 - 1e-9:
        return Estimate(value, value, value)
    z, reach = math.atanh(value), Z * math.sqrt((1 + value**2 / 2) / (len(one) - 3))
    return Estimate(value, math.tanh(z - reach), math.tanh(z + reach))


def concordance(one: Sequence[float], other: Sequence[float]) -> Estimate | None:
    """Lin's concordance (1989): 1 where both say the same, 0 where they agree as by chance; on whole scores it is the
    quadratically weighted kappa. Low where two raters rank alike and one is stricter, too. Interval: BCa bootstrap.
    """
    import numpy as np
    from scipy.stats import bootstrap

    def lin(x: Any, y: Any, axis: int = -1) -> Any:
        apart = (x.mean(axis) - y.mean(axis)) ** 2
        with np.errstate(invalid="ignore"):
            return 1 - ((x - y) ** 2).mean(axis) / (x.var(axis) + y.var(axis) + apart)

    if len(one) < 4 or len({*one, *other}) < 2:
        return None
    pairs = np.array(one, float), np.array(other, float)
    value = float(lin(*pairs))
    if value == 1:
        return Estimate(value, value, value)
    found = bootstrap(pairs, lin, paired=True, n_resamples=RESAMPLES, rng=0).confidence_interval
    return None if math.isnan(found.low) else Estimate(value, float(found.low), float(found.high))


def auroc(scores: Sequence[float], right: Sequence[bool]) -> Estimate | None:
    """The chance that a right one has a higher score than a wrong one (ties count half).

    The interval is Newcombe's method 5 (2006): the values whose own standard error (Hanley and McNeil 1982) reaches the
    one that was found, so it holds at 0 and 1 too.
    """
    from scipy.optimize import brentq
    from sklearn.metrics import roc_auc_score

    good = sum(right)
    bad = len(right) - good
    if not good or not bad:
        return None
    value = float(roc_auc_score(right, scores))

    def error(true: float) -> float:
        more = (good + bad) / 2 - 1
        spread = true * (1 - true) * (1 + more * ((1 - true) / (2 - true) + true / (1 + true)))
        return math.sqrt(spread / (good * bad))

    def bound(side: int) -> float:
        end, beside = (1 + side) / 2, value + side * 1e-9  # the error of 0 and of 1 is 0: they would find themselves
        return end if value == end else float(brentq(lambda true: side * (true - value) - Z * error(true), beside, end))

    return Estimate(value, bound(-1), bound(1))
