"""Overlap of generated rows with a benchmark's prompts: which rows touch one, which prompts are touched, and how.

Three ways to touch a prompt, from the surest to the loosest: a row's task is the prompt, word for word; a row (task or
answer) holds a run of `ngram` words of the prompt (13, as for GPT-3: Brown et al. 2020, Appendix C); a row's task is
nearer to the prompt than `rouge` in ROUGE-L F (0.7, the limit at which Self-Instruct calls two instructions the same).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from isheep.batching import batched
from isheep.records import Pair
from isheep.text.novelty import find_near, split_words

LEAST = 8  # words; a shorter prompt is everyday speech, it is touched by its own words alone (GPT-3's least n is 8)
AT_ONCE = 20_000  # rows whose words are held at once
SHOWN = 60  # characters of a run of words in a reason


class Overlap(NamedTuple):
    """Rows and prompts by their places. A row's reason is of the surest kind: (kind, in words)."""

    rows: dict[int, tuple[str, str]]
    prompts: set[int]

    @property
    def kinds(self) -> dict[str, int]:
        """How many rows by kind of reason: exact, ngram, rouge."""
        return dict(Counter(kind for kind, _ in self.rows.values()))


def find_overlap(rows: Iterable[Pair], prompts: Sequence[str], ngram: int | None, rouge: float | None) -> Overlap:
    """Which of `rows` touch which of `prompts`; `ngram` and `rouge` None: only a task that is a prompt does.

    A prompt of `LEAST` words up to `ngram` is touched by all its words in a row. Words are Unicode words
    (novelty.words, "any"), but for "word for word", which leaves out case and spacing only.
    """
    whole, start = Overlap({}, set()), 0
    for some in batched(rows, AT_ONCE):
        found = _overlap(some, prompts, ngram, rouge)
        whole.rows.update({start + place: why for place, why in found.rows.items()})
        whole.prompts.update(found.prompts)
        start += len(some)
    return whole


def _overlap(rows: Sequence[Pair], prompts: Sequence[str], ngram: int | None, rouge: float | None) -> Overlap:
    found = _same(rows, prompts)
    for more in (_runs(rows, prompts, ngram) if ngram else None, _near(rows, prompts, rouge) if rouge else None):
        if more:
            found = Overlap({**more.rows, **found.rows}, found.prompts | more.prompts)
    return found


def plain(text: str) -> str:
    """A text as far as its words go: what is the same in another case or spacing is the same."""
    return " ".join(text.casefold().split())


def _same(rows: Sequence[Pair], prompts: Sequence[str]) -> Overlap:
    exam, tasks = [plain(prompt) for prompt in prompts], [plain(row.content) for row in rows]
    there, written = frozenset(exam), frozenset(tasks)
    hit = {r: ("exact", "a benchmark's prompt") for r, task in enumerate(tasks) if task in there}
    return Overlap(hit, {p for p, prompt in enumerate(exam) if prompt in written})


def _near(rows: Sequence[Pair], prompts: Sequence[str], limit: float) -> Overlap:
    found: dict[int, tuple[str, str]] = {}
    touched: set[int] = set()
    for r, places in enumerate(find_near([row.content for row in rows], prompts, limit, "any")):
        if places:
            found[r] = ("rouge", f"ROUGE-L above {limit:g} to a benchmark's prompt")
            touched.update(places)
    return Overlap(found, touched)


# --- runs of words


def _runs(rows: Sequence[Pair], prompts: Sequence[str], ngram: int) -> Overlap:
    """All texts stand in one line of word numbers: the prompts, then the rows' tasks, then their answers."""
    texts = [split_words(t, "any") for t in (*prompts, *(row.content for row in rows), *(row.output for row in rows))]
    names: dict[str, int] = {}
    line = np.array([names.setdefault(word, len(names)) for text in texts for word in text], np.int64)
    lengths = np.array([len(text) for text in texts], np.int64)
    owner = np.repeat(np.arange(len(texts)), lengths)
    known, spelled, least = {1: line}, list(names), min(LEAST, ngram)
    found: dict[int, tuple[str, str]] = {}
    touched: set[int] = set()
    for width in sorted({min(ngram, n) for n in lengths[: len(prompts)].tolist() if n >= least}, reverse=True):
        grams, start = _grams(known, width), owner[: len(line) - width + 1]
        inside = start == owner[width - 1 :]  # a run lies in one text
        asked = inside & (start < len(prompts)) & ((width == ngram) | (lengths[start] == width))
        written = inside & (start >= len(prompts)) & np.isin(grams, grams[asked])
        touched.update(start[asked & np.isin(grams, grams[written])].tolist())
        for place in np.flatnonzero(written).tolist():
            run = " ".join(spelled[n] for n in line[place : place + width])
            why = f"{width} words of a benchmark's prompt: {run[:SHOWN]}{'...' * (len(run) > SHOWN)}"
            found.setdefault((int(start[place]) - len(prompts)) % len(rows), ("ngram", why))
    return Overlap(found, touched)


def _grams(known: dict[int, Any], width: int) -> Any:
    """A number for each run of `width` words, the same for the same words: exact, by doubling, as in suffix arrays.

    A run is told by its first and its last words, as many as the largest power of two below its width.
    """
    if width not in known:
        half = 2 ** ((width - 1).bit_length() - 1)
        parts = _grams(known, half)
        codes = parts[: len(parts) - width + half] * (int(parts.max()) + 1) + parts[width - half :]
        known[width] = np.unique(codes, return_inverse=True)[1]
    return known[width]
