"""Filtering (Algorithm 1, line 7): which pairs are dropped from D^t, and why."""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence

from isheep.batching import derive_seed
from isheep.extensions import user_code
from isheep.filters.base import FilterContext, PairFilter
from isheep.records import UNREADABLE, AssessedPair, Drop, Pair, first_turn_id
from isheep.rundir.jsonl import filter_rows
from isheep.text.characters import unfit_character

# The form of nearly every tokenizer's special tokens.
SPECIAL_TOKEN = r"<\|\w{1,40}\|>"

CHARACTERS = "characters"
"""What drops a pair with a control character and the like, in dropped.jsonl."""

TURNS = "turns"
"""What drops a second turn with its first one, in dropped.jsonl."""


def find_drops(
    pairs: Sequence[Pair],
    filters: Sequence[PairFilter],
    use_rules: bool,
    special_tokens: Collection[str],
    context: FilterContext | None = None,
) -> list[Drop]:
    """Return one Drop for each pair that is not trained on, in the order of the pairs.

    A pair is dropped because its answer can't be read, for its characters, by the rules, or by a filter. A filter sees
    only the pairs that the filters before it kept. The second turn of a dropped first turn is dropped with it.
    `special_tokens` are the tokenizer's. A pair that no judge rated (no AssessedPair) passes no score filter. The draws
    of a filter depend on the context's seed and on the filter's position. Raises UserError if a filter fails.
    """
    context = context or FilterContext()
    pattern = re.compile("|".join([*map(re.escape, sorted(special_tokens)), SPECIAL_TOKEN]))
    drops = {drop.row: drop for pair in pairs if (drop := _drop_by_text(pair, use_rules, pattern))}
    drops |= _drops_with_first_turn(pairs, drops)
    for index, pair_filter in enumerate(filters):
        remaining = _RemainingPairs(pairs, frozenset(drops))
        seeded = context._replace(seed=derive_seed(context.seed, "filters", index))
        with user_code(f"filter {pair_filter.label}", type(pair_filter).reasons):
            reasons = pair_filter.reasons(remaining, seeded)
            drops |= {row: Drop(row=row, by=pair_filter.label, why=why) for row, why in reasons}
        drops |= _drops_with_first_turn(pairs, drops)
    return [drops[pair.id] for pair in pairs if pair.id in drops]


def _drops_with_first_turn(pairs: Iterable[Pair], drops: Collection[str]) -> dict[str, Drop]:
    """Return by id the drops of second turns that were kept although their first turn, which they show, was not."""
    return {
        pair.id: Drop(row=pair.id, by=TURNS, why="its first turn was dropped")
        for pair in pairs
        if pair.id not in drops and first_turn_id(pair) in drops
    }


def kept_pairs(pairs: Sequence[Pair], drops: Sequence[Drop]) -> Sequence[Pair]:
    """Return D^t: the pairs that were not dropped, in their order."""
    rows = {drop.row for drop in drops}
    return filter_rows(pairs, lambda pair: pair.id not in rows)


def has_unreadable_rating(pair: AssessedPair) -> bool:
    """Return whether at least one of the pair's ratings could not be read."""
    return any(grade.score is None for grade in pair.grades.values())


class _RemainingPairs:
    """The pairs without the dropped ones. They are read anew each time, because they may not fit into memory."""

    def __init__(self, pairs: Iterable[Pair], dropped_ids: Collection[str]) -> None:
        self.pairs, self.dropped_ids = pairs, dropped_ids

    def __iter__(self) -> Iterator[Pair]:
        return (pair for pair in self.pairs if pair.id not in self.dropped_ids)


def _drop_by_text(pair: Pair, use_rules: bool, special_tokens: re.Pattern[str]) -> Drop | None:
    """Return the Drop of a pair whose texts alone say that it is not trained on, or None."""
    if pair.unanswered:
        return Drop(row=pair.id, by="answer", why=no_answer(pair))
    if why := unfit_text_in(pair):
        return Drop(row=pair.id, by=CHARACTERS, why=why)
    why = special_token_in(pair, special_tokens) or (broken_rule(pair) if use_rules else None)
    return Drop(row=pair.id, by="rules", why=why) if why else None


def special_token_in(pair: Pair, special_tokens: re.Pattern[str]) -> str | None:
    """Return why a pair is never trained on, whatever the recipe says, or None.

    A text with a special token would end or open a turn by itself.
    """
    for name, text in (("instruction", pair.instruction), ("input", pair.input), ("output", pair.output)):
        if match := special_tokens.search(text):
            return f"{name} holds {match[0]}"
    return None


def unfit_text_in(pair: Pair) -> str | None:
    """Return why a pair is never trained on for its characters, whatever the recipe says, or None."""
    for name, text in (("instruction", pair.instruction), ("input", pair.input), ("output", pair.output)):
        if why := unfit_character(text):
            return f"{name} holds {why}"
    return None


def no_answer(pair: Pair) -> str:
    """Return the reason to drop a pair in which no answer could be read."""
    if pair.finish == UNREADABLE:
        return "the server's answer can't be read"
    reason = "no answer after the thoughts"
    return f"{reason} (cut off)" if pair.finish == "length" else reason


def broken_rule(pair: Pair) -> str | None:
    """Return the rule of Self-Instruct on pairs that a pair breaks, or None (Wang et al. 2023, Section 2.2)."""
    if not pair.output:
        return "output is empty"
    if pair.output == pair.input:
        return "output equals the input"
    for name, text in (("input", pair.input), ("output", pair.output)):
        if text.rstrip().endswith(":"):
            return f"{name} ends in a colon"
    return None
