"""When a run ends: after its last iteration, or when its stop rule finds that iterations bring no gain any more."""

from collections.abc import Sequence
from typing import NamedTuple

from isheep.benchmarks import validation_part
from isheep.errors import UserError
from isheep.evaluation.statistics import upper_bound
from isheep.recipe.evaluation import StopRule
from isheep.recipe.schema import Recipe
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import iteration_dir, load_validation_score
from isheep.rundir.validation_scores import ValidationScore

# Points below which a difference is rounding.
ROUNDING = 1e-9


class GainTest(NamedTuple):
    """The comparison of the newest model with the best one on a validation part. Gains are in points.

    `best` and `newest` are iterations. `gain` is the difference of their means, `bound` the upper end of a one-sided
    interval of the gain, and `wanted` the gain that is worth going on for: the recipe's `gain` for each iteration since
    the best one.
    """

    best: int
    newest: int
    gain: float
    bound: float
    wanted: float
    is_over: bool


def is_last_iteration(recipe: Recipe, run: RunFolder, t: int) -> bool:
    """Return whether M^t is a run's last model, because it is M^T or because the stop rule ends the run.

    Reads the validation results that `evaluate` wrote.
    """
    if not recipe.stop_rule or t == recipe.iterations:
        return t == recipe.iterations
    test = run_gain_test(recipe, run, t)
    return test is not None and test.is_over


def last_iteration(recipe: Recipe, run: RunFolder) -> int:
    """Return T, or the iteration at which the recipe's `stop` ends the run by the scores that it has."""
    return next(iteration for iteration in range(recipe.iterations + 1) if is_last_iteration(recipe, run, iteration))


def is_unfinished(recipe: Recipe, run: RunFolder) -> bool:
    """Return whether a model up to the last iteration, or a score of one, is still missing."""
    folders = [iteration_dir(run, iteration) for iteration in range(last_iteration(recipe, run) + 1)]
    results = [f"eval/{benchmark.label}.json" for benchmark in recipe.evaluation]
    has_models = all(folder.has("adapter") for folder in folders[1:])
    return not (has_models and all(folder.has(result) for folder in folders for result in results))


def run_gain_test(recipe: Recipe, run: RunFolder, t: int) -> GainTest | None:
    """Return the test of the stop rule after iteration t; None for the base, or if a model has no validation score."""
    rule = recipe.stop_rule
    assert rule
    scores = [load_validation_score(recipe, run, iteration) for iteration in range(t + 1)]
    complete = [score for score in scores if score and score.mean is not None]
    if t == 0 or len(complete) < len(scores):
        return None
    if len({len(score.items) for score in complete}) > 1:
        raise UserError(
            f"{run.path}: the models were scored on different numbers of items of {rule.benchmark}'s validation "
            "part: delete the folders validation in it to have them scored again"
        )
    return find_gain_test(complete, rule, validation_part(rule).largest)


def find_gain_test(scores: Sequence[ValidationScore], stop: StopRule, largest: float = 1.0) -> GainTest:
    """Return whether the gains of M^0, M^1, ... are over after the last of them, by their values on the same items.

    They are not over while the last model is the best. Otherwise it is compared with the best one, s iterations before
    it, item by item. If every iteration gained `stop.gain` points, it would be s times that much better. The gains are
    over if this is refuted: if the upper bound of its gain, at the one-sided `stop.confidence`, is not above it, and s
    is `stop.patience` or more. `largest` is the largest value of the score, 100 points.
    """
    means = [score.mean or 0.0 for score in scores]
    newest, best = len(means) - 1, means.index(max(means))
    before, after = scores[best], scores[newest]
    num_iterations, point = newest - best, largest / 100
    bound = upper_bound(before.items, after.items, before.clusters, stop.confidence) / point
    wanted = num_iterations * stop.gain
    is_over = num_iterations >= stop.patience and bound - wanted < ROUNDING
    return GainTest(best, newest, (means[newest] - means[best]) / point, bound, wanted, is_over)


def describe_stop(recipe: Recipe, test: GainTest) -> str:
    """Return why the stop rule ended a run: the comparison with its figures."""
    rule = recipe.stop_rule
    assert rule
    base = "the base" if test.best == 0 else f"iteration {test.best}"
    part = f"{rule.benchmark}'s validation part"
    return (
        f"stopped after iteration {test.newest} of {recipe.iterations}: on {part} it is {test.gain:+.1f} points from "
        f"{base}, the best so far, and with a confidence of {rule.confidence:.0%} not above {test.bound:+.1f}; "
        f"{test.wanted:+g} would be worth going on for (stop.gain)"
    )
