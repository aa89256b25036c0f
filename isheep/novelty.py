"""Exact novelty: is a text nearer than a limit, in ROUGE-L F, to anything known?

Self-Instruct (Wang et al. 2023, Section 2.2) keeps an instruction whose ROUGE-L with every known one is at most 0.7.
Verdicts are those of the `rouge_score` package without stemming, at the limit too; rows.py finds the near pairs.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Literal

from isheep.batching import chunks
from isheep.rows import BLOCK, Row, Rows, row

Language = Literal["en", "any"]

# Thai to Myanmar, Khmer, kana, Han: no spaces between words, so that each character stands as a word
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)


def words(text: str, language: Language = "en") -> list[str]:
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


def near(texts: Iterable[str], known: Sequence[str], limit: float, language: Language = "en") -> Iterator[list[int]]:
    """For each text in turn the places of all known texts whose F with it is above the limit."""
    ids: dict[str, int] = {}
    rows = Rows(limit)
    rows.add([_encode(text, language, ids) for text in known])
    for found in rows.near([_encode(text, language, ids) for text in texts]):
        yield [one.place for one in found]


def repeated(texts: Sequence[str], limit: float, language: Language = "en") -> list[bool]:
    """For each text whether another one of them is nearer to it than the limit."""
    ids: dict[str, int] = {}
    encoded = [_encode(text, language, ids) for text in texts]
    rows = Rows(limit)
    rows.add(encoded)
    return [any(one.place != here for one in found) for here, found in enumerate(rows.near(encoded))]


class Pool:
    """The known texts of one iteration: the seeds, then every text that was novel, in order."""

    def __init__(self, known: Sequence[str], limit: float, language: Language = "en") -> None:
        self.limit = limit
        self.language: Language = language
        self._ids: dict[str, int] = {}
        self._known = Rows(limit)
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

    def _judge(self, block: Sequence[Row]) -> list[tuple[int, float] | None]:
        own = Rows(self.limit)
        own.add(block)
        place: dict[int, int] = {}  # of the rows of this block that become known
        verdicts: list[tuple[int, float] | None] = []
        for i, (before, beside) in enumerate(zip(self._known.near(block), own.near(block), strict=True)):
            rivals = [*before, *(one._replace(place=place[one.place]) for one in beside if one.place in place)]
            nearest = max(rivals, key=lambda one: (one.f, -one.place), default=None)
            verdicts.append(nearest and (nearest.place, nearest.f))
            if nearest is None:
                place[i] = len(self._known) + len(place)
        self._known.add([block[i] for i in place])
        return verdicts


def _encode(text: str, language: Language, ids: dict[str, int]) -> Row:
    """A number for each word; words not met before are numbered in `ids`."""
    return row([ids.setdefault(word, len(ids)) for word in words(text, language)])
