"""The power of the tests that `statistics` makes: which true difference a comparison can find (scipy, statsmodels)."""

import math
from typing import NamedTuple

ALPHA, POWER = 0.05, 0.8


class Precision(NamedTuple):
    """What the minimum detectable difference of a test depends on.

    `error` is the standard error of a t test, and `num_observations` counts its observations (items, clusters, seeds).
    `changed` is the share of observations that differ, which limits McNemar's test and sign flips, and `change_size`
    their mean absolute change. A number that does not limit the test is nan; a test that cannot be made has none.
    """

    error: float = math.nan
    num_observations: int = 0
    changed: float = math.nan
    change_size: float = 1.0

    def detectable_at(self, alpha: float) -> float:
        """Return the least true difference that the test finds with a power of 80% at the level `alpha`."""
        limits = []
        if not math.isnan(self.error):
            limits.append(minimum_detectable_difference(self.error, self.num_observations, alpha))
        if not math.isnan(self.changed):
            limits.append(self.change_size * minimum_detectable_share(self.changed, self.num_observations, alpha))
        return math.nan if not limits or any(map(math.isnan, limits)) else max(limits)


def minimum_detectable_difference(error: float, num_observations: int, alpha: float = ALPHA) -> float:
    """Return the least true difference that a t test of independent observations finds with a power of 80%.

    `error` is the standard error of the difference. Returns nan if it is 0 or nan, or for fewer than 2 observations.
    """
    from statsmodels.stats.power import TTestPower

    if num_observations < 2 or not error > 0:
        return math.nan
    size = TTestPower().solve_power(nobs=num_observations, alpha=alpha, power=POWER, alternative="two-sided")
    return float(size) * math.sqrt(num_observations) * error


def minimum_detectable_share(changed: float, num_items: int, alpha: float = ALPHA) -> float:
    """Return the least true difference of paired shares that McNemar's exact test finds with a power of 80%.

    `changed` is the share of items on which the two models differ. A difference that is larger than this share needs
    more changes, all in one direction. Returns nan if even a change of every item is not found, or without items.
    """
    from scipy.optimize import brentq

    def missing_power(difference: float) -> float:
        return mcnemar_power(difference, max(changed, difference), num_items, alpha) - POWER

    if not num_items or missing_power(1.0) < 0:
        return math.nan
    return float(brentq(missing_power, 0.0, 1.0, xtol=1e-7))


def mcnemar_power(difference: float, changed: float, num_items: int, alpha: float = ALPHA) -> float:
    """Return the probability that McNemar's exact test gives p <= alpha.

    An item changes with the probability `changed`, and the shares differ by `difference`, which is at most `changed`.
    The power is the mean over the binomial number of changed items (Duffy 1984).
    """
    import numpy as np
    from scipy.stats import binom

    if changed <= 0:
        return 0.0
    first, last = binom.ppf([1e-12, 1 - 1e-12], num_items, changed)
    counts = np.arange(first, last + 1)
    # The most losses among so many changed items with which the two-sided p is still at most alpha; -1: never.
    losses = binom.ppf(alpha / 2, counts, 0.5)
    losses = np.where(binom.cdf(losses, counts, 0.5) <= alpha / 2, losses, losses - 1)
    share_of_gains = (changed + difference) / (2 * changed)
    rejected = binom.cdf(losses, counts, share_of_gains) + binom.sf(counts - losses - 1, counts, share_of_gains)
    return float((binom.pmf(counts, num_items, changed) * rejected).sum())
