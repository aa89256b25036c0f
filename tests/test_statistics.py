"""Intervals and tests against values worked by hand, and against statsmodels and scipy."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_rel
from statsmodels.api import OLS
from statsmodels.stats.proportion import proportion_confint

from isheep.evaluation.statistics import (
    Value,
    compare,
    compare_over_seeds,
    estimate,
    holm,
    mcnemar,
    minimum_detectable_difference,
    wilson,
)


def test_wilson() -> None:
    """Newcombe 1998, Table I: 81 of 263."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 0) == (0, 1)
    assert wilson(0, 10)[0] == 0 and wilson(10, 10)[1] == 1


@pytest.mark.parametrize(("right", "total"), [(0, 7), (3.2, 9.5), (40, 41), (541, 541)])
def test_wilson_of_effective_counts(right: float, total: float) -> None:
    assert wilson(right, total) == pytest.approx(proportion_confint(right, total, method="wilson"), abs=1e-12)


def test_a_mean_has_students_interval() -> None:
    """s = 1.2910 over 4 items, t = 3.1824 with 3 degrees of freedom."""
    found = estimate([1, 2, None, 3, 4])
    assert found[:3] == pytest.approx((2.5, 2.5 - 2.0543, 2.5 + 2.0543), abs=1e-4) and found.items == 4


def test_too_little_to_say() -> None:
    assert estimate([None, None]).items == 0 and math.isnan(estimate([None]).value)
    one = estimate([3.5])
    assert one.value == 3.5 and math.isnan(one.low) and math.isnan(one.high)
    found = compare([True, None], [None, False])
    assert found.items == 0 and found.unread == 2 and math.isnan(found.p)


PAIRS = [0, 0, 1, 1, 2, 2]


def test_instructions_of_a_prompt_count_by_prompt() -> None:
    """Residual sums 1, -1 and 0: a standard error of sqrt(2 * 3 / 2) / 6, as 3 independent items would have."""
    found = estimate([True, True, False, False, True, False], PAIRS)
    assert found.value == 0.5 and (found.low, found.high) == pytest.approx(wilson(1.5, 3))
    apart = estimate([True, True, False, False, True, False])
    assert found.low < apart.low and found.high > apart.high


def test_prompts_that_agree_are_as_many_items() -> None:
    assert estimate([True] * 6, PAIRS)[:3] == pytest.approx((1, *wilson(3, 3)))
    assert estimate([True] * 2, [0, 0])[:3] == pytest.approx((1, *wilson(1, 1)))
    halves = estimate([True, False] * 3, PAIRS)  # no error at all
    assert (halves.low, halves.high) == pytest.approx(wilson(1.5, 3))
    less = estimate([True, False, True, False, True, True], PAIRS)  # 8 by the formula: never more than there are
    assert (less.low, less.high) == pytest.approx(wilson(4, 6))


def drawn(number: int) -> tuple[list[bool], list[bool], list[int]]:
    rng = np.random.default_rng(number)
    before = rng.random(300) < 0.5
    after = before ^ (rng.random(300) < 0.2)
    return before.tolist(), (after | (rng.random(300) < 0.1)).tolist(), np.sort(rng.integers(0, 150, 300)).tolist()


@pytest.mark.parametrize("number", range(3))
def test_clusters_agree_with_statsmodels(number: int) -> None:
    before, after, clusters = drawn(number)
    changes = np.subtract(after, before, dtype=float)
    fit = OLS(changes, np.ones(300)).fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    found = compare(before, after, [f"prompt {n}" for n in clusters])
    assert found.test == "t over clusters" and found.p == pytest.approx(fit.pvalues[0])
    assert (found.low, found.high) == pytest.approx(tuple(fit.conf_int()[0]))
    assert found.difference == pytest.approx(fit.params[0])


def test_shares_are_compared_by_mcnemar() -> None:
    """Nine gains, a loss of 15: p = 2 (1 + 10) / 2^10; Agresti and Min: 8/17 +- 1.96 sqrt((11/17 - 64/289) / 17)."""
    before, after = [False] * 9 + [True] * 6, [True] * 9 + [False] + [True] * 5
    found = compare(before, after)
    assert mcnemar(before, after) == pytest.approx(22 / 1024) == found.p
    assert found.difference == pytest.approx(8 / 15) and found.items == 15
    assert (found.low, found.high) == pytest.approx((0.1605, 0.7807), abs=1e-4)
    assert mcnemar([True, False], [True, False]) == 1
    with pytest.raises(ValueError, match="shorter"):
        mcnemar([True], [])


def test_numbers_are_compared_by_sign_flips() -> None:
    """Of the 8 ways to flip three differences, 2 are as far from 0 as all up."""
    found = compare([1.0, 1.0, 1.0, None], [2.0, 3.0, 4.0, 9.0])
    assert found.test == "sign flips" and found.p == pytest.approx(0.25)
    assert (found.difference, found.items, found.unread) == (2, 3, 1)


def test_many_numbers_agree_with_students_test() -> None:
    rng = np.random.default_rng(3)
    before = rng.normal(5, 2, 400)
    after = before + rng.normal(0.2, 1.5, 400)
    found, student = compare(before.tolist(), after.tolist()), ttest_rel(after, before)
    interval = student.confidence_interval()
    assert found.p == pytest.approx(student.pvalue, abs=0.005)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=0.02)
    assert compare(before.tolist(), after.tolist()) == found  # drawn with a fixed seed


@pytest.mark.parametrize("values", [[True, False, True], [1.0, 2.5, 4.0]])
@pytest.mark.parametrize("clusters", [None, [0, 0, 1]])
def test_nothing_changed(values: list[Value], clusters: list[int] | None) -> None:
    found = compare(values, values, clusters)
    assert found.p == 1 and found.difference == 0


def test_over_seeds() -> None:
    before, after = [0.61, 0.58, 0.64], [0.66, 0.60, 0.70]
    found, student = compare_over_seeds(before, after), ttest_rel(after, before)
    interval = student.confidence_interval()
    assert found.p == pytest.approx(student.pvalue) and found.test == "paired t over seeds"
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert math.isnan(compare_over_seeds([0.5, 0.6], [0.6, 0.7]).p)  # the same gain twice: no variance to test with


def test_holm() -> None:
    """Three times the least, twice the middle, the largest as it is, never less than one before."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    mixed = holm([0.01, math.nan, 0.6])
    assert mixed[0] == pytest.approx(0.02) and math.isnan(mixed[1]) and mixed[2] == pytest.approx(0.6)
    assert holm([]) == []


def test_ifeval_sees_six_points() -> None:
    """541 prompts, a quarter of which change; McNemar's test then finds six points four times of five."""
    changed = 135
    before = [n % 2 == 0 for n in range(541)]
    after = [right ^ (n < changed) for n, right in enumerate(before)]
    least = compare(before, after).detectable
    assert least == pytest.approx(0.06, abs=0.002)
    rng, found = np.random.default_rng(0), 0
    for draw in rng.random((400, 541)):
        gained, lost = draw < (0.25 + least) / 2, draw > 1 - (0.25 - least) / 2
        found += mcnemar(lost.tolist(), gained.tolist()) < 0.05
    assert 0.72 < found / 400 < 0.86


def test_what_a_mean_sees() -> None:
    """2.80 standard errors for many items, more for few."""
    assert minimum_detectable_difference(0.5, 100_000) == pytest.approx(0.5 * 2.8016, abs=1e-3)
    assert minimum_detectable_difference(0.5, 3) == pytest.approx(0.5 * 5.6535, abs=1e-3)
    assert math.isnan(minimum_detectable_difference(0.5, 1)) and math.isnan(minimum_detectable_difference(0.0, 9))
