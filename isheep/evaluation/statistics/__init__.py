"""Statistics of scores: estimates with intervals, paired comparisons, agreement of two raters.

The value of an item is a truth value, a number, or None if it could not be read: such items are left out and counted.
Items of one cluster (the instructions of a prompt, the turns of a dialogue) depend on each other; clusters are
independent. Intervals are 95% intervals and tests are two-sided. A figure that cannot be computed (too few values, or
all values equal) is nan.
"""

from isheep.evaluation.statistics.agreement import auroc, concordance, rank_correlation
from isheep.evaluation.statistics.comparisons import (
    Comparison,
    compare,
    compare_over_seeds,
    correct_family,
    estimate_over_seeds,
    holm,
    mcnemar,
    upper_bound,
)
from isheep.evaluation.statistics.estimates import Clusters, Estimate, Value, estimate, is_share, wilson, win_rate

__all__ = [
    "Clusters",
    "Comparison",
    "Estimate",
    "Value",
    "auroc",
    "compare",
    "compare_over_seeds",
    "concordance",
    "correct_family",
    "estimate",
    "estimate_over_seeds",
    "holm",
    "is_share",
    "mcnemar",
    "rank_correlation",
    "upper_bound",
    "wilson",
    "win_rate",
]
