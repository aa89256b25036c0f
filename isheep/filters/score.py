"""Keep the pairs that the judge rated high enough."""

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Annotated, Literal

from pydantic import Field, model_validator

from isheep.errors import Conflicts
from isheep.filters.base import FilterContext, FilterSettings, Need, Reasons, RecipeFacts, grades_of
from isheep.records import Grade, Names, Pair

MAX_SCORE = 10


class ScoreFilter(FilterSettings):
    """Keep a pair if its ratings reach the threshold C: `at_least` (Algorithm 1) or `above` (Figure 3); or keep the
    `best` share of the pairs, for judges whose scale is off.
    """

    kind: Literal["score"] = "score"
    """Which filter this is."""
    at_least: float | None = None
    """The lowest score that passes (Algorithm 1). Give one of `at_least`, `above` and `best`."""
    above: float | None = None
    """The highest score that does not pass (Figure 3: "greater than 8")."""
    best: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The share of the pairs with readable ratings that is kept: those with the highest mean rating over the criteria.
    Of equal ratings the one with the higher expected score comes first (`read: constrained`), then the earlier pair."""
    criteria: Names | None = None
    """The criteria that count; null: every criterion of the assessment (Table 4)."""

    @model_validator(mode="after")
    def has_one_threshold(self) -> "ScoreFilter":
        """Raise ValueError unless exactly one of the three is set."""
        values = {name: value for name in ("at_least", "above", "best") if (value := getattr(self, name)) is not None}
        if len(values) != 1:
            thresholds = " and ".join(f"{name}: {value:g}" for name, value in values.items()) or "none of them"
            raise ValueError(
                f"give exactly one of at_least, above and best, and null for the others; found {thresholds}"
            )
        return self

    @property
    def needs(self) -> frozenset[Need]:
        """The ratings."""
        return frozenset({"ratings"})

    @property
    def expected_share(self) -> float:
        """The share that is kept, if it is given; or the share that the authors' released data for the 72B model keep:
        2038, 3102 and 3407 of 10,000 pairs."""
        return self.best or 0.3

    def reasons(self, pairs: Iterable[Pair], context: FilterContext) -> Reasons:
        """Yield the pairs whose ratings do not pass, with words such as "quality 3 < 8" or "following unreadable"."""
        if self.best is not None:
            yield from self._reasons_by_rank(pairs, self.best)
            return
        for pair in pairs:
            if why := self.reason_against(grades_of(pair)):
                yield pair.id, why

    def _reasons_by_rank(self, pairs: Iterable[Pair], share: float) -> Reasons:
        """Yield the pairs that are not among the best. A pair without a readable rating has no rank."""
        ranking: list[tuple[float, float, int, str]] = []
        for position, pair in enumerate(pairs):
            grades = grades_of(pair)
            if why := self.reason_against(grades):
                yield pair.id, why
                continue
            rated = [grades[name] for name in self.criteria or grades]
            scores = [grade.score for grade in rated if grade.score is not None]
            expected = [grade.score if grade.expected is None else grade.expected for grade in rated]
            mean_expected = fmean(value for value in expected if value is not None)
            ranking.append((-fmean(scores), -mean_expected, position, pair.id))
        ranking.sort()
        num_kept = max(1, round(share * len(ranking)))
        for rank, (negative_score, _, _, id) in enumerate(ranking[num_kept:], num_kept + 1):
            yield id, f"rating {-negative_score:g} is number {rank} of {len(ranking)}, and the best {num_kept} are kept"

    def reason_against(self, grades: Mapping[str, Grade]) -> str | None:
        """Return why ratings are unreadable or do not reach the threshold, or None if they do."""
        for name in self.criteria or grades or ("rating",):
            value = grades[name].score if name in grades else None
            if value is None:
                return f"{name} unreadable" if name in grades else f"{name} missing"
            if self.at_least is not None and value < self.at_least:
                return f"{name} {value:g} < {self.at_least:g}"
            if self.above is not None and value <= self.above:
                return f"{name} {value:g} <= {self.above:g}"
        return None

    def conflicts(self, facts: RecipeFacts) -> Conflicts:
        """Yield criteria that are not rated, and thresholds that no score reaches."""
        if facts.criteria is None:
            yield (), "a score filter needs an assessment, and this recipe has none"
            return
        for name in self.criteria or ():
            if name not in facts.criteria:
                yield ("criteria",), f"{name!r} is not rated, only {', '.join(facts.criteria)}"
        if self.at_least is not None and self.at_least > MAX_SCORE:
            yield ("at_least",), f"no score reaches {self.at_least:g}: scores are 1 to {MAX_SCORE}"
        if self.above is not None and self.above >= MAX_SCORE:
            yield ("above",), f"no score is above {self.above:g}: scores are 1 to {MAX_SCORE}"
