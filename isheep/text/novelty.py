"""Exact novelty: is a text nearer than a limit, in ROUGE-L F, to anything known?

Self-Instruct (Wang et al. 2023, Section 2.2) keeps an instruction whose ROUGE-L with every known one is at most 0.7.
Verdicts are those of the `rouge_score` package without stemming, at the limit too; rows.py finds the near pairs.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Literal

from isheep.batching import batched, chunks
from isheep.text.rouge_index import BLOCK, NearRow, RougeIndex, TokenRow, token_row

Language = Literal["en", "any"]

# Thai to Myanmar, Khmer, kana, Han: no spaces between words, so that each character stands as a word
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)


def split_words(text: str, language: Language = "en") -> list[str]:
    """The tokens that are compared.

    "en" gives those of `rouge_score`: runs of a-z and 0-9 in the lower-cased text. "any" gives Unicode words: runs of
    letters and digits of any script with their marks; where a script writes no spaces, each character. The two agree
    on ASCII.
    """
    if language == "en":
        return re.findall(r"[a-z0-9]+", text.lower())
    return _unicode_word().findall(unicodedata.normalize("NFC", text.lower()))


@cache
def _unicode_word() -> re.Pattern[str]:
    marks = "".join(c for c in map(chr, range(0x300, 0x1F000)) if unicodedata.category(c).startswith("M"))
    return re.compile(rf"(?:(?![_{UNSPACED}])\w[{marks}]*)+|(?=\w)[{UNSPACED}][{marks}]*")


def find_near(
    texts: Iterable[str], known: Sequence[str], limit: float, language: Language = "en"
) -> Iterator[list[int]]:
    """For each text in turn the places of all known texts whose F with it is above the limit."""
    ids: dict[str, int] = {}
    rows = RougeIndex(limit)
    rows.add([_encode(text, language, ids) for text in known])
    for block in batched(texts, BLOCK):
        for found in rows.near([_encode(text, language, ids) for text in block]):
            yield [one.place for one in found]


def repeated(
    texts: Sequence[str], limit: float, language: Language = "en", among: Iterable[str] | None = None
) -> list[bool]:
    """For each text whether another one is nearer to it than the limit: another of them, or of `among`, where that is
    given; they are among it then, each once.

    Texts that a pool refuses have another, and so has what they are near to. The others of the pool are not near each
    other, so that only what is not in it can be near them; where all is alike these are few.
    """
    kept: list[int] = []
    found = [False] * len(texts)
    for here, verdict in enumerate(NoveltyPool([], limit, language).novel(texts)):
        if verdict is None:
            kept.append(here)
        else:
            found[here] = found[kept[verdict[0]]] = True
    alone = [here for here in kept if not found[here]]
    rest = (text for text, refused in zip(texts, found, strict=True) if refused)
    hits: Counter[int] = Counter()
    for places in find_near(rest if among is None else among, [texts[here] for here in alone], limit, language):
        hits.update(places)
    for place, count in hits.items():
        found[alone[place]] = count > (among is not None)  # itself is among them
    return found


class NoveltyPool:
    """The known texts of one iteration: the seeds, then every text that was novel, in order."""

    def __init__(self, known: Sequence[str], limit: float, language: Language = "en") -> None:
        self.limit = limit
        self.language: Language = language
        self._ids: dict[str, int] = {}
        self._known = RougeIndex(limit)
        self._known.add([_encode(text, language, self._ids) for text in known])

    def __len__(self) -> int:
        return len(self._known)

    def novel(self, texts: Sequence[str]) -> list[tuple[int, float] | None]:
        """For each text in turn: None if its F with every known text is at most the limit, and then it is known too;
        else (place of the nearest known text, its F).

        How the texts are split over calls changes nothing.
        """
        blocks = ([_encode(text, self.language, self._ids) for text in some] for some in chunks(texts, BLOCK))
        return [verdict for block in blocks for verdict in self._judge(block)]

    def _judge(self, block: Sequence[TokenRow]) -> list[tuple[int, float] | None]:
        before = list(self._known.near(block))
        fresh = [i for i, rivals in enumerate(before) if not rivals]  # the others don't become known
        own = RougeIndex(self.limit)
        own.add([block[i] for i in fresh])
        place: dict[int, int] = {}  # of the rows of this block that became known
        verdicts: list[tuple[int, float] | None] = []
        for i, beside in enumerate(own.near(block)):
            new = ((place.get(fresh[one.place]), one.f) for one in beside)
            rivals = [*before[i], *(NearRow(known, f) for known, f in new if known is not None)]
            nearest = max(rivals, key=lambda one: (one.f, -one.place), default=None)
            verdicts.append(nearest and (nearest.place, nearest.f))
            if nearest is None:
                place[i] = len(self._known) + len(place)
        self._known.add([block[i] for i in place])
        return verdicts


def _encode(text: str, language: Language, ids: dict[str, int]) -> TokenRow:
    """A number for each word; words not met before are numbered in `ids`."""
    return token_row([ids.setdefault(word, len(ids)) for word in split_words(text, language)])
