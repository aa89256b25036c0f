"""Two models on the same items, or two settings over the same seeds: the difference, its interval, and a paired test.

Intervals are 95% intervals and tests are two-sided. A figure that cannot be computed is nan. `holm` corrects the p
values of a family of tests.
"""

import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from isheep.evaluation.power import ALPHA, Precision
from isheep.evaluation.statistics.estimates import (
    Clusters,
    Estimate,
    Value,
    cluster_sums,
    estimate,
    floats,
    groups_of,
    is_share,
    mean_with_error,
)

# Bootstrap resamples of a comparison, and random sign flips.
RESAMPLES = 9999
# A standard error below this is rounding: all differences are equal.
NO_ERROR = 1e-12
# Numbers that a resampling holds in memory at once; larger batches are slower, too.
NUMBERS_AT_ONCE = 10**6


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


def compare(before: Sequence[Value], after: Sequence[Value], clusters: Clusters = None, unit: str = "") -> Comparison:
    """Compare two models on the same items.

    Truth values: McNemar's exact test, and the interval of Agresti and Min (2005) for the difference of paired shares.
    Numbers: random sign flips of the differences, and the BCa bootstrap of their mean (both with a fixed seed).
    With clusters, either: Student's t of the mean difference with its cluster-robust standard error.
    Raises ValueError if the two have different lengths.
    """
    readable = [index for index, pair in enumerate(zip(before, after, strict=True)) if None not in pair]
    groups = groups_of(clusters, readable)
    earlier, later = ([values[index] for index in readable] for values in (before, after))
    first, second = (estimate(values, None if clusters is None else groups, unit) for values in (earlier, later))
    num_unreadable = len(before) - len(readable)
    if not readable:
        return Comparison(first, second, math.nan, math.nan, math.nan, math.nan, "none", Precision(), 0, num_unreadable)
    changes = floats(later, range(len(later))) - floats(earlier, range(len(earlier)))
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
    changes = floats(later, range(len(later))) - floats(earlier, range(len(earlier)))
    mean, error, freedom = mean_with_error(changes, groups_of(clusters, readable))
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
    first, second = (estimate_over_seeds(side, is_of_shares) for side in (before, after))
    if is_of_shares:
        low, high = _clip(low, -1, 1), _clip(high, -1, 1)
    return Comparison(first, second, float(changes.mean()), low, high, p, test, precision, len(changes), 0)


def estimate_over_seeds(scores: Sequence[float], is_of_shares: bool = False) -> Estimate:
    """Return the mean of a setting's scores, one for each seed, with Student's interval; cut at 0 and 1 for shares."""
    result = estimate(scores)
    return result._replace(low=_clip(result.low, 0, 1), high=_clip(result.high, 0, 1)) if is_of_shares else result


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


def correct_family(tests: Sequence[tuple[Hashable, float]]) -> tuple[list[float], int]:
    """Return the p of each test of a family corrected for all of them (Holm), and the number of different tests.

    A test is the values that it tests and its p. Tests of the same values, such as strict and loose accuracy if no
    answer differs, are one test; those without a p are not counted.
    """
    p_values = dict(tests)
    corrected = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return [corrected[values] for values, _ in tests], sum(not math.isnan(p) for p in p_values.values())


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
    error = mean_with_error(changes, range(len(changes)))[1]
    precision = Precision(error, len(changes), len(sizes) / len(changes), float(sizes.mean()))
    return float(interval.low), float(interval.high), float(flipped.pvalue), "sign flips", precision


def _test_student(changes: Any, groups: Sequence[Hashable], test: str) -> TestResult:
    from scipy.stats import t

    mean, error, freedom = mean_with_error(changes, groups)
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

    error, freedom = mean_with_error(changes, groups)[1:]
    if not freedom:
        return Precision()
    sums = np.abs(cluster_sums(changes, groups))
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
