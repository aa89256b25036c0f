"""Keep pairs drawn at random: the control for a filter that chooses."""

from collections.abc import Iterable
from typing import Literal

from pydantic import model_validator

from isheep.batching import derive_seed
from isheep.errors import Conflicts
from isheep.filters.base import FilterContext, FilterSettings, Need, Reasons, RecipeFacts
from isheep.filters.score import ScoreFilter
from isheep.records import Count, Pair, first_turn_id


class RandomFilter(FilterSettings):
    """Keep pairs drawn at random: a fixed number, or as many as a score filter would keep here (a control)."""

    kind: Literal["random"] = "random"
    """Which filter this is."""
    keep: Count | None = None
    """The number of pairs kept. Give either this or `as_many_as`."""
    as_many_as: ScoreFilter | None = None
    """A score filter; as many pairs are kept as it would keep."""

    @model_validator(mode="after")
    def has_one_number(self) -> "RandomFilter":
        """Raise ValueError unless exactly one of the two numbers is set."""
        if (self.keep is None) == (self.as_many_as is None):
            raise ValueError("give exactly one of keep and as_many_as")
        return self

    @property
    def needs(self) -> frozenset[Need]:
        """The ratings, if they decide the number."""
        return self.as_many_as.needs if self.as_many_as else frozenset()

    @property
    def max_kept(self) -> int | None:
        """The number of pairs kept, or None if the ratings decide it."""
        return self.keep

    @property
    def expected_share(self) -> float:
        """The share that the score filter would keep."""
        return self.as_many_as.expected_share if self.as_many_as else 1.0

    def reasons(self, pairs: Iterable[Pair], context: FilterContext) -> Reasons:
        """Yield the pairs that are not drawn. A pair's draw depends on the seed and its id alone.

        A second turn is not drawn without its first one.
        """

        def draw(pair: Pair) -> tuple[int, bool]:
            numbers = (derive_seed(context.seed, id) for id in (pair.id, first_turn_id(pair)))
            return max(numbers), bool(pair.history)

        ids = [id for _, id in sorted((draw(pair), pair.id) for pair in pairs)]
        keep = self.keep
        if self.as_many_as:
            refused = {id for id, _ in self.as_many_as.reasons(pairs, context)}
            keep = sum(refused.isdisjoint((pair.id, first_turn_id(pair))) for pair in pairs)
        for id in ids[keep:]:
            yield id, f"not among the {keep} drawn of {len(ids)}"

    def conflicts(self, facts: RecipeFacts) -> Conflicts:
        """Yield the conflicts of the score filter, and one if the filter would keep every pair."""
        if self.as_many_as:
            for path, why in self.as_many_as.conflicts(facts):
                yield ("as_many_as", *path), why
        yield from super().conflicts(facts)
