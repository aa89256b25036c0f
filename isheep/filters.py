"""Filtering (Algorithm 1, line 7): which pairs are left out of D^t, and why."""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence

from isheep.recipe import Contamination, Filter, Score
from isheep.records import AssessedPair, Drop, Grade, Pair

SPECIAL = r"<\|\w{1,40}\|>"  # the form of nearly every tokenizer's special tokens


def drops(
    pairs: Sequence[Pair], filters: Sequence[Filter], rules: bool, special: Collection[str], prompts: Iterable[str] = ()
) -> list[Drop]:
    """One Drop for each pair that is left out, by the first that leaves it out: the rules, then the filters in order.

    `special` are the tokenizer's special tokens, `prompts` those of the recipe's benchmarks. A pair that no judge rated
    (no AssessedPair) passes no score filter.
    """
    found, known = [], frozenset(map(words, prompts))
    tokens = re.compile("|".join([*map(re.escape, sorted(special)), SPECIAL]))
    for pair in pairs:
        if why := next(_reasons(pair, filters, rules, tokens, known), None):
            found.append(Drop(row=pair.id, by=why[0], why=why[1]))
    return found


def kept(pairs: Sequence[Pair], left_out: Sequence[Drop]) -> list[Pair]:
    """D^t: the pairs that nothing dropped, in their order."""
    rows = {drop.row for drop in left_out}
    return [pair for pair in pairs if pair.id not in rows]


def unreadable(pair: AssessedPair) -> bool:
    """Whether at least one of the pair's ratings could not be read."""
    return any(grade.score is None for grade in pair.grades.values())


def words(text: str) -> str:
    """A text as far as its words go: what is the same in another case or spacing is the same."""
    return " ".join(text.casefold().split())


def _reasons(
    pair: Pair, filters: Sequence[Filter], rules: bool, tokens: re.Pattern[str], known: frozenset[str]
) -> Iterator[tuple[str, str]]:
    """(by, why) for everything that speaks against a pair."""
    if why := unsafe(pair, tokens) or (broken(pair) if rules else None):
        yield "rules", why
    for one in filters:
        if isinstance(one, Contamination):
            why = "a benchmark's prompt" if words(pair.content) in known else None
        else:
            why = below(one, pair.grades if isinstance(pair, AssessedPair) else {})
        if why:
            yield one.kind, why


def unsafe(pair: Pair, tokens: re.Pattern[str]) -> str | None:
    """Why a pair may not be trained on, whatever the recipe: a model's text must not end or open a turn by itself."""
    for name, text in (("instruction", pair.instruction), ("input", pair.input), ("output", pair.output)):
        if found := tokens.search(text):
            return f"{name} holds {found[0]}"
    return None


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


def below(score: Score, grades: dict[str, Grade]) -> str | None:
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
