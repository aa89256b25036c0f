"""The four quadrants of the paper's Table 6: pairs that pass the threshold of both criteria, of one, or of neither."""

import random
from array import array
from dataclasses import dataclass

from isheep.filters.score import ScoreFilter
from isheep.records import AssessedPair
from isheep.report.run_data import IterationData

# The paper's Figure 3 counts scores greater than 8; it serves where a recipe has no threshold of its own.
PAPER_RULE = ScoreFilter(above=8)
# Whether the pairs of a quadrant pass by each of the two criteria, in the order of Table 6.
QUADRANTS = ((False, False), (True, False), (False, True), (True, True))


@dataclass(frozen=True)
class Quadrant:
    """The pairs of an iteration that pass, or do not pass, the threshold of each of two criteria.

    `passes` says for each criterion whether the pairs pass; `limits` are the values between passing and not passing on
    a scale of whole scores; `total` counts the pairs with two readable ratings; `example` is drawn at random.
    """

    iteration: int
    criteria: tuple[str, str]
    passes: tuple[bool, bool]
    limits: tuple[float, float]
    thresholds: str
    count: int
    total: int
    example: AssessedPair | None

    @property
    def label(self) -> str:
        """The quadrant in the words of the paper's Table 6: "good quality, poor following"."""
        words = ("good" if passing else "poor" for passing in self.passes)
        return ", ".join(f"{word} {criterion}" for word, criterion in zip(words, self.criteria, strict=True))


def quadrants(iteration: IterationData) -> list[Quadrant]:
    """Return the four quadrants of an iteration whose pairs are rated by two criteria, in the paper's order."""
    first, second = iteration.criteria
    rules = [passing_rule(iteration.score_filter(name)) for name in (first, second)]
    # The places of the pairs, because the pairs themselves may not fit into memory.
    members: dict[tuple[bool, bool], array[int]] = {passes: array("Q") for passes in QUADRANTS}
    for index, pair in enumerate(iteration.assessed):
        if any(grade.score is None for grade in pair.grades.values()):
            continue
        verdicts = [
            rule.reason_against({name: pair.grades[name]}) is None
            for rule, name in zip(rules, (first, second), strict=True)
        ]
        members[verdicts[0], verdicts[1]].append(index)
    total = sum(map(len, members.values()))
    words = [f"{name} {threshold_words(rule)}" for rule, name in zip(rules, (first, second), strict=True)]
    return [
        Quadrant(
            iteration.number,
            (first, second),
            passes,
            (_limit(rules[0]), _limit(rules[1])),
            ", ".join(words),
            len(members[passes]),
            total,
            iteration.assessed[random.Random(iteration.number).choice(members[passes])] if members[passes] else None,
        )
        for passes in QUADRANTS
    ]


def passing_rule(rule: ScoreFilter | None) -> ScoreFilter:
    """Return the threshold of a criterion without its list of criteria; the paper's if the recipe has no threshold."""
    if rule is None or rule.best is not None:
        return PAPER_RULE
    return rule.model_copy(update={"criteria": None})


def threshold_words(rule: ScoreFilter) -> str:
    """Return a threshold in words: "at least 8", "above 8"."""
    return f"at least {rule.at_least:g}" if rule.at_least is not None else f"above {rule.above:g}"


def _limit(rule: ScoreFilter) -> float:
    """Return the value between the whole scores that pass and those that do not."""
    return rule.at_least - 0.5 if rule.at_least is not None else (rule.above or 0) + 0.5
