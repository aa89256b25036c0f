"""Does the loop narrow? Figures of what an iteration wrote, cheap enough to be made in every run: iter-t/collapse.json.

A model that learns from its own words may write ever fewer kinds of them (the released code's later iterations hold 36
to 45% near duplicates, and their answers shrink to a median of 13 words). These figures need no model and no truth.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from isheep.records import Pair, Rejected
from isheep.rundir.folder import RunFolder
from isheep.rundir.progress import console
from isheep.text.novelty import Language, repeated, split_words

NEAR = 0.7  # ROUGE-L F: Self-Instruct's limit
OPENING = 50  # words of an answer that are compared: whole long answers would take minutes
LOOKED = 20_000  # pairs: a share of 0.3 is known to 0.006 then; words of more would fill the memory
FEWEST = 100  # pairs; with fewer, figures move by more than the limits below by chance
SAME_SIZE = 0.1  # vocabulary and distinct-n depend on how much text there is: they are compared up to this difference


class Figure(NamedTuple):
    """A figure of collapse.json: of what, and how much narrower than an earlier iteration is worth a warning.

    `change` is absolute, or for `relative` a share of the earlier value; below 0 it is a fall. None: never.
    """

    of: str
    label: str
    form: str  # as str.format takes it
    change: float | None = None
    relative: bool = False
    sized: bool = False  # depends on how much text there is


# Shares: two draws of 700 pairs differ by 0.05 in 1 of 20 cases, at a share of 0.3. Half a bit less entropy is 30%
# fewer openings in use. Lengths and words move with the topics: a third, a fifth and a tenth are beyond that.
FIGURES = {
    "near_duplicates": Figure("instructions", "near duplicates", "{:.0%}", 0.05),
    "refused_by_novelty": Figure("instructions", "refused as near a known one", "{:.0%}", 0.05),
    "distinct_1": Figure("instructions", "distinct-1", "{:.3f}"),
    "distinct_2": Figure("instructions", "distinct-2", "{:.3f}", -0.1, relative=True, sized=True),
    "distinct_3": Figure("instructions", "distinct-3", "{:.3f}"),
    "first_word_entropy": Figure("instructions", "entropy of first words, bits", "{:.2f}", -0.5),
    "vocabulary": Figure("instructions", "vocabulary", "{:.0f}", -0.2, relative=True, sized=True),
    "answers_near_duplicates": Figure("answers", "near duplicates", "{:.0%}", 0.05),
    "answers_distinct_1": Figure("answers", "distinct-1", "{:.3f}"),
    "answers_distinct_2": Figure("answers", "distinct-2", "{:.3f}"),
    "answers_distinct_3": Figure("answers", "distinct-3", "{:.3f}"),
    "tokens_quarter": Figure("answers", "tokens, lower quartile", "{:.0f}"),
    "tokens_median": Figure("answers", "tokens, median", "{:.0f}", -1 / 3, relative=True),
    "tokens_three_quarters": Figure("answers", "tokens, upper quartile", "{:.0f}"),
    "stopped": Figure("answers", "stopped by themselves", "{:.0%}", -0.05),
}


def record_diversity(run: RunFolder, t: int, pairs: Sequence[Pair], language: Language) -> None:
    """Write iter-t/collapse.json where it is not there, and say where the iteration is narrower than an earlier one."""
    folder = run / f"iter-{t}"
    if folder.has("collapse.json"):
        return
    earlier = {s: found for s in dict.fromkeys((t - 1, 1)) if 0 < s < t and (found := read_diversity(run, s))}

    def make() -> dict[str, Any]:
        # Tasks that are another iteration's have no blocks of their own.
        rejected: Sequence[Rejected] = folder.read("rejected.jsonl", Rejected) if folder.has("rejected.jsonl") else []
        now = figures(pairs, rejected, language)
        return {**now, "narrower": list(narrower(now, earlier))}

    for line in folder.json("collapse.json", make)["narrower"]:
        console.print(f"iteration {t} is narrower: {line}", markup=False, soft_wrap=True, style="yellow")


def read_diversity(run: RunFolder, t: int) -> dict[str, Any] | None:
    """The figures of iteration `t`, None where they are not there."""
    folder = run / f"iter-{t}"
    return folder.json("collapse.json", dict) if folder.has("collapse.json") else None


def figures(pairs: Sequence[Pair], rejected: Iterable[Rejected], language: Language) -> dict[str, Any]:
    """The figures of FIGURES by name, None where there is nothing to go by, with "pairs" and "first_words".

    Near duplicates: the share of instructions (with their inputs), and of answers by their first `OPENING` words, whose
    ROUGE-L F with another of this iteration is above 0.7. Distinct-n (Li et al. 2016): different runs of n words over
    all runs of n words. First words: the share of each instruction's first word, whatever it is (in English mostly the
    verb); their entropy in bits. Words are those of novelty.words, so in every script. Tokens and stopping are
    the engine's. Of more than `LOOKED` pairs that many are drawn and looked at; their near duplicates are among all.
    refused_by_novelty: of the instructions that novelty looked at, the share that it refused.
    """
    looked = sample(pairs)
    asked = [split_words(pair.content, language) for pair in looked]
    answered = [split_words(pair.output, language) for pair in looked]
    first = Counter(text[0] for text in asked if text)
    refused = sum(row.by == "novelty" for row in rejected)
    found = {
        "near_duplicates": near_duplicates(looked, pairs, language, lambda pair: pair.content),
        "refused_by_novelty": _share(refused, refused + len(pairs)),
        **{f"distinct_{n}": distinct(asked, n) for n in (1, 2, 3)},
        "first_word_entropy": entropy(first),
        "vocabulary": len({word for text in asked for word in text}),
        "answers_near_duplicates": near_duplicates(
            looked, pairs, language, lambda pair: " ".join(split_words(pair.output, language)[:OPENING])
        ),
        **{f"answers_distinct_{n}": distinct(answered, n) for n in (1, 2, 3)},
        **_quartiles([pair.tokens for pair in looked]),
        "stopped": _share(sum(pair.finish == "stop" for pair in looked), len(looked)),
    }
    rounded = {name: None if value is None else round(value, 4) for name, value in found.items()}
    top = {word: round(count / first.total(), 4) for word, count in sorted(first.items(), key=_often)[:10]}
    return {"pairs": len(pairs), **rounded, "first_words": top}


def sample(pairs: Sequence[Pair]) -> Sequence[Pair]:
    """`LOOKED` of the pairs, drawn, in their order; all of them where they are no more."""
    if len(pairs) <= LOOKED:
        return list(pairs)
    drawn = set(random.Random(0).sample(range(len(pairs)), LOOKED))
    return [pair for place, pair in enumerate(pairs) if place in drawn]


def near_duplicates(
    looked: Sequence[Pair], pairs: Sequence[Pair], language: Language, text: Callable[[Pair], str]
) -> float | None:
    """The share of the pairs looked at whose text is near another pair's."""
    among = map(text, pairs) if len(pairs) > len(looked) else None
    return _share(sum(repeated([text(pair) for pair in looked], NEAR, language, among)), len(looked))


def distinct(texts: Sequence[Sequence[str]], n: int) -> float | None:
    """Distinct-n: different runs of n words over all of them; None where there is none."""
    runs = [tuple(text[k : k + n]) for text in texts for k in range(len(text) - n + 1)]
    return _share(len(set(runs)), len(runs))


def entropy(counts: Counter[str]) -> float | None:
    """Shannon entropy in bits."""
    shares = (count / counts.total() for count in counts.values())
    return math.fsum(share * math.log2(1 / share) for share in shares) if counts else None


def narrower(now: dict[str, Any], earlier: dict[int, dict[str, Any]]) -> Iterator[str]:
    """A line for each figure that is narrower than in the iteration before or, where narrowing is slow, in the first.

    `earlier` maps these iterations to their figures, the one before first.
    """
    for name, figure in FIGURES.items():
        for s, before in earlier.items():
            if _warns(figure, name, before, now):
                values = " -> ".join(figure.form.format(one[name]) for one in (before, now))
                yield f"{figure.of}: {figure.label} {values} (since iteration {s})"
                break


def _warns(figure: Figure, name: str, before: dict[str, Any], now: dict[str, Any]) -> bool:
    was, value, sizes = before[name], now[name], (before["pairs"], now["pairs"])
    if figure.change is None or was is None or value is None or min(sizes) < FEWEST:
        return False
    if figure.sized and max(sizes) > (1 + SAME_SIZE) * min(sizes):
        return False
    change = (value - was) / (was or 1) if figure.relative else value - was
    return bool(change > figure.change if figure.change > 0 else change < figure.change)


def _often(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _quartiles(values: Sequence[int]) -> dict[str, float | None]:
    import numpy as np

    names = ("tokens_quarter", "tokens_median", "tokens_three_quarters")
    found = np.quantile(values, (0.25, 0.5, 0.75)).tolist() if values else [None] * 3
    return dict(zip(names, found, strict=True))


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
