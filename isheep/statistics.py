"""Intervals and paired tests (scipy)."""

from collections.abc import Sequence


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
