"""Drop the pairs whose answer the model does not give again: self-consistency, without a judge."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from pydantic import Field

from isheep.errors import Conflicts
from isheep.filters.base import FilterContext, FilterSettings, Reasons, RecipeFacts
from isheep.records import Count, Pair
from isheep.text.novelty import split_words


class AgreementFilter(FilterSettings):
    """Drop a pair whose answer agrees too little with further answers of M^(t-1) to its task (not in the paper)."""

    kind: Literal["agreement"] = "agreement"
    """Which filter this is."""
    samples: Count = 4
    """The number of further answers to each task, drawn as the first one was."""
    at_least: Annotated[float, Field(gt=0, le=1)] = 0.8
    """The lowest mean agreement that passes. Of two answers it is the share of the shorter one's words that stand in
    the longer one, in the same order."""

    @property
    def num_samples(self) -> int:
        """The number of further answers to each task."""
        return self.samples

    @property
    def expected_share(self) -> float:
        """A guess: it depends on how often the model repeats itself."""
        return 0.5

    def reasons(self, pairs: Iterable[Pair], context: FilterContext) -> Reasons:
        """Yield the pairs whose mean agreement is below the limit."""
        samples = {row.id: row for row in context.samples}
        for pair in pairs:
            value = mean_agreement(pair.output, samples[pair.id].outputs[: self.samples])
            if value < self.at_least:
                yield pair.id, f"agreement {value:.2f} < {self.at_least:g} with {self.samples} further answers"

    def conflicts(self, facts: RecipeFacts) -> Conflicts:
        """Yield a conflict if the recipe's answers are no answers to a prompt of their own."""
        if facts.writes_instances:
            yield (), "it answers each task again, and response.prompt: instances answers none: take another prompt"
        yield from super().conflicts(facts)


def mean_agreement(output: str, samples: Sequence[str]) -> float:
    """Return the mean agreement of an output with samples, from 0 to 1; 0 without samples."""
    return sum(agreement(output, sample) for sample in samples) / len(samples) if samples else 0.0


def agreement(first: str, second: str) -> float:
    """Return the share of the shorter text's words that stand in the longer one in the same order, whatever their case.

    Texts without words agree only if they are equal.
    """
    from rapidfuzz.distance import LCSseq

    words = [split_words(text, "any") for text in (first, second)]
    if not all(words):
        return float(first.strip() == second.strip())
    return LCSseq.similarity(*words) / min(map(len, words))
