"""The interface of a filter (Algorithm 1, line 7), and what a filter may look at beside the pairs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from isheep.errors import Conflicts
from isheep.records import AssessedPair, Grade, Pair, PairEmbedding, PairPerplexity, PairSamples, Settings

Reasons = Iterator[tuple[str, str]]
"""The pairs that a filter drops: (the pair's id, the reason in words)."""

Need = Literal["ratings", "perplexities", "embeddings", "prompts"]
"""Data beside the pairs: ratings by the judge, the model's perplexities and embeddings, the benchmarks' prompts."""


class FilterContext(NamedTuple):
    """The data that filters read beside the pairs; a field is empty if no filter needs it.

    `prompts` are those of the recipe's benchmarks and of the part that a stopping rule reads. `perplexities`,
    `embeddings` and `samples` (further answers to the pair's task) have one row for each pair. Random draws depend on
    `seed` and on the pair's id.
    """

    prompts: Sequence[str] = ()
    perplexities: Sequence[PairPerplexity] = ()
    embeddings: Sequence[PairEmbedding] = ()
    samples: Sequence[PairSamples] = ()
    seed: int = 0


class RecipeFacts(NamedTuple):
    """The facts of a recipe that a filter's settings must agree with.

    `criteria` are those that the assessment rates, None if the recipe has no assessment. `has_benchmark` is true if
    there is a benchmark in evaluation or stop. `writes_instances` is true for Self-Instruct's own pipeline, whose
    answers have no prompt of their own. `turns` is the number of turns of a dialogue, each of which is a pair.
    `other_filters` is the recipe's list of filters without this one, as YAML in one line.
    """

    num_tasks: int
    criteria: tuple[str, ...] | None
    has_benchmark: bool
    writes_instances: bool = False
    other_filters: str = "[]"
    turns: int = 1


class PairFilter(Protocol):
    """What the filtering stage calls: the settings of a recipe's filter, or a FunctionFilter from Python."""

    @property
    def label(self) -> str:
        """The name of the filter in dropped.jsonl."""
        ...

    def reasons(self, pairs: Iterable[Pair], context: FilterContext) -> Reasons:
        """Yield the pairs to drop. `pairs` can be iterated more than once and are read from the disk each time."""
        ...


class FilterSettings(Settings):
    """The settings of one entry of a recipe's `filters`, with its behavior. Subclasses set `kind` and `reasons`."""

    kind: Any
    """Which filter this is."""

    @property
    def label(self) -> str:
        """The name of the filter in dropped.jsonl."""
        return str(self.kind)

    @property
    def needs(self) -> frozenset[Need]:
        """The data beside the pairs that the filter reads."""
        return frozenset()

    @property
    def num_samples(self) -> int:
        """The number of further answers to each task that the filter reads."""
        return 0

    @property
    def max_kept(self) -> int | None:
        """The largest number of pairs that the filter keeps, or None if that depends on the pairs."""
        return None

    @property
    def expected_share(self) -> float:
        """The share of pairs that `isheep plan` expects the filter to keep, before anything has been measured."""
        return 1.0

    def reasons(self, pairs: Iterable[Pair], context: FilterContext) -> Reasons:
        """Yield the pairs to drop. `pairs` can be iterated more than once and are read from the disk each time."""
        raise NotImplementedError

    def conflicts(self, facts: RecipeFacts) -> Conflicts:
        """Yield the settings that contradict the rest of the recipe, each with its key path inside this filter.

        A limit so high that the filter would keep every pair is a conflict in every filter.
        """
        if self.max_kept is not None and self.max_kept >= facts.num_tasks * facts.turns:
            turns = f" with {facts.turns} turns" if facts.turns > 1 else ""
            keeps = f"it keeps up to {self.max_kept} pairs, and synthesis.tasks is {facts.num_tasks}{turns}"
            yield (), f"{keeps}: nothing is left to drop"


def grades_of(pair: Pair) -> Mapping[str, Grade]:
    """Return a pair's ratings by criterion; an empty mapping if no judge rated it."""
    return pair.grades if isinstance(pair, AssessedPair) else {}
