"""Drop the pairs that the model itself finds unlikely."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from isheep.filters.base import FilterContext, FilterSettings, Need, Reasons
from isheep.records import Pair, PairPerplexity

PerplexityText = Literal["output", "pair"]
"""The text whose perplexity counts: the answer after its prompt, or instruction, input and answer as one plain text."""


class PerplexityFilter(FilterSettings):
    """Drop a pair whose perplexity under M^(t-1) is above `at_most` (Section 4.3; computed by stages/measure.py)."""

    kind: Literal["perplexity"] = "perplexity"
    """Which filter this is."""
    at_most: Annotated[float, Field(gt=1)] = 50
    """The highest perplexity that passes (Section 4.3)."""
    of: Annotated[tuple[PerplexityText, ...], Field(min_length=1)] = ("output", "pair")
    """The texts that must pass: "output" is the answer after its prompt, "pair" is instruction, input and answer as one
    plain text (Table 11 requires both)."""

    @property
    def needs(self) -> frozenset[Need]:
        """The perplexities."""
        return frozenset({"perplexities"})

    @property
    def expected_share(self) -> float:
        """A guess: the paper does not say how many pairs this filter keeps."""
        return 0.7

    def reasons(self, pairs: Iterable[Pair], context: FilterContext) -> Reasons:
        """Yield the pairs with a perplexity above the limit."""
        rows = {row.id: row for row in context.perplexities}
        for pair in pairs:
            if why := self._reason_against(rows[pair.id]):
                yield pair.id, why

    def _reason_against(self, row: PairPerplexity) -> str | None:
        """Return why perplexities do not pass ("perplexity of output 63.2 > 50"), or None if they pass."""
        for text in self.of:
            value = perplexity_of(row, text)
            if value > self.at_most:
                return f"perplexity of {text} {value:.4g} > {self.at_most:g}"
        return None


def perplexity_of(row: PairPerplexity, text: PerplexityText) -> float:
    """Return the perplexity of a pair's output or of the whole pair; infinity if that text is empty."""
    value = row.output if text == "output" else row.pair
    return float("inf") if value is None else value
