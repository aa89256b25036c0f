"""Drop the pairs that overlap with a benchmark's prompts."""

import shlex
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from isheep.errors import Conflicts
from isheep.filters.base import FilterContext, FilterSettings, Need, Reasons, RecipeFacts
from isheep.records import Pair


class ContaminationFilter(FilterSettings):
    """Drop a pair that overlaps with a prompt of a benchmark in `evaluation` or `stop` (isheep/text/overlap.py).

    A pair overlaps if its task is the prompt word for word, if its task or answer shares `ngram` consecutive words with
    the prompt, or if its task's ROUGE-L F with the prompt is above `rouge`. If both are null, only the first counts,
    which suits tasks that share most of their words.
    """

    kind: Literal["contamination"]
    """Which filter this is."""
    ngram: Annotated[int, Field(ge=2)] | None = 13
    """The number of consecutive words that count as overlap (GPT-3's 13); null: not checked."""
    rouge: Annotated[float, Field(gt=0, lt=1)] | None = 0.7
    """The ROUGE-L F above which a task counts as overlap; null: not checked."""

    @property
    def needs(self) -> frozenset[Need]:
        """The benchmarks' prompts."""
        return frozenset({"prompts"})

    def reasons(self, pairs: Iterable[Pair], context: FilterContext) -> Reasons:
        """Yield the pairs that overlap with a prompt."""
        # Imports numpy, which reading a recipe does not need.
        from isheep.text.overlap import find_overlap

        rows = find_overlap(pairs, context.prompts, self.ngram, self.rouge).rows
        for index, pair in enumerate(pairs):
            if index in rows:
                _, why = rows[index]
                yield pair.id, why

    def conflicts(self, facts: RecipeFacts) -> Conflicts:
        """Yield a conflict if the recipe names no benchmark."""
        if not facts.has_benchmark:
            # In quotes, so that it can be pasted into a shell.
            quoted = shlex.quote(f"filters={facts.other_filters}")
            why = (
                "this recipe, or the one that it is like, has a contamination filter, which compares pairs with the "
                "prompts of a benchmark, and it has no benchmark in evaluation or stop"
            )
            yield (), f"{why}: name one there, or leave the filter out by writing {quoted}"
