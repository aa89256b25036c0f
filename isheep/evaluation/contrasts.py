"""Contrasts between the models of a sweep with random seeds: one family of tests over seeds, with Holm's correction.

For each seed, two models are compared on the same items; the test is Student's paired t over the seeds' differences.
Beside it stands the comparison over items of each seed, as `isheep compare` makes it for two runs.
"""

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from isheep.benchmarks import Result
from isheep.errors import UserError, excerpt, option
from isheep.evaluation.compare import choose_scores, fingerprint_conflict, paired_means, score_names
from isheep.evaluation.compute import ModelCost, mean_cost
from isheep.evaluation.power import ALPHA
from isheep.evaluation.seed_runs import SeedRun, SeedSweep
from isheep.evaluation.statistics import Comparison, compare, compare_over_seeds, correct_family, is_share

# Reasons that an error lists.
MAX_LISTED = 2


class SettingModel(NamedTuple):
    """M^iteration of a setting, the result of each run for None; `str` gives SETTING@ITERATION, or SETTING."""

    setting: str
    iteration: int | None = None

    def __str__(self) -> str:
        return self.setting if self.iteration is None else f"{self.setting}@{self.iteration}"


class Contrast(NamedTuple):
    """A comparison that a claim declares: `after` minus `before`; `str` gives BEFORE:AFTER."""

    before: SettingModel
    after: SettingModel

    def __str__(self) -> str:
        return f"{self.before}:{self.after}"


class ModelPair(NamedTuple):
    """The two sides of a contrast with one random seed: the runs, the iterations, and the results by benchmark."""

    runs: tuple[SeedRun, SeedRun]
    iterations: tuple[int, int]
    results: tuple[dict[str, Result], dict[str, Result]]


@dataclass(frozen=True)
class ContrastScore:
    """A score in a contrast, over the random seeds for which both sides have it.

    `scores` holds the means of the two sides by seed, over the items that both can be read for. `over_seeds` is the
    test over the seeds' differences, and `costs` holds the mean costs of the models. `part` is that of a benchmark's
    items that was asked, which is in `benchmark`, too.
    """

    contrast: Contrast
    benchmark: str
    part: str
    score: str
    is_share: bool
    seeds: list[int]
    scores: tuple[list[float], list[float]]
    over_seeds: Comparison
    costs: tuple[ModelCost, ModelCost]
    results: list[tuple[Result, Result]]

    @property
    def full_name(self) -> str:
        return f"{self.benchmark} {self.score}"

    @property
    def names(self) -> list[str]:
        """The names of the score for `--score`."""
        return score_names(self.benchmark, self.score, self.part)

    @property
    def values(self) -> Hashable:
        """What is tested: the items of both sides for each seed. Scores that are equal in all of them are one test."""
        pairs = ((before.scores[self.score], after.scores[self.score]) for before, after in self.results)
        return tuple((tuple(a.items), tuple(b.items)) for a, b in pairs)

    @cached_property
    def over_items(self) -> list[Comparison]:
        """The comparison over items of each seed; sign flips of numbers take about half a second."""
        pairs = ((before.scores[self.score], after.scores[self.score]) for before, after in self.results)
        return [compare(a.items, b.items, a.clusters, a.unit or b.unit) for a, b in pairs]


class ContrastFamily(NamedTuple):
    """Contrasts with their scores, which are one family: `corrected_p` holds their p corrected for `num_tests` tests.

    `left_out` has a line about each run, score and contrast that could not be compared, with the reason.
    """

    contrasts: list[Contrast]
    scores: list[ContrastScore]
    corrected_p: list[float]
    num_tests: int
    left_out: list[str]

    @property
    def alpha(self) -> float:
        """The level of one test if all of them together have 5%, at which detectable differences are computed."""
        return ALPHA / max(1, self.num_tests)


# --- which contrasts


def baseline_contrasts(sweep: SeedSweep, baseline: str, iterations: Sequence[int] = ()) -> list[Contrast]:
    """Return the contrasts of every other setting with the setting `baseline`, at the same iterations.

    Without iterations, the results are compared. Raises UserError if there is no such setting.
    """
    sweep.runs_of(baseline)
    return [
        Contrast(SettingModel(baseline, iteration), SettingModel(setting, iteration))
        for iteration in _or_result(iterations)
        for setting in sweep.settings
        if setting != baseline
    ]


def within_contrasts(sweep: SeedSweep, iterations: Sequence[int] = ()) -> list[Contrast]:
    """Return the contrasts of some iterations of each setting, or of its result, with its base and its iteration 1."""
    contrasts = []
    for setting in sweep.settings:
        num_iterations = sweep.num_iterations(setting)
        for iteration in _or_result(iterations):
            last = num_iterations if iteration is None else iteration
            # Iteration 1 has nothing but the base before it, and the base has nothing.
            earlier = [0, 1] if last > 1 else [0] if iteration != 0 else []
            contrasts += [Contrast(SettingModel(setting, t), SettingModel(setting, iteration)) for t in earlier]
    return contrasts


def _or_result(iterations: Sequence[int]) -> Sequence[int | None]:
    return iterations or [None]


def parse_contrast(text: str, sweep: SeedSweep) -> Contrast:
    """Return the contrast that a text BEFORE:AFTER declares: settings, or SETTING@ITERATION, where 0 is the base.

    Raises UserError for another text, for a setting or an iteration that the sweep does not have, and for a model and
    itself.
    """
    sides = text.split(":")
    if len(sides) != 2:
        example = ":".join((sweep.settings * 2)[:2])
        raise UserError(
            f"{option('contrast')} {excerpt(text)}: write BEFORE:AFTER, such as {example}, or SETTING@0:SETTING"
        )
    before, after = (_parse_model(side, sweep) for side in sides)
    if before == after:
        raise UserError(f"{option('contrast')} {excerpt(text)}: the two are the same model")
    return Contrast(before, after)


def _parse_model(text: str, sweep: SeedSweep) -> SettingModel:
    setting, at, number = text.partition("@")
    sweep.runs_of(setting)
    if not at:
        return SettingModel(setting)
    if not number.isdecimal() or int(number) > max(sweep.num_iterations(setting), 1):
        last = sweep.num_iterations(setting)
        raise UserError(
            f"{option('contrast')}: {setting} has no iteration {excerpt(number)}: give 0 (the base) to {last}"
        )
    return SettingModel(setting, int(number))


# --- their tests


def compare_contrasts(sweep: SeedSweep, contrasts: Sequence[Contrast], names: Sequence[str] = ()) -> ContrastFamily:
    """Test contrasts over the random seeds, all together one family.

    `names` limits the scores ("right", or "lamb right"), and with them the family. Raises UserError if nothing can be
    compared, or if the two sides of a contrast were asked other items.
    """
    contrasts = list(dict.fromkeys(contrasts))
    scores: list[ContrastScore] = []
    left_out: list[str] = []
    for contrast in contrasts:
        pairs = dict(_model_pairs(sweep, contrast, left_out))
        scores += _contrast_scores(contrast, pairs, left_out)
    if not scores:
        more = f", and {len(left_out) - MAX_LISTED} more" if len(left_out) > MAX_LISTED else ""
        reasons = "; ".join(left_out[:MAX_LISTED]) or "there is no contrast"
        raise UserError(f"{sweep.path}: nothing can be compared yet: {reasons}{more}")
    scores = choose_scores(scores, names)
    tests = [(score.values, score.over_seeds.p) for score in scores]
    return ContrastFamily(contrasts, scores, *correct_family(tests), left_out)


def _model_pairs(sweep: SeedSweep, contrast: Contrast, left_out: list[str]) -> Iterator[tuple[int, ModelPair]]:
    """Yield the two sides of a contrast by random seed; add a line to `left_out` for each seed that lacks one."""
    pairs = zip(sweep.runs_of(contrast.before.setting), sweep.runs_of(contrast.after.setting), strict=True)
    for before, after in pairs:
        sides = [_find_model(run, model) for run, model in ((before, contrast.before), (after, contrast.after))]
        if reasons := [side for side in sides if isinstance(side, str)]:
            left_out.append(f"{contrast}, random seed {before.seed}: {'; '.join(dict.fromkeys(reasons))}")
            continue
        (first, a), (second, b) = (side for side in sides if not isinstance(side, str))
        yield before.seed, ModelPair((before, after), (first, second), (a, b))


def _find_model(run: SeedRun, model: SettingModel) -> tuple[int, dict[str, Result]] | str:
    """Return the iteration of a model of a run and its results, or the reason why it has none."""
    iteration = run.iteration_of(model.iteration)
    if iteration is not None and run.results.get(iteration):
        return iteration, run.results[iteration]
    label = "" if iteration is None else f", iteration {iteration}" if iteration else ", the base"
    state = f"it is {run.state} ({run.reason})" if run.state != "finished" else "it has no scores of such a model"
    return f"{run.name}{label}: {state}"


def _contrast_scores(contrast: Contrast, pairs: dict[int, ModelPair], left_out: list[str]) -> Iterator[ContrastScore]:
    """Yield the scores of a contrast over the seeds for which both sides have them on as many items."""
    results = [result for pair in pairs.values() for result in pair.results]
    for benchmark in dict.fromkeys(name for result in results for name in result):
        with_benchmark = {
            seed: (pair.results[0][benchmark], pair.results[1][benchmark])
            for seed, pair in pairs.items()
            if all(benchmark in result for result in pair.results)
        }
        if reason := fingerprint_conflict([result for sides in with_benchmark.values() for result in sides]):
            raise UserError(f"{contrast}, {benchmark}: {reason}, so that they can't be compared: score all anew")
        names = (name for result in results if benchmark in result for name in result[benchmark].scores)
        for name in dict.fromkeys(names):
            usable = {seed: sides for seed, sides in with_benchmark.items() if _means(sides, name)}
            if lacking := [str(seed) for seed in pairs if seed not in usable]:
                why = f"one side lacks it, or has another number of items, for random seed {', '.join(lacking)}"
                left_out.append(f"{contrast}, {benchmark} {name}: {why}")
            if usable:
                yield _contrast_score(contrast, benchmark, name, usable, pairs)


def _means(sides: tuple[Result, Result], name: str) -> tuple[float, float] | None:
    """Return the means of a score on the two sides; None if one lacks it, or if they have no items in common."""
    if not all(name in side.scores for side in sides):
        return None
    before, after = (side.scores[name] for side in sides)
    if len(before.items) != len(after.items):
        return None
    means = paired_means(before, after)
    return None if any(map(math.isnan, means)) else means


def _contrast_score(
    contrast: Contrast,
    benchmark: str,
    name: str,
    results: dict[int, tuple[Result, Result]],
    pairs: dict[int, ModelPair],
) -> ContrastScore:
    sides = list(results.values())
    scores = [side.scores[name] for pair in sides for side in pair]
    share = all(is_share(score.items, score.unit) for score in scores)
    means = [_means(pair, name) or (math.nan, math.nan) for pair in sides]
    before, after = [mean[0] for mean in means], [mean[1] for mean in means]
    used = [pairs[seed] for seed in results]
    costs = [mean_cost([pair.runs[side].cost(pair.iterations[side]) for pair in used]) for side in (0, 1)]
    return ContrastScore(
        contrast,
        benchmark,
        sides[0][0].part,
        name,
        share,
        list(results),
        (before, after),
        compare_over_seeds(before, after, share),
        (costs[0], costs[1]),
        sides,
    )
