"""Keep the pairs that the judge rated high enough."""

from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import model_validator

from isheep.errors import Conflicts
from isheep.filters.base import FilterContext, FilterSettings, Need, Reasons, RecipeFacts, grades_of
from isheep.records import Grade, Names, Pair

MAX_SCORE = 10


class ScoreFilter(FilterSettings):
    """Keep a pair if its ratings reach the threshold C: `at_least` (Algorithm 1) or `above` (Figure 3)."""

    kind: Literal["score"] = "score"
    """Which filter this is."""
    at_least: float | None = None
    """The lowest score that passes (Algorithm 1). Give either this or `above`."""
    above: float | None = None
    """The highest score that does not pass (Figure 3: "greater than 8")."""
    criteria: Names | None = None
    """The criteria that must reach the threshold; null: every criterion of the assessment (Table 4)."""

    @model_validator(mode="after")
    def has_one_threshold(self) -> "ScoreFilter":
        """Raise ValueError unless exactly one of the two thresholds is set."""
        if (self.at_least is None) == (self.above is None):
            raise ValueError("give exactly one of at_least and above")
        return self

    @property
    def needs(self) -> frozenset[Need]:
        """The ratings."""
        return frozenset({"ratings"})

    @property
    def expected_share(self) -> float:
        """The share that the authors' released data for the 72B model keep: 2038, 3102 and 3407 of 10,000 pairs."""
        return 0.3

    def reasons(self, pairs: Iterable[Pair], context: FilterContext) -> Reasons:
        """Yield the pairs whose ratings do not pass."""
        for pair in pairs:
            if why := self.reason_against(grades_of(pair)):
                yield pair.id, why

    def reason_against(self, grades: Mapping[str, Grade]) -> str | None:
        """Return why ratings do not pass ("quality 3 < 8", "following unreadable"), or None if they pass."""
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
