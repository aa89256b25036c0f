"""Filtering (Algorithm 1, line 7): which pairs are left out of D^t, and why."""

import re
import warnings
from base64 import b64decode
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from isheep.batching import derive_seed
from isheep.recipe.schema import (
    ContaminationFilter,
    DensityFilter,
    Filter,
    PerplexityFilter,
    RandomFilter,
    ScoreFilter,
)
from isheep.records import AssessedPair, Drop, Grade, Pair, PairEmbedding, PairPerplexity
from isheep.rundir.jsonl import filter_rows
from isheep.text.overlap import find_overlap

SPECIAL = r"<\|\w{1,40}\|>"  # the form of nearly every tokenizer's special tokens
MINI_BATCH = 20_000  # from this many pairs on k-means goes over them in small batches
Reasons = Iterator[tuple[str, str]]
"""Rows that a filter leaves out: (row's id, why)."""


class FilterContext(NamedTuple):
    """What filters look at beside the pairs."""

    prompts: Sequence[str] = ()  # of the recipe's benchmarks, and of the part that it stops by
    measures: Sequence[PairPerplexity] = ()  # of every pair, where a filter looks at perplexities
    vectors: Sequence[PairEmbedding] = ()  # of every pair, where one looks at representations


NOTHING = FilterContext()


def find_drops(
    pairs: Sequence[Pair],
    filters: Sequence[Filter],
    rules: bool,
    special: Collection[str],
    known: FilterContext = NOTHING,
    seed: int = 0,
) -> list[Drop]:
    """One Drop for each pair that is left out, in the pairs' order: because it has no answer that can be read, by the
    rules, then by the filters in their order.

    A filter sees only the pairs that those before it left. `special` are the tokenizer's special tokens. A pair that no
    judge rated (no AssessedPair) passes no score filter. Draws depend on `seed`, the filter's place and the pair's id.
    """
    tokens = re.compile("|".join([*map(re.escape, sorted(special)), SPECIAL]))
    found = {row: Drop(row=row, by="rules", why=why) for row, why in _by_rules(pairs, rules, tokens)}
    found |= {pair.id: Drop(row=pair.id, by="answer", why=silent(pair)) for pair in pairs if pair.unanswered}
    for place, one in enumerate(filters):
        reasons = _reasons(one, _Left(pairs, frozenset(found)), known, derive_seed(seed, "filters", place))
        found |= {row: Drop(row=row, by=one.kind, why=why) for row, why in reasons}
    return [found[pair.id] for pair in pairs if pair.id in found]


def kept_pairs(pairs: Sequence[Pair], left_out: Sequence[Drop]) -> Sequence[Pair]:
    """D^t: the pairs that nothing dropped, in their order."""
    rows = {drop.row for drop in left_out}
    return filter_rows(pairs, lambda pair: pair.id not in rows)


def has_unreadable_rating(pair: AssessedPair) -> bool:
    """Whether at least one of the pair's ratings could not be read."""
    return any(grade.score is None for grade in pair.grades.values())


class _Left:
    """The pairs that are not among `gone`, each time they are gone through."""

    def __init__(self, pairs: Iterable[Pair], gone: Collection[str]) -> None:
        self.pairs, self.gone = pairs, gone

    def __iter__(self) -> Iterator[Pair]:
        return (pair for pair in self.pairs if pair.id not in self.gone)


def _by_rules(pairs: Sequence[Pair], rules: bool, tokens: re.Pattern[str]) -> Reasons:
    for pair in pairs:
        if why := unsafe(pair, tokens) or (broken(pair) if rules else None):
            yield pair.id, why


def _reasons(one: Filter, pairs: Iterable[Pair], known: FilterContext, seed: int) -> Reasons:
    """What one filter leaves out of the pairs that are left."""
    match one:
        case ScoreFilter():
            return ((pair.id, why) for pair in pairs if (why := below_threshold(one, _grades(pair))))
        case ContaminationFilter():
            touched = find_overlap(pairs, known.prompts, one.ngram, one.rouge).rows
            return ((pair.id, touched[place][1]) for place, pair in enumerate(pairs) if place in touched)
        case PerplexityFilter():
            measures = {measure.id: measure for measure in known.measures}
            return ((pair.id, why) for pair in pairs if (why := unlikely(one, measures[pair.id])))
        case DensityFilter():
            return _crowded(one, pairs, known, seed)
        case RandomFilter():
            return _not_drawn(one, pairs, seed)


def _crowded(one: DensityFilter, pairs: Iterable[Pair], known: FilterContext, seed: int) -> Reasons:
    """All pairs of a cluster but those chosen: drawn, or with the lowest perplexity (none at all comes last)."""
    vectors = {vector.id: vector for vector in known.vectors}
    measures = {measure.id: measure for measure in known.measures}
    ids = [pair.id for pair in pairs]
    groups: dict[int, list[str]] = defaultdict(list)
    for id, label in zip(ids, clusters([vectors[id] for id in ids], one.clusters, seed), strict=True):
        groups[label].append(id)
    of = one.of or "output"

    def rank(id: str) -> float:
        return derive_seed(seed, id) if one.choose == "random" else _perplexity(measures[id], of)

    for label, group in groups.items():
        ranked = sorted(group, key=rank)
        for id in ranked[one.keep :]:
            why = f"cluster {label + 1} has {len(group)} pairs, {one.keep} kept"
            if one.choose == "random":
                yield id, f"{why} at random"
            else:
                yield id, f"{why} up to perplexity {rank(ranked[one.keep - 1]):.4g} of {of}: {rank(id):.4g}"


def clusters(rows: Sequence[PairEmbedding], count: int, seed: int) -> list[int]:
    """The cluster of each row, 0 to `count` - 1: k-means on the vectors as they are, from one seeded k-means++ start.

    Each row is a cluster of its own where there are no more than `count`.
    """
    if len(rows) <= count:
        return list(range(len(rows)))
    import numpy as np
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    points = np.stack([np.frombuffer(b64decode(row.values), "<f4") for row in rows])
    kind = MiniBatchKMeans if len(rows) >= MINI_BATCH else KMeans
    with threadpool_limits(1), warnings.catch_warnings():  # threads would add up in an order that changes
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different points than clusters: no harm
        labels: list[int] = kind(count, n_init=1, random_state=seed % 2**32).fit_predict(points).tolist()
    return labels


def _not_drawn(one: RandomFilter, pairs: Iterable[Pair], seed: int) -> Reasons:
    like = one.as_many_as
    keep = sum(below_threshold(like, _grades(pair)) is None for pair in pairs) if like else one.keep
    drawn = sorted((pair.id for pair in pairs), key=lambda id: derive_seed(seed, id))
    for id in drawn[keep:]:
        yield id, f"not among the {keep} drawn of {len(drawn)}"


def _perplexity(measure: PairPerplexity, of: str) -> float:
    """The output's or the pair's; infinity where there is no text."""
    value = measure.output if of == "output" else measure.pair
    return float("inf") if value is None else value


def _grades(pair: Pair) -> Mapping[str, Grade]:
    return pair.grades if isinstance(pair, AssessedPair) else {}


def unlikely(limit: PerplexityFilter, measure: PairPerplexity) -> str | None:
    """Why a pair's perplexities do not pass: "perplexity of output 63.2 > 50"."""
    for of in limit.of:
        if (value := _perplexity(measure, of)) > limit.at_most:
            return f"perplexity of {of} {value:.4g} > {limit.at_most:g}"
    return None


def unsafe(pair: Pair, tokens: re.Pattern[str]) -> str | None:
    """Why a pair may not be trained on, whatever the recipe: a model's text must not end or open a turn by itself."""
    for name, text in (("instruction", pair.instruction), ("input", pair.input), ("output", pair.output)):
        if found := tokens.search(text):
            return f"{name} holds {found[0]}"
    return None


def silent(pair: Pair) -> str:
    """What is wrong with a pair in which no answer could be read."""
    return "no answer after the thoughts" + " (cut off)" * (pair.finish == "length")


def broken(pair: Pair) -> str | None:
    """Self-Instruct's rules on a pair (Wang et al. 2023, Section 2.2)."""
    if not pair.output:
        return "output is empty"
    if pair.output == pair.input:
        return "output equals the input"
    for name, text in (("input", pair.input), ("output", pair.output)):
        if text.rstrip().endswith(":"):
            return f"{name} ends in a colon"
    return None


def below_threshold(score: ScoreFilter, grades: Mapping[str, Grade]) -> str | None:
    """Why grades do not pass a threshold: "quality 3 < 8", "following unreadable"."""
    for name in score.criteria or grades or ("rating",):
        value = grades[name].score if name in grades else None
        if value is None:
            return f"{name} unreadable" if name in grades else f"{name} missing"
        if score.at_least is not None and value < score.at_least:
            return f"{name} {value:g} < {score.at_least:g}"
        if score.above is not None and value <= score.above:
            return f"{name} {value:g} <= {score.above:g}"
    return None
