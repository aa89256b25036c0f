"""Estimates, tests and agreement: against values worked out by hand, and against statsmodels, scipy and sklearn."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_rel
from sklearn.metrics import cohen_kappa_score
from statsmodels.api import OLS
from statsmodels.stats.proportion import proportion_confint

from isheep.evaluation.power import minimum_detectable_difference, power_of_changes
from isheep.evaluation.statistics import (
    Estimate,
    Value,
    auroc,
    compare,
    compare_over_seeds,
    concordance,
    estimate,
    holm,
    mcnemar,
    rank_correlation,
    wilson,
    win_rate,
)


def ends(result: Estimate) -> tuple[float, float, float]:
    return result.value, result.low, result.high


def contains(result: Estimate, truth: float) -> bool:
    return result.low <= truth <= result.high


# --- one score


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
    result = estimate([1, 2, None, 3, 4])
    assert ends(result) == pytest.approx((2.5, 2.5 - 2.0543, 2.5 + 2.0543), abs=1e-4) and result.num_items == 4


def test_a_share_has_wilsons_interval() -> None:
    assert ends(estimate([True] * 81 + [False] * 182)) == pytest.approx((81 / 263, 0.2553, 0.3662), abs=1e-4)


def test_too_few_values_give_nan() -> None:
    assert estimate([None, None]).num_items == 0 and math.isnan(estimate([None]).value)
    single = estimate([3.5])
    assert single.value == 3.5 and math.isnan(single.low) and math.isnan(single.high)
    result = compare([True, None], [None, False])
    assert result.num_items == 0 and result.num_unreadable == 2 and math.isnan(result.p)
    assert math.isnan(win_rate([]).value)


PAIRS = [0, 0, 1, 1, 2, 2]


def test_instructions_of_a_prompt_count_by_prompt() -> None:
    """Residual sums 1, -1 and 0: a standard error of sqrt(2 * 3 / 2) / 6, as 3 independent items would have."""
    result = estimate([True, True, False, False, True, False], PAIRS)
    assert result.value == 0.5 and (result.low, result.high) == pytest.approx(wilson(1.5, 3))
    independent = estimate([True, True, False, False, True, False])
    assert result.low < independent.low and result.high > independent.high


def test_prompts_whose_instructions_agree_count_as_single_items() -> None:
    assert ends(estimate([True] * 6, PAIRS)) == pytest.approx((1, *wilson(3, 3)))
    assert ends(estimate([True] * 2, [0, 0])) == pytest.approx((1, *wilson(1, 1)))
    # The cluster-robust error is 0.
    halves = estimate([True, False] * 3, PAIRS)
    assert (halves.low, halves.high) == pytest.approx(wilson(1.5, 3))
    # The formula gives 8 independent items; there are never more than the real ones.
    negative = estimate([True, False, True, False, True, True], PAIRS)
    assert (negative.low, negative.high) == pytest.approx(wilson(4, 6))


def test_a_tie_is_half_a_win() -> None:
    assert win_rate([0.5] * 8) == pytest.approx(estimate([True] * 4 + [False] * 4))


def clustered_run(path: Path) -> Path:
    """A run whose only benchmark has 3000 instructions in 1000 prompts, and generated pairs that touch every prompt."""
    from isheep.benchmarks import load_benchmark
    from isheep.recipe.evaluation import BenchmarkSettings
    from isheep.recipe.schema import Recipe
    from isheep.records import Drop, Pair
    from isheep.rundir.run import open_run_for_writing

    prompts = load_benchmark("lamb").prompts(BenchmarkSettings(name="lamb"))
    rng = np.random.default_rng(5)
    clusters = [*range(len(prompts)), *rng.integers(0, len(prompts), 2000).tolist()]
    right_prompts = (rng.random(len(prompts)) < 0.64).tolist()
    items = [bool(right_prompts[prompt] ^ (rng.random() < 0.2)) for prompt in clusters]
    result = {"template": "qwen", "scores": {"constraints": {"items": items, "clusters": clusters}}}
    fields = {"input": "", "output": "fine", "finish": "stop", "tokens": 1, "seed": 1}
    pairs = [Pair.model_validate({"id": f"t1-{n}", "instruction": text, **fields}) for n, text in enumerate(prompts)]
    settings = {"model": "lamb", "iterations": 1, "assessment": None, "filters": [], "evaluation": ["lamb"]}
    with open_run_for_writing(path, Recipe.model_validate(settings)) as root:
        (root / "iter-1").write("pairs.jsonl", Pair, pairs)
        (root / "iter-1").write("dropped.jsonl", Drop, [])
        for name in ("base", "iter-1"):
            file = root.path / name / "eval" / "lamb.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(result))
    return path


def test_every_command_prints_the_same_interval(tmp_path: Path) -> None:
    from tests.helpers.command import isheep

    run = clustered_run(tmp_path / "run")
    result = json.loads((run / "base" / "eval" / "lamb.json").read_text())["scores"]["constraints"]
    score = estimate(result["items"], result["clusters"])
    interval = f"[{100 * score.low:.0f},{100 * score.high:.0f}]"
    independent = estimate(result["items"])
    assert interval != f"[{100 * independent.low:.0f},{100 * independent.high:.0f}]"
    for command in ("status", "compare", "contamination"):
        done = isheep(command, run, *(["--iteration", "1"] if command == "compare" else []))
        lines = [line for line in done.out.splitlines() if "constraints" in line and "[" in line]
        assert lines and interval in lines[-1], (command, done.out, done.err)


# --- two scores


def random_answers(seed: int) -> tuple[list[bool], list[bool], list[int]]:
    rng = np.random.default_rng(seed)
    before = rng.random(300) < 0.5
    after = before ^ (rng.random(300) < 0.2)
    return before.tolist(), (after | (rng.random(300) < 0.1)).tolist(), np.sort(rng.integers(0, 150, 300)).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_clusters_agree_with_statsmodels(seed: int) -> None:
    before, after, clusters = random_answers(seed)
    changes = np.subtract(after, before, dtype=float)
    fit = OLS(changes, np.ones(300)).fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    result = compare(before, after, [f"prompt {cluster}" for cluster in clusters])
    assert result.test == "t over clusters" and result.p == pytest.approx(fit.pvalues[0])
    assert (result.low, result.high) == pytest.approx(tuple(fit.conf_int()[0]))
    assert result.difference == pytest.approx(fit.params[0])


def test_shares_are_compared_by_mcnemar() -> None:
    """Nine gains, a loss of 15: p = 2 (1 + 10) / 2^10; Agresti and Min: 8/17 +- 1.96 sqrt((11/17 - 64/289) / 17)."""
    before, after = [False] * 9 + [True] * 6, [True] * 9 + [False] + [True] * 5
    result = compare(before, after)
    assert mcnemar(before, after) == pytest.approx(22 / 1024) == result.p
    assert result.difference == pytest.approx(8 / 15) and result.num_items == 15
    assert (result.low, result.high) == pytest.approx((0.1605, 0.7807), abs=1e-4)
    assert mcnemar([True, False], [True, False]) == 1
    with pytest.raises(ValueError, match="shorter"):
        mcnemar([True], [])


def test_numbers_are_compared_by_sign_flips() -> None:
    """Of the 8 ways to flip three differences, 2 are as far from 0 as all up."""
    result = compare([1.0, 1.0, 1.0, None], [2.0, 3.0, 4.0, 9.0])
    assert result.test == "sign flips" and result.p == pytest.approx(0.25)
    assert (result.difference, result.num_items, result.num_unreadable) == (2, 3, 1)


def test_many_numbers_agree_with_students_test() -> None:
    rng = np.random.default_rng(3)
    before = rng.normal(5, 2, 400)
    after = before + rng.normal(0.2, 1.5, 400)
    result, student = compare(before.tolist(), after.tolist()), ttest_rel(after, before)
    interval = student.confidence_interval()
    assert result.p == pytest.approx(student.pvalue, abs=0.005)
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high), abs=0.02)
    # The resampling has a fixed seed.
    assert compare(before.tolist(), after.tolist()) == result


@pytest.mark.parametrize("values", [[True, False, True], [1.0, 2.5, 4.0]])
@pytest.mark.parametrize("clusters", [None, [0, 0, 1]])
def test_nothing_changed(values: list[Value], clusters: list[int] | None) -> None:
    result = compare(values, values, clusters)
    assert result.p == 1 and result.difference == 0


def test_over_seeds() -> None:
    before, after = [0.61, 0.58, 0.64], [0.66, 0.60, 0.70]
    result, student = compare_over_seeds(before, after), ttest_rel(after, before)
    interval = student.confidence_interval()
    assert result.p == pytest.approx(student.pvalue) and result.test == "paired t over seeds"
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high))
    # Twice the same gain has no variance to test with.
    assert math.isnan(compare_over_seeds([0.5, 0.6], [0.6, 0.7]).p)


def test_intervals_over_seeds_of_shares_stay_shares() -> None:
    before, after = [0.02, 0.0, 0.1], [0.99, 0.7, 1.0]
    result = compare_over_seeds(before, after, is_of_shares=True)
    free = compare_over_seeds(before, after)
    assert free.before.low < 0 and free.after.high > 1 and free.high > 1
    assert (result.before.low, result.after.high, result.high) == (0, 1, 1)
    assert result.before.high == free.before.high and result.low == free.low


def test_holm() -> None:
    """Three times the least, twice the middle, the largest as it is, never less than the one before."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    mixed = holm([0.01, math.nan, 0.6])
    assert mixed[0] == pytest.approx(0.02) and math.isnan(mixed[1]) and mixed[2] == pytest.approx(0.6)
    assert holm([]) == []


def test_ifeval_detects_six_points() -> None:
    """541 prompts, a quarter of which change; McNemar's test then finds six points four times of five."""
    changed = 135
    before = [n % 2 == 0 for n in range(541)]
    after = [right ^ (n < changed) for n, right in enumerate(before)]
    least = compare(before, after).detectable
    assert least == pytest.approx(0.06, abs=0.002)
    rng, detected = np.random.default_rng(0), 0
    for draw in rng.random((400, 541)):
        gains, losses = draw < (0.25 + least) / 2, draw > 1 - (0.25 - least) / 2
        detected += mcnemar(losses.tolist(), gains.tolist()) < 0.05
    assert 0.72 < detected / 400 < 0.86


def test_rare_changes_are_found_as_often_as_the_exact_test_finds_them() -> None:
    """Of 1,000 items 0.4% change: 0.4 points are found in 21% of cases, and 0.8 points are needed for 80%."""
    assert power_of_changes(0.004, 0.004, 1000) == pytest.approx(0.2146, abs=1e-3)
    before, after = [False] * 1000, [n < 4 for n in range(1000)]
    least = compare(before, after).detectable
    assert least == pytest.approx(0.0079, abs=1e-4)
    # Simulated: all changes have the same direction, since the difference is larger than the share that changes.
    gains = np.random.default_rng(0).binomial(1000, least, 4000)
    detected = sum(mcnemar([False] * n, [True] * n) <= 0.05 for n in gains)
    assert detected / 4000 == pytest.approx(0.8, abs=0.02)
    # Five changes in one direction give p = .0625, so that no difference among five items is found.
    assert mcnemar([False] * 5, [True] * 5) == 0.0625
    assert math.isnan(compare([True, False] * 2, [False, True] * 2).detectable)


def test_rare_changes_of_numbers_are_found_as_sign_flips_find_them() -> None:
    """Changes of one size are McNemar's case; a t test would promise to find half of this difference."""
    before, after = [1.0] * 1000, [3.0 if n < 4 else 1.0 for n in range(1000)]
    assert compare(before, after).detectable == pytest.approx(2 * 0.0079, abs=2e-4)


def test_a_corrected_test_needs_a_larger_difference() -> None:
    before = [n % 2 == 0 for n in range(100_000)]
    after = [right ^ (n < 20_000) for n, right in enumerate(before)]
    for result in (compare(before, after), compare([*map(float, before)], [*map(float, after)], range(100_000))):
        assert result.precision.detectable_at(0.05 / 8) / result.detectable == pytest.approx(1.276, abs=0.01)


@pytest.mark.parametrize("num_changed", [0, 1, 3])
def test_rare_changes_of_clusters_are_found_as_t_over_clusters_finds_them(num_changed: int) -> None:
    """500 prompts with two instructions each; the power is simulated with the reported test."""
    clusters = [n // 2 for n in range(1000)]
    before, after = [False] * 1000, [n % 2 == 0 and n < 2 * num_changed for n in range(1000)]
    least = compare(before, after, clusters).detectable
    rng, detected = np.random.default_rng(0), 0
    for _ in range(300):
        gains = rng.random(500) < 2 * least
        later = np.repeat(gains, 2) & (np.arange(1000) % 2 == 0)
        detected += compare(before, later.tolist(), clusters).p < 0.05
    assert detected / 300 == pytest.approx(0.8, abs=0.07)


@pytest.mark.parametrize(
    ("num_seeds", "num_tests", "expected"), [(2, 2, 32.7), (2, 20, 327), (3, 6, 13.9), (5, 20, 8.4)]
)
def test_the_detectable_difference_of_few_seeds_grows_with_the_number_of_tests(
    num_seeds: int, num_tests: int, expected: float
) -> None:
    """The expected values are simulated: in standard errors, at 5% divided by the number of tests."""
    assert minimum_detectable_difference(1.0, num_seeds, 0.05 / num_tests) == pytest.approx(expected, rel=0.02)
    sizes = [minimum_detectable_difference(1.0, num_seeds, 0.05 / number) for number in range(1, 30)]
    assert sizes == sorted(sizes)


def test_equal_changes_of_all_items_have_a_p() -> None:
    assert compare([0.0] * 8, [1.0] * 8).p == 2 / 2**8
    assert compare([0.1 + 0.2] * 8, [0.3] * 8).p == 1


def test_minimum_detectable_difference_of_means() -> None:
    """2.80 standard errors for many items, more for few."""
    assert minimum_detectable_difference(0.5, 100_000) == pytest.approx(0.5 * 2.8016, abs=1e-3)
    assert minimum_detectable_difference(0.5, 3) == pytest.approx(0.5 * 5.6535, abs=1e-3)
    assert math.isnan(minimum_detectable_difference(0.5, 1)) and math.isnan(minimum_detectable_difference(0.0, 9))


# --- agreement


def test_concordance_of_whole_scores_is_the_weighted_kappa() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(1, 11, 150)
    rival = np.clip(scores + rng.integers(-3, 4, 150), 1, 10)
    result = concordance(scores.tolist(), rival.tolist())
    assert result.value == pytest.approx(cohen_kappa_score(scores, rival, weights="quadratic"))
    assert result.low < result.value < result.high
    # A stricter rater with the same ranks.
    assert concordance(scores.tolist(), (scores - 3).tolist()).value < 0.7
    assert math.isnan(concordance([1, 2], [1, 2]).value)


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.5])
def test_the_interval_of_auroc_contains_the_truth(shift: float) -> None:
    rng, truth, hits = np.random.default_rng(0), 0.5 * (1 + math.erf(shift / 2)), 0
    for _ in range(200):
        scores = [*rng.normal(shift, 1, 20), *rng.normal(0, 1, 40)]
        hits += contains(auroc(scores, [True] * 20 + [False] * 40), truth)
    assert 0.9 <= hits / 200 <= 1


def test_auroc_of_separated_scores_is_exactly_1() -> None:
    """The sum of trapezia misses 1 by a rounding in some of these, which no interval has an end for."""
    rng = random.Random(0)
    for _ in range(300):
        right = [False, True, *(rng.random() < 0.5 for _ in range(20))]
        scores = [7.5 + rng.randint(0, 3) / 2 if is_right else rng.randint(1, 6) for is_right in right]
        result = auroc(scores, right)
        assert (result.value, result.high) == (1, 1) and result.low > 0.5


def test_auroc_at_its_ends_and_with_items_of_one_kind() -> None:
    perfect = auroc([1, 2, 3, 4, 5, 6], [False] * 3 + [True] * 3)
    assert perfect.value == perfect.high == 1 and 0.2 < perfect.low < 0.9
    wrong = auroc([6, 5, 4, 3, 2, 1], [False] * 3 + [True] * 3)
    assert wrong.value == wrong.low == 0 and wrong.high == pytest.approx(1 - perfect.low)
    assert ends(auroc([1, 1, 1, 1], [True, False] * 2)) == pytest.approx((0.5, 0.112, 0.888), abs=1e-3)
    assert math.isnan(auroc([1, 2], [True, True]).value) and math.isnan(auroc([], []).value)


def test_the_interval_of_the_rank_correlation_contains_the_truth() -> None:
    rng, truth, hits = np.random.default_rng(0), 6 / math.pi * math.asin(0.6 / 2), 0
    for _ in range(200):
        x, y = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 40).T.tolist()
        hits += contains(rank_correlation(x, y), truth)
    assert 0.9 <= hits / 200 <= 1
    assert ends(rank_correlation([1, 2, 3, 4], [2, 4, 6, 8])) == pytest.approx((1, 1, 1))
    assert math.isnan(rank_correlation([1, 2, 3, 4], [5, 5, 5, 5]).value)
    assert math.isnan(rank_correlation([1, 2], [1, 2]).value)
