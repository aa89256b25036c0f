"""The figures of judge-health: a judge's scores held against something. Estimates are [value, low, high], 95%."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from isheep.evaluation.statistics import auroc, concordance, estimate, rank_correlation
from isheep.filters.score import ScoreFilter
from isheep.recipe.schema import RATING_SCALE, Recipe
from isheep.records import AssessedPair, Grade

Graded = Sequence[AssessedPair]
Found = dict[str, Any]  # a part of health.json


def by_criterion(rows: Graded) -> dict[str, list[Grade]]:
    return {name: [row.grades[name] for row in rows] for name in (rows[0].grades if rows else ())}


def distribution(grades: Sequence[Grade]) -> Found:
    """How often each score is given, halves rounded up; what can't be read is counted apart."""
    import numpy as np

    scores = [grade.score for grade in grades if grade.score is not None]
    counts = Counter(math.floor(score + 0.5) for score in scores)
    return {
        "rated": len(grades),
        "unreadable": estimate([grade.score is None for grade in grades]),
        "mean": float(np.mean(scores)) if scores else None,
        "deviation": float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        "histogram": {str(score): counts[score] for score in RATING_SCALE},
    }


def scores_of_both(one: Graded, other: Graded) -> dict[str, tuple[list[float], list[float]]]:
    """By criterion the scores of two ratings of the same rows, where both can be read."""
    there = {row.id: row.grades for row in other}
    found = {}
    for name in by_criterion(one):
        grades = [(row.grades[name].score, there[row.id][name].score) for row in one]
        known = [(a, b) for a, b in grades if a is not None and b is not None]
        found[name] = ([a for a, _ in known], [b for _, b in known])
    return found


def compared(one: Graded, ours: Graded) -> dict[str, Found]:
    """By criterion: how the run's scores rank beside others of the same pairs, and how much higher they are."""
    return {name: _beside(*some) for name, some in scores_of_both(one, ours).items()}


def _beside(one: Sequence[float], ours: Sequence[float]) -> Found:
    ranks, higher = rank_correlation(one, ours), estimate([b - a for a, b in zip(one, ours, strict=True)])
    return {"pairs": len(one), "rank correlation": ranks, "difference": higher}


def with_length(graded: Graded) -> dict[str, Found]:
    """By criterion: how scores rank with the answers' tokens. A judge that likes long answers has a positive one."""
    found = {}
    for name, grades in by_criterion(graded).items():
        both = [(row.tokens, grade.score) for row, grade in zip(graded, grades, strict=True)]
        known = [(tokens, score) for tokens, score in both if score is not None]
        ranks = rank_correlation([tokens for tokens, _ in known], [score for _, score in known])
        found[name] = {"pairs": len(known), "rank correlation": ranks}
    return found


def with_people(graded: Graded, people: Mapping[str, Mapping[str, float]]) -> dict[str, Found] | None:
    """By criterion: the judge beside the mean of the people; None where nobody rated a pair of these."""
    asked = [row for row in graded if row.id in people]
    found = {}
    for name, grades in by_criterion(asked).items():
        both = [(people[row.id].get(name), grade.score) for row, grade in zip(asked, grades, strict=True)]
        known = [(a, b) for a, b in both if a is not None and b is not None]
        found[name] = _beside([a for a, _ in known], [b for _, b in known])
    return found or None


def agreement(one: Sequence[float], other: Sequence[float]) -> Found:
    apart = [abs(a - b) for a, b in zip(one, other, strict=True)]
    equal, near = estimate([gap == 0 for gap in apart]), estimate([gap <= 1 for gap in apart])
    return {"pairs": len(one), "equal": equal, "within 1": near, "concordance": concordance(one, other)}


# --- scores held against the truth


def passed(recipe: Recipe, grades: Mapping[str, Grade]) -> bool | None:
    """Whether ratings pass every score filter of the recipe; None where it has none."""
    filters = [one for one in recipe.filters if isinstance(one, ScoreFilter)]
    return all(one.reason_against(grades) is None for one in filters) if filters else None


def against_truth(recipe: Recipe, rows: Graded, right: Sequence[bool]) -> Found:
    """How well the mean of the criteria tells right rows from wrong ones, and what the threshold keeps of each.

    Rows with an unreadable rating have no score: they are left out of the AUROC, and pass no threshold.
    """
    known = [(mean, truth) for row, truth in zip(rows, right, strict=True) if (mean := _mean(row)) is not None]
    passes = [passed(recipe, row.grades) for row in rows]
    chosen = [truth for truth, passing in zip(right, passes, strict=True) if passing]
    found = [bool(passing) for truth, passing in zip(right, passes, strict=True) if truth]
    threshold = None not in passes
    return {
        "pairs": len(rows),
        "unreadable": len(rows) - len(known),
        "right": estimate(right),
        "auroc": auroc([mean for mean, _ in known], [truth for _, truth in known]),
        "passing": len(chosen) if threshold else None,
        "precision": estimate(chosen) if threshold else None,
        "recall": estimate(found) if threshold else None,
    }


def _mean(row: AssessedPair) -> float | None:
    scores = [grade.score for grade in row.grades.values()]
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if known and len(known) == len(scores) else None


def of_people(recipe: Recipe, graded: Graded, people: Mapping[str, Mapping[str, float]]) -> Found:
    """What people would keep at the recipe's threshold, as the truth."""
    rows = [row for row in graded if row.grades.keys() <= people.get(row.id, {}).keys()]
    would = [{name: Grade(score=score, reply="") for name, score in people[row.id].items()} for row in rows]
    right = [passed(recipe, grades) for grades in would]
    return {"people": against_truth(recipe, rows, [bool(one) for one in right])} if rows and None not in right else {}
