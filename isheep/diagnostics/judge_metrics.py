"""The metrics of judge calibration: scores of a judge beside other scores of the same pairs, and beside the truth."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from isheep.evaluation.statistics import Estimate, auroc, concordance, estimate, rank_correlation
from isheep.filters.base import FilterContext
from isheep.filters.score import ScoreFilter
from isheep.recipe.schema import RATING_SCALE, Recipe
from isheep.records import AssessedPair, Grade

# Mean scores by people: by the pair's id and criterion.
HumanScores = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class ScoreDistribution:
    """How often a judge gave each score (rounded, halves up). `unreadable` is the share of ratings without a score."""

    num_rated: int
    unreadable: Estimate
    mean: float | None
    standard_deviation: float | None
    histogram: dict[str, int]


@dataclass(frozen=True)
class RankComparison:
    """A judge's scores beside other numbers about the same pairs.

    `difference` is the mean of the judge's scores minus the other ones; None if those are not scores.
    """

    num_pairs: int
    rank_correlation: Estimate
    difference: Estimate | None = None


@dataclass(frozen=True)
class Agreement:
    """How well two ratings of the same pairs agree: shares of equal scores and of scores at most 1 apart."""

    num_pairs: int
    equal: Estimate
    within_1: Estimate
    concordance: Estimate


@dataclass(frozen=True)
class TruthMetrics:
    """How well scores tell right pairs from wrong ones, and which of them pass the recipe's score filters.

    Without a score filter `num_passing`, `precision` (right pairs of the passing ones) and `recall` (passing pairs of
    the right ones) are None.
    """

    num_pairs: int
    num_unreadable: int
    right: Estimate
    auroc: Estimate
    num_passing: int | None
    precision: Estimate | None
    recall: Estimate | None


# --- scores


def grades_by_criterion(pairs: Sequence[AssessedPair]) -> dict[str, list[Grade]]:
    return {name: [pair.grades[name] for pair in pairs] for name in (pairs[0].grades if pairs else ())}


def score_distribution(ratings: Sequence[float | None]) -> ScoreDistribution:
    """Return the distribution of the scores of ratings, None for those that could not be read."""
    import numpy as np

    scores = [score for score in ratings if score is not None]
    counts = Counter(math.floor(score + 0.5) for score in scores)
    return ScoreDistribution(
        num_rated=len(ratings),
        unreadable=estimate([score is None for score in ratings]),
        mean=float(np.mean(scores)) if scores else None,
        standard_deviation=float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        histogram={str(score): counts[score] for score in RATING_SCALE},
    )


def common_scores(
    first: Sequence[AssessedPair], second: Sequence[AssessedPair]
) -> dict[str, tuple[list[float], list[float]]]:
    """Return, by criterion, the scores of two ratings of the same pairs, for pairs that have both."""
    grades_of = {pair.id: pair.grades for pair in second}
    scores = {}
    for name in grades_by_criterion(first):
        scores[name] = _both([(pair.grades[name].score, grades_of[pair.id][name].score) for pair in first])
    return scores


# --- comparisons with other numbers


def compare_ratings(reference: Sequence[AssessedPair], own: Sequence[AssessedPair]) -> dict[str, RankComparison]:
    """Compare, by criterion, the run's own scores with other scores of the same pairs."""
    return {name: _compare(*scores) for name, scores in common_scores(reference, own).items()}


def compare_with_length(pairs: Sequence[AssessedPair]) -> dict[str, RankComparison]:
    """Correlate, by criterion, scores with the answers' tokens. Positive if a judge prefers long answers."""
    comparisons = {}
    for name, grades in grades_by_criterion(pairs).items():
        tokens, scores = _both([(pair.tokens, grade.score) for pair, grade in zip(pairs, grades, strict=True)])
        comparisons[name] = RankComparison(len(tokens), rank_correlation(tokens, scores))
    return comparisons


def compare_with_people(pairs: Sequence[AssessedPair], people: HumanScores) -> dict[str, RankComparison] | None:
    """Compare, by criterion, the judge with the mean of the people; None if people rated none of these pairs."""
    with_people = [pair for pair in pairs if pair.id in people]
    comparisons = {}
    for name, grades in grades_by_criterion(with_people).items():
        scores = [(people[pair.id].get(name), grade.score) for pair, grade in zip(with_people, grades, strict=True)]
        comparisons[name] = _compare(*_both(scores))
    return comparisons or None


def agreement(first: Sequence[float], second: Sequence[float]) -> Agreement:
    gaps = [abs(a - b) for a, b in zip(first, second, strict=True)]
    equal, near = estimate([gap == 0 for gap in gaps]), estimate([gap <= 1 for gap in gaps])
    return Agreement(len(gaps), equal, near, concordance(first, second))


def _compare(reference: Sequence[float], own: Sequence[float]) -> RankComparison:
    difference = estimate([b - a for a, b in zip(reference, own, strict=True)])
    return RankComparison(len(own), rank_correlation(reference, own), difference)


def _both(pairs: Sequence[tuple[float | None, float | None]]) -> tuple[list[float], list[float]]:
    """Return the two sides of the pairs that have both."""
    complete = [(a, b) for a, b in pairs if a is not None and b is not None]
    return [a for a, _ in complete], [b for _, b in complete]


# --- comparison with the truth


def passes_filters(recipe: Recipe, pairs: Sequence[AssessedPair]) -> list[bool] | None:
    """Return which of the pairs pass every score filter of the recipe, None if it has no score filter.

    A share of the best pairs is one of these pairs.
    """
    filters = [rule for rule in recipe.filters if isinstance(rule, ScoreFilter)]
    remaining = list(pairs)
    for rule in filters:
        dropped_ids = {id for id, _ in rule.reasons(remaining, FilterContext())}
        remaining = [pair for pair in remaining if pair.id not in dropped_ids]
    kept_ids = {pair.id for pair in remaining}
    return [pair.id in kept_ids for pair in pairs] if filters else None


def truth_metrics(recipe: Recipe, pairs: Sequence[AssessedPair], right: Sequence[bool]) -> TruthMetrics:
    """Measure how well the mean of the criteria tells right pairs from wrong ones, and what passes the filters.

    Pairs with an unreadable rating have no score: they are left out of the AUROC, and pass no threshold.
    """
    scores = [_mean_score(pair) for pair in pairs]
    scored = [(score, truth) for score, truth in zip(scores, right, strict=True) if score is not None]
    passes = passes_filters(recipe, pairs)
    has_threshold = passes is not None
    passing = list(zip(right, passes or [], strict=has_threshold))
    truth_of_passing = [truth for truth, passes_all in passing if passes_all]
    passing_of_right = [passes_all for truth, passes_all in passing if truth]
    return TruthMetrics(
        num_pairs=len(pairs),
        num_unreadable=len(pairs) - len(scored),
        right=estimate(right),
        auroc=auroc([score for score, _ in scored], [truth for _, truth in scored]),
        num_passing=len(truth_of_passing) if has_threshold else None,
        precision=estimate(truth_of_passing) if has_threshold else None,
        recall=estimate(passing_of_right) if has_threshold else None,
    )


def truth_by_people(recipe: Recipe, pairs: Sequence[AssessedPair], people: HumanScores) -> TruthMetrics | None:
    """Take the pairs whose ratings by people pass the recipe's score filters as right; None without either."""
    with_people = [pair for pair in pairs if pair.grades.keys() <= people.get(pair.id, {}).keys()]
    by_people = [
        pair.model_copy(
            update={"grades": {name: Grade(score=score, reply="") for name, score in people[pair.id].items()}}
        )
        for pair in with_people
    ]
    right = passes_filters(recipe, by_people)
    if not with_people or right is None:
        return None
    return truth_metrics(recipe, with_people, right)


def _mean_score(pair: AssessedPair) -> float | None:
    """Return the mean score over the criteria, None if a rating is unreadable."""
    scores = [grade.score for grade in pair.grades.values() if grade.score is not None]
    return sum(scores) / len(scores) if scores and len(scores) == len(pair.grades) else None
