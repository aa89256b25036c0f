"""The statistics of agreement: against other libraries, known values, and how often intervals hold the truth."""

import math

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from isheep.evaluation.agreement import (
    Estimate,
    auroc,
    concordance,
    difference,
    mean,
    rank_correlation,
    share,
    win_rate,
)

RNG = np.random.default_rng(0)


def holds(found: Estimate | None, true: float) -> bool:
    assert found
    return found.low <= true <= found.high


def test_concordance_of_whole_scores_is_the_weighted_kappa() -> None:
    one = RNG.integers(1, 11, 150)
    other = np.clip(one + RNG.integers(-3, 4, 150), 1, 10)
    found = concordance(one.tolist(), other.tolist())
    assert found and found.value == pytest.approx(cohen_kappa_score(one, other, weights="quadratic"))
    assert found.low < found.value < found.high
    stricter = concordance(one.tolist(), (one - 3).tolist())
    assert stricter and stricter.value < 0.7  # the same ranks, another scale


@pytest.mark.parametrize("apart", [0.0, 1.0, 2.5])
def test_auroc_s_interval_holds_the_truth(apart: float) -> None:
    true, held = 0.5 * (1 + math.erf(apart / 2)), 0
    for _ in range(200):
        scores = [*RNG.normal(apart, 1, 20), *RNG.normal(0, 1, 40)]
        held += holds(auroc(scores, [True] * 20 + [False] * 40), true)
    assert 0.9 <= held / 200 <= 1


def test_auroc_at_its_ends_and_without_an_other_side() -> None:
    perfect = auroc([1, 2, 3, 4, 5, 6], [False] * 3 + [True] * 3)
    assert perfect and perfect.value == perfect.high == 1 and 0.2 < perfect.low < 0.9
    wrong = auroc([6, 5, 4, 3, 2, 1], [False] * 3 + [True] * 3)
    assert wrong and wrong.value == wrong.low == 0 and wrong.high == pytest.approx(1 - perfect.low)
    assert auroc([1, 1, 1, 1], [True, False] * 2) == pytest.approx((0.5, 0.112, 0.888), abs=1e-3)
    assert auroc([1, 2], [True, True]) is None


def test_rank_correlation_s_interval_holds_the_truth() -> None:
    true, held = 6 / math.pi * math.asin(0.6 / 2), 0
    for _ in range(200):
        one, other = RNG.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 40).T.tolist()
        held += holds(rank_correlation(one, other), true)
    assert 0.9 <= held / 200 <= 1
    assert rank_correlation([1, 2, 3, 4], [2, 4, 6, 8]) == pytest.approx((1, 1, 1))
    assert rank_correlation([1, 2, 3, 4], [5, 5, 5, 5]) is None and rank_correlation([1, 2], [1, 2]) is None


def test_shares_means_and_wins() -> None:
    assert share([True] * 81 + [False] * 182) == pytest.approx((81 / 263, 0.2553, 0.3662), abs=1e-4)
    assert share([]) is None and mean([]) is None and mean([3.5]) is None
    assert mean([1.0, 0.0, 1.0]) == pytest.approx(share([True, False, True]))
    assert mean([1.0, 2.0, 3.0]) == pytest.approx((2, 2 - 2.484, 2 + 2.484), abs=1e-3)
    assert difference([1, 0, 1, 0], [2, 1, 1, 0]) == pytest.approx((0.5, 0.5 - 0.919, 0.5 + 0.919), abs=1e-3)
    assert win_rate([0.5] * 8) == pytest.approx(share([True] * 4 + [False] * 4))


def test_items_of_one_prompt_count_as_one() -> None:
    grouped, alone = mean([1.0, 1, 0, 0], ["a", "a", "b", "b"]), mean([1.0, 0], None)
    assert grouped == alone and grouped != mean([1.0, 1, 0, 0])
