"""The tests of the claims over random seeds, corrected together, and the verdict on each claim."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from isheep.evaluation.compute import ModelCost, mean_cost
from isheep.evaluation.contrasts import Contrast, SettingModel, parse_contrast
from isheep.evaluation.power import ALPHA
from isheep.evaluation.seed_runs import SeedSweep
from isheep.evaluation.statistics import Comparison, compare_over_seeds, correct_family
from isheep.report.claims.declared import Claim, contrast_settings
from isheep.report.claims.measures import is_share, measure_model

Verdict = Literal["holds", "does not hold", "can't be told", "not tested"]


class ClaimTest(NamedTuple):
    """A contrast over the random seeds that both sides have, with its p corrected for all tests of all claims.

    `costs` are the mean costs of the models of both sides.
    """

    contrast: Contrast
    seeds: list[int]
    values: tuple[list[float], list[float]]
    comparison: Comparison
    costs: tuple[ModelCost, ModelCost]
    corrected_p: float = math.nan


class ClaimResult(NamedTuple):
    """A claim, its tests and its verdict; `missing` says for each contrast without a test what is missing."""

    claim: Claim
    tests: list[ClaimTest]
    missing: list[str]
    verdict: Verdict


class ClaimResults(NamedTuple):
    """The results of all claims, and the number of tests that were corrected together."""

    results: list[ClaimResult]
    num_tests: int

    @property
    def alpha(self) -> float:
        """The level of one test if all of them together have 5%, at which detectable differences are computed."""
        return ALPHA / max(1, self.num_tests)


def judge_claims(claims: Sequence[Claim], sweep: SeedSweep, margin: float) -> ClaimResults:
    """Test all claims whose settings the sweep has, as one family.

    `margin` is the smallest difference that counts, for claims without a margin of their own.
    """
    claim_tests = [measure_claim(claim, sweep) for claim in claims]
    tests = [test for tests_of_claim, _ in claim_tests for test in tests_of_claim]
    keys = [((tuple(test.values[0]), tuple(test.values[1])), test.comparison.p) for test in tests]
    corrected_p_values, num_tests = correct_family(keys)
    p_values = iter(corrected_p_values)
    results = []
    for claim, (tests_of_claim, missing) in zip(claims, claim_tests, strict=True):
        tests_of_claim = [test._replace(corrected_p=next(p_values)) for test in tests_of_claim]
        claim_margin = margin if claim.margin is None else claim.margin
        results.append(ClaimResult(claim, tests_of_claim, missing, decide(claim, tests_of_claim, claim_margin)))
    return ClaimResults(results, num_tests)


def measure_claim(claim: Claim, sweep: SeedSweep) -> tuple[list[ClaimTest], list[str]]:
    """Return the tests of a claim, and a line for each contrast that can't be tested."""
    tests, missing = [], []
    for text in claim.contrasts:
        absent_settings = [name for name in contrast_settings(text) if name not in sweep.settings]
        if absent_settings:
            missing.append(f"{text}: the sweep has no setting {', '.join(absent_settings)}")
            continue
        contrast = parse_contrast(text, sweep)
        sides = [_values(sweep, model, claim.measure) for model in contrast]
        seeds = sorted(sides[0].keys() & sides[1].keys())
        if absent_seeds := [str(seed) for seed in sweep.seeds if seed not in seeds]:
            missing.append(f"{text}: no {claim.measure} for random seed {', '.join(absent_seeds)}")
        if seeds:
            before, after = ([side[seed] for seed in seeds] for side in sides)
            costs = tuple(_mean_cost(sweep, model, seeds) for model in contrast)
            comparison = compare_over_seeds(before, after, is_share(claim.measure))
            tests.append(ClaimTest(contrast, seeds, (before, after), comparison, (costs[0], costs[1])))
    return tests, missing


def decide(claim: Claim, tests: Sequence[ClaimTest], margin: float) -> Verdict:
    """Return the verdict on a claim by the rule in claims.yaml. A contrast without a test leaves it open."""
    if not tests:
        return "not tested"
    is_complete = len(tests) == len(claim.contrasts)
    if claim.expect == "same":
        return _decide_same(tests, margin, is_complete)
    return _decide_better(tests, margin, is_complete)


def _decide_same(tests: Sequence[ClaimTest], margin: float, is_complete: bool) -> Verdict:
    if any(_is_significant(test) and abs(test.comparison.difference) > margin for test in tests):
        return "does not hold"
    if is_complete and all(_is_within(test, margin) for test in tests):
        return "holds"
    return "can't be told"


def _decide_better(tests: Sequence[ClaimTest], margin: float, is_complete: bool) -> Verdict:
    if any(_is_no_gain(test, margin) for test in tests):
        return "does not hold"
    if is_complete and all(_is_significant(test) and test.comparison.difference > 0 for test in tests):
        return "holds"
    return "can't be told"


def _is_significant(test: ClaimTest) -> bool:
    return test.corrected_p < ALPHA


def _is_within(test: ClaimTest, margin: float) -> bool:
    """Return whether the interval lies within the margin, or every seed has the same value on both sides.

    Settings that keep the same pairs give the same models; such differences have no interval.
    """
    return test.values[0] == test.values[1] or (-margin < test.comparison.low and test.comparison.high < margin)


def _is_no_gain(test: ClaimTest, margin: float) -> bool:
    """Return whether a contrast is clearly below 0, or its interval ends below the margin."""
    is_below = _is_significant(test) and test.comparison.difference < 0
    return is_below or test.comparison.high < margin


def _values(sweep: SeedSweep, model: SettingModel, measure: str) -> dict[int, float]:
    """Return a measure of a model by random seed, for the runs that have it."""
    values = {run.seed: measure_model(run, model.iteration or 0, measure) for run in sweep.runs_of(model.setting)}
    return {seed: value for seed, value in values.items() if value is not None}


def _mean_cost(sweep: SeedSweep, model: SettingModel, seeds: Sequence[int]) -> ModelCost:
    return mean_cost([run.cost(model.iteration or 0) for run in sweep.runs_of(model.setting) if run.seed in seeds])
