"""The agreement of two raters, and of a score with the truth (scipy, sklearn), with 95% intervals.

A figure that cannot be computed (too few values, or all values equal) is nan.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from isheep.evaluation.statistics.estimates import Estimate, unknown

# Standard errors between a normal estimate and the end of its 95% interval.
Z = 1.959964
# Bootstrap resamples of a concordance.
CONCORDANCE_RESAMPLES = 2000


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> Estimate:
    """Return Spearman's correlation; its interval is Fisher's z with the standard error of Bonett and Wright (2000)."""
    from scipy.stats import spearmanr

    if len(x) < 4 or len(set(x)) < 2 or len(set(y)) < 2:
        return unknown(len(x))
    value = float(spearmanr(x, y).statistic)
    if abs(value) > 1 - 1e-9:
        return Estimate(value, value, value, len(x))
    z, reach = math.atanh(value), Z * math.sqrt((1 + value**2 / 2) / (len(x) - 3))
    return Estimate(value, math.tanh(z - reach), math.tanh(z + reach), len(x))


def concordance(x: Sequence[float], y: Sequence[float]) -> Estimate:
    """Return Lin's concordance (1989) of two raters, with its BCa bootstrap interval.

    It is 1 if both give the same scores and 0 if they agree by chance; on whole scores it is the quadratically weighted
    kappa. It is also low if two raters rank alike and one of them is stricter.
    """
    import numpy as np
    from scipy.stats import bootstrap

    def lin(x: Any, y: Any, axis: int = -1) -> Any:
        shift = (x.mean(axis) - y.mean(axis)) ** 2
        with np.errstate(invalid="ignore"):
            return 1 - ((x - y) ** 2).mean(axis) / (x.var(axis) + y.var(axis) + shift)

    if len(x) < 4 or len({*x, *y}) < 2:
        return unknown(len(x))
    pairs = np.array(x, float), np.array(y, float)
    value = float(lin(*pairs))
    if value == 1:
        return Estimate(value, value, value, len(x))
    interval = bootstrap(pairs, lin, paired=True, n_resamples=CONCORDANCE_RESAMPLES, rng=0).confidence_interval
    if math.isnan(interval.low):
        return unknown(len(x))
    return Estimate(value, float(interval.low), float(interval.high), len(x))


def auroc(scores: Sequence[float], right: Sequence[bool]) -> Estimate:
    """Return the probability that a right item has a higher score than a wrong one (ties count half).

    The interval is Newcombe's method 5 (2006): it ends at the values whose own standard error (Hanley and McNeil 1982)
    just reaches the observed one, so it holds at 0 and 1, too.
    """
    from sklearn.metrics import roc_auc_score

    if len(set(right)) < 2:
        return unknown(len(right))
    # scikit-learn sums trapezia, so that 1 may come out as 1.0000000000000002.
    value, num_right = round(float(roc_auc_score(right, scores)), 12), sum(right)
    bound = _auroc_bounds(value, num_right, len(right) - num_right)
    return Estimate(value, bound(-1), bound(1), len(right))


def _auroc_bounds(value: float, num_right: int, num_wrong: int) -> Callable[[int], float]:
    """Return a function that gives the lower (-1) or the upper (1) end of the interval of an AUROC."""
    from scipy.optimize import brentq

    def error(true: float) -> float:
        pairs = (num_right + num_wrong) / 2 - 1
        spread = true * (1 - true) * (1 + pairs * ((1 - true) / (2 - true) + true / (1 + true)))
        return math.sqrt(spread / (num_right * num_wrong))

    def bound(side: int) -> float:
        end = (1 + side) / 2
        if value == end:
            return end
        # The search starts beside the value, because the error at 0 and at 1 is 0 and they would be roots themselves.
        start = value + side * 1e-9
        return float(brentq(lambda true: side * (true - value) - Z * error(true), start, end))

    return bound
