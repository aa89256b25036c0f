"""The power of the tests that `statistics` makes: which true difference a comparison can find (scipy)."""

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

ALPHA, POWER = 0.05, 0.8
# Quantiles of the standard deviation over which the power of a t test is averaged.
NUM_QUANTILES = 4000

MostLosses = Callable[[Any, int, float], Any]
"""Returns for each number of changed observations the most losses with which a test still rejects; -1 or less: never.

Its arguments are the numbers of changed observations (an array), the number of all observations, and the level.
"""


class Precision(NamedTuple):
    """What the minimum detectable difference of a test depends on.

    `error` is the standard error of a t test, and `num_observations` counts its observations (items, clusters, seeds).
    `changed` is the share of observations that differ, which limits a test if few do, and `change_size` their mean
    absolute change. A number that does not limit the test is nan; a test that cannot be made has none. `is_t_test`
    says that the few changes are tested by t over clusters; otherwise it is McNemar's test or sign flips.
    """

    error: float = math.nan
    num_observations: int = 0
    changed: float = math.nan
    change_size: float = 1.0
    is_t_test: bool = False

    def detectable_at(self, alpha: float) -> float:
        """Return the least true difference that the test finds with a power of 80% at the level `alpha`."""
        limits = []
        if not math.isnan(self.error):
            limits.append(minimum_detectable_difference(self.error, self.num_observations, alpha))
        if not math.isnan(self.changed):
            most_losses = most_losses_of_t if self.is_t_test else most_losses_of_mcnemar
            share = minimum_detectable_share(self.changed, self.num_observations, alpha, most_losses)
            limits.append(self.change_size * share)
        return math.nan if not limits or any(map(math.isnan, limits)) else max(limits)


def minimum_detectable_difference(error: float, num_observations: int, alpha: float = ALPHA) -> float:
    """Return the least true difference that a t test of independent observations finds with a power of 80%.

    `error` is the standard error of the difference. Returns nan if it is 0 or nan, or for fewer than 2 observations.
    """
    from scipy.optimize import brentq

    if num_observations < 2 or not error > 0:
        return math.nan
    highest = 1.0
    while t_test_power(highest, num_observations, alpha) < POWER:
        highest *= 2
    return error * float(brentq(lambda size: t_test_power(size, num_observations, alpha) - POWER, 0.0, highest))


def t_test_power(size: float, num_observations: int, alpha: float = ALPHA) -> float:
    """Return the probability that a two-sided t test gives p <= alpha, for a true difference of `size` standard errors.

    It is the mean over the quantiles of the estimated standard deviation. scipy's noncentral t distribution is nan for
    some of the sizes that few observations need.
    """
    from scipy.stats import norm, t

    limits = float(t.isf(alpha / 2, num_observations - 1)) * _relative_deviations(num_observations - 1)
    return float((norm.sf(limits - size) + norm.cdf(-limits - size)).mean())


@cache
def _relative_deviations(freedom: int) -> Any:
    """Return quantiles of the estimated standard deviation, relative to the true one."""
    import numpy as np
    from scipy.stats import chi2

    return np.sqrt(chi2.ppf((np.arange(NUM_QUANTILES) + 0.5) / NUM_QUANTILES, freedom) / freedom)


def most_losses_of_mcnemar(counts: Any, num_observations: int, alpha: float) -> Any:
    """Return the most losses among so many changed observations with which McNemar's exact test gives p <= alpha."""
    import numpy as np
    from scipy.stats import binom

    losses = binom.ppf(alpha / 2, counts, 0.5)
    return np.where(binom.cdf(losses, counts, 0.5) <= alpha / 2, losses, losses - 1)


def most_losses_of_t(counts: Any, num_observations: int, alpha: float) -> Any:
    """Return the most losses among so many changed observations with which a t test gives p <= alpha.

    All changes have the same size, and the other observations do not change.
    """
    import numpy as np
    from scipy.stats import t

    freedom = num_observations - 1
    if freedom < 1:
        return np.full(len(counts), -1)
    limit = float(t.isf(alpha / 2, freedom)) ** 2
    fewest_more_gains = np.sqrt(limit * counts * num_observations / (freedom + limit))
    return np.floor((counts - fewest_more_gains) / 2)


def minimum_detectable_share(
    changed: float, num_items: int, alpha: float = ALPHA, most_losses: MostLosses = most_losses_of_mcnemar
) -> float:
    """Return the least true difference of paired shares that a test finds with a power of 80%.

    `changed` is the share of items on which the two models differ. A difference that is larger than this share needs
    more changes, all in one direction. Returns nan if even a change of every item is not found, or without items.
    """
    from scipy.optimize import brentq

    def missing_power(difference: float) -> float:
        return power_of_changes(difference, max(changed, difference), num_items, alpha, most_losses) - POWER

    if not num_items or missing_power(1.0) < 0:
        return math.nan
    return float(brentq(missing_power, 0.0, 1.0, xtol=1e-7))


def power_of_changes(
    difference: float,
    changed: float,
    num_items: int,
    alpha: float = ALPHA,
    most_losses: MostLosses = most_losses_of_mcnemar,
) -> float:
    """Return the probability that a test of paired changes of one size gives p <= alpha.

    An item changes with the probability `changed`, and the shares differ by `difference`, which is at most `changed`.
    The power is the mean over the binomial number of changed items (Duffy 1984).
    """
    import numpy as np
    from scipy.stats import binom

    if changed <= 0:
        return 0.0
    first, last = binom.ppf([1e-12, 1 - 1e-12], num_items, changed)
    counts = np.arange(first, last + 1)
    losses = most_losses(counts, num_items, alpha)
    share_of_gains = (changed + difference) / (2 * changed)
    rejected = binom.cdf(losses, counts, share_of_gains) + binom.sf(counts - losses - 1, counts, share_of_gains)
    return float((binom.pmf(counts, num_items, changed) * rejected).sum())
