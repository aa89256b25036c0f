"""Statistics of scores: estimates with intervals, paired comparisons, agreement of two raters (scipy, statsmodels).

The value of an item is a truth value, a number, or None if it could not be read: such items are left out and counted.
Items of one cluster (the instructions of a prompt, the turns of a dialogue) depend on each other; clusters are
independent. Intervals are 95% intervals and tests are two-sided. A figure that cannot be computed (too few values, or
all values equal) is nan.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

from isheep.evaluation.power import ALPHA, Precision

Value = bool | float | None
# The cluster of each item; None: every item is a cluster of its own.
Clusters = Sequence[Hashable] | None

# Standard errors between a normal estimate and the end of its 95% interval.
Z = 1.959964
# Bootstrap resamples of a comparison, and random sign flips.
RESAMPLES = 9999
# Bootstrap resamples of a concordance.
CONCORDANCE_RESAMPLES = 2000
# A standard error below this is rounding: all differences are equal.
NO_ERROR = 1e-12
# Numbers that a resampling holds in memory at once; larger batches are slower, too.
NUMBERS_AT_ONCE = 10**6


class Estimate(NamedTuple):
    """A share, a mean or a coefficient with its 95% interval, and the number of readable items that it is made of."""

    value: float
    low: float
    high: float
    num_items: int


class Comparison(NamedTuple):
    """The difference after - before over the same items, or over the same seeds.

    `num_items` counts the items that both sides have, `num_unreadable` those that one of the two lacks.
    """

    before: Estimate
    after: Estimate
    difference: float
    low: float
    high: float
    p: float
    test: str
    precision: Precision
    num_items: int
    num_unreadable: int

    @property
    def detectable(self) -> float:
        """The minimum detectable difference of a single test, at the 5% level."""
        return self.precision.detectable_at(ALPHA)


# --- one score


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
    numbers, groups = _floats(values, readable), _groups(clusters, readable)
    if not readable:
        return _unknown()
    mean, error, freedom = _mean(numbers, groups)
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
        return _unknown()
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


# --- two scores


def compare(before: Sequence[Value], after: Sequence[Value], clusters: Clusters = None, unit: str = "") -> Comparison:
    """Compare two models on the same items.

    Truth values: McNemar's exact test, and the interval of Agresti and Min (2005) for the difference of paired shares.
    Numbers: random sign flips of the differences, and the BCa bootstrap of their mean (both with a fixed seed).
    With clusters, either: Student's t of the mean difference with its cluster-robust standard error.
    Raises ValueError if the two have different lengths.
    """
    readable = [index for index, pair in enumerate(zip(before, after, strict=True)) if None not in pair]
    groups = _groups(clusters, readable)
    earlier, later = ([values[index] for index in readable] for values in (before, after))
    first, second = (estimate(values, None if clusters is None else groups, unit) for values in (earlier, later))
    num_unreadable = len(before) - len(readable)
    if not readable:
        return Comparison(first, second, math.nan, math.nan, math.nan, math.nan, "none", Precision(), 0, num_unreadable)
    changes = _floats(later, range(len(later))) - _floats(earlier, range(len(earlier)))
    # What remains of 0.1 + 0.2 - 0.3 is rounding.
    changes[abs(changes) < NO_ERROR] = 0
    if clusters is not None:
        precision = _cluster_precision(changes, groups, is_share(earlier) and is_share(later))
        result = (*_test_student(changes, groups, "t over clusters")[:-1], precision)
    elif is_share(earlier) and is_share(later):
        result = _test_shares(earlier, later)
    else:
        result = _test_numbers(changes)
    return Comparison(first, second, float(changes.mean()), *result, len(readable), num_unreadable)


def upper_bound(
    before: Sequence[Value], after: Sequence[Value], clusters: Clusters = None, confidence: float = 0.95
) -> float:
    """Return the upper bound, at this one-sided confidence, of the difference after - before over the same items.

    Truth values: that of Agresti and Min's interval for the difference of paired shares, with normal quantiles.
    Numbers, and items in clusters: that of Student's t with the (cluster-robust) standard error of the mean difference.
    It is inf if nothing is known: without an item that both sides have, or with a single number or cluster. Raises
    ValueError if the two have different lengths.
    """
    from scipy.stats import norm, t

    readable = [index for index, pair in enumerate(zip(before, after, strict=True)) if None not in pair]
    if not readable:
        return math.inf
    earlier, later = ([values[index] for index in readable] for values in (before, after))
    if clusters is None and is_share(earlier) and is_share(later):
        middle, error = _agresti_min(earlier, later)
        return min(1.0, middle + float(norm.ppf(confidence)) * error)
    changes = _floats(later, range(len(later))) - _floats(earlier, range(len(earlier)))
    mean, error, freedom = _mean(changes, _groups(clusters, readable))
    if confidence == 0.5:
        return mean
    return mean + float(t.ppf(confidence, freedom)) * error if freedom else math.inf


def compare_over_seeds(before: Sequence[float], after: Sequence[float], is_of_shares: bool = False) -> Comparison:
    """Compare two settings over the same seeds, one score each, with Student's paired t.

    The noise of the items is contained in the scores. The intervals of shares are cut at 0 and 1, and those of their
    difference at -1 and 1, which Student's t does not know.
    """
    import numpy as np

    changes = np.subtract(after, before)
    low, high, p, test, precision = _test_student(changes, range(len(changes)), "paired t over seeds")
    first, second = estimate(before), estimate(after)
    if is_of_shares:
        low, high = _clip(low, -1, 1), _clip(high, -1, 1)
        first, second = (
            side._replace(low=_clip(side.low, 0, 1), high=_clip(side.high, 0, 1)) for side in (first, second)
        )
    return Comparison(first, second, float(changes.mean()), low, high, p, test, precision, len(changes), 0)


def _clip(value: float, low: float, high: float) -> float:
    """Return the value within its bounds; NaN, which stands for an unknown bound of an interval, as it is."""
    return value if math.isnan(value) else min(high, max(low, value))


def mcnemar(before: Sequence[Value], after: Sequence[Value]) -> float:
    """Return the exact two-sided p of McNemar's test: whether gains and losses are equally likely; 1.0 without any.

    Raises ValueError if the two have different lengths.
    """
    from scipy.stats import binomtest

    changed = [new for old, new in zip(before, after, strict=True) if bool(old) != bool(new)]
    return float(binomtest(sum(map(bool, changed)), len(changed)).pvalue) if changed else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p values of a family corrected for their number (Holm 1979), in order; nan is not counted."""
    from statsmodels.stats.multitest import multipletests

    defined = [p for p in p_values if not math.isnan(p)]
    corrected = iter(multipletests(defined, method="holm")[1]) if defined else iter(())
    return [p if math.isnan(p) else float(next(corrected)) for p in p_values]


# What a test adds to the two sides of a comparison: low, high, p, name of the test, precision.
TestResult = tuple[float, float, float, str, Precision]


def _test_shares(before: Sequence[Value], after: Sequence[Value]) -> TestResult:
    """Test paired truth values. The detectable difference supposes that as many items change as did here."""
    from scipy.stats import norm

    num_changed = sum(bool(new) != bool(old) for old, new in zip(before, after, strict=True))
    middle, error = _agresti_min(before, after)
    reach = float(norm.isf(ALPHA / 2)) * error
    precision = Precision(num_observations=len(before), changed=num_changed / len(before))
    low, high = max(-1.0, middle - reach), min(1.0, middle + reach)
    return low, high, mcnemar(before, after), "exact McNemar", precision


def _agresti_min(before: Sequence[Value], after: Sequence[Value]) -> tuple[float, float]:
    """Return the middle of Agresti and Min's interval for the difference of paired shares, and its standard error.

    Half an item is added to each of the four cells (right before or not, right after or not), so that no error is 0.
    """
    gains = sum(bool(new) > bool(old) for old, new in zip(before, after, strict=True)) + 0.5
    losses = sum(bool(new) < bool(old) for old, new in zip(before, after, strict=True)) + 0.5
    total = len(before) + 2
    middle, changed = (gains - losses) / total, (gains + losses) / total
    return middle, math.sqrt((changed - middle**2) / total)


def _test_numbers(changes: Any) -> TestResult:
    import numpy as np
    from scipy.stats import bootstrap, permutation_test

    # Without a spread there is nothing to resample.
    if len(changes) < 2 or np.ptp(changes) == 0:
        # All 2**n flips of equal changes give smaller means, but for two.
        return math.nan, math.nan, 2.0 ** (1 - len(changes)) if changes.any() else 1.0, "sign flips", Precision()
    options: dict[str, Any] = {"n_resamples": RESAMPLES, "batch": max(1, NUMBERS_AT_ONCE // len(changes)), "rng": 0}
    interval = bootstrap((changes,), np.mean, method="BCa", **options).confidence_interval
    flipped = permutation_test((changes,), np.mean, permutation_type="samples", **options)
    # A t test finds the same as sign flips if many items change. Among few changes sign flips find nothing, however
    # small the standard error is: flips of equal sizes are McNemar's test, whose limit holds as well.
    sizes = np.abs(changes[changes != 0])
    error = _mean(changes, range(len(changes)))[1]
    precision = Precision(error, len(changes), len(sizes) / len(changes), float(sizes.mean()))
    return float(interval.low), float(interval.high), float(flipped.pvalue), "sign flips", precision


def _test_student(changes: Any, groups: Sequence[Hashable], test: str) -> TestResult:
    from scipy.stats import t

    mean, error, freedom = _mean(changes, groups)
    if not freedom or error < NO_ERROR:
        return math.nan, math.nan, 1.0 if freedom and not mean else math.nan, test, Precision()
    reach = float(t.isf(ALPHA / 2, freedom)) * error
    p = 2 * float(t.sf(abs(mean) / error, freedom))
    return mean - reach, mean + reach, p, test, Precision(error, freedom + 1)


def _cluster_precision(changes: Any, groups: Sequence[Hashable], is_of_shares: bool) -> Precision:
    """Return the precision of t over clusters, whose normal theory fails if few clusters change.

    If no cluster changes, a change is supposed to be that of one item, which for numbers has no known size.
    """
    import numpy as np

    error, freedom = _mean(changes, groups)[1:]
    if not freedom:
        return Precision()
    sums = np.abs(_cluster_sums(changes, groups))
    num_clusters, num_changed = len(sums), int((sums > NO_ERROR).sum())
    if not num_changed and not is_of_shares:
        return Precision()
    size = float(sums[sums > NO_ERROR].mean()) if num_changed else 1.0
    return Precision(
        error if error > NO_ERROR else math.nan,
        num_clusters,
        num_changed / num_clusters,
        size * num_clusters / len(changes),
        is_t_test=True,
    )


# --- agreement of two raters, and of a score with the truth


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> Estimate:
    """Return Spearman's correlation; its interval is Fisher's z with the standard error of Bonett and Wright (2000)."""
    from scipy.stats import spearmanr

    if len(x) < 4 or len(set(x)) < 2 or len(set(y)) < 2:
        return _unknown(len(x))
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
        return _unknown(len(x))
    pairs = np.array(x, float), np.array(y, float)
    value = float(lin(*pairs))
    if value == 1:
        return Estimate(value, value, value, len(x))
    interval = bootstrap(pairs, lin, paired=True, n_resamples=CONCORDANCE_RESAMPLES, rng=0).confidence_interval
    if math.isnan(interval.low):
        return _unknown(len(x))
    return Estimate(value, float(interval.low), float(interval.high), len(x))


def auroc(scores: Sequence[float], right: Sequence[bool]) -> Estimate:
    """Return the probability that a right item has a higher score than a wrong one (ties count half).

    The interval is Newcombe's method 5 (2006): it ends at the values whose own standard error (Hanley and McNeil 1982)
    just reaches the observed one, so it holds at 0 and 1, too.
    """
    from sklearn.metrics import roc_auc_score

    if len(set(right)) < 2:
        return _unknown(len(right))
    value, num_right = float(roc_auc_score(right, scores)), sum(right)
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


# --- helpers


def _unknown(num_items: int = 0) -> Estimate:
    return Estimate(math.nan, math.nan, math.nan, num_items)


def _mean(values: Any, groups: Sequence[Hashable]) -> tuple[float, float, int]:
    """Return the mean, its cluster-robust standard error with the factor G / (G - 1), and G - 1, for G clusters."""

    sums = _cluster_sums(values - values.mean(), groups)
    freedom = len(sums) - 1
    error = math.sqrt((sums**2).sum() * (freedom + 1) / freedom) / len(values) if freedom else math.nan
    return float(values.mean()), error, freedom


def _cluster_sums(values: Any, groups: Sequence[Hashable]) -> Any:
    """Return the sum of the values of each cluster."""
    import numpy as np

    _, index = np.unique([repr(group) for group in groups], return_inverse=True)
    return np.bincount(index, weights=values)


def _groups(clusters: Clusters, indices: Sequence[int]) -> Sequence[Hashable]:
    return indices if clusters is None else [clusters[index] for index in indices]


def _floats(values: Sequence[Value], indices: Sequence[int]) -> Any:
    import numpy as np

    return np.array([values[index] for index in indices], float)
