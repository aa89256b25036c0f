"""Exact novelty: is a text nearer than a limit, in ROUGE-L F, to anything known?

Self-Instruct (Wang et al. 2023, Section 2.2) keeps an instruction whose ROUGE-L with every known one is at most 0.7.
ROUGE-L F is 2 LCS / (m + n), which is the normalised Indel similarity of two token sequences: rapidfuzz finds the few
near pairs, and these alone are decided with the arithmetic of the `rouge_score` package (no stemming), so that
verdicts at the limit are the same as its own.
"""

import re
import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
from rapidfuzz.distance import Indel, LCSseq
from rapidfuzz.process import cdist

from isheep.batching import chunks

Language = Literal["en", "any"]

BLOCK = 256  # texts compared at once: a block times 10,000 known texts is a 10 MB matrix
SLACK = 1e-3  # how far below the limit a pair still counts as near: far more than float32 loses
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


def f_measure(one: Sequence[int], other: Sequence[int]) -> float:
    """ROUGE-L F of two token sequences, in the float steps of `rouge_score`; 0 where one is empty. Symmetric."""
    lcs = LCSseq.similarity(one, other)
    if not lcs:
        return 0.0
    precision, recall = lcs / len(one), lcs / len(other)
    return 2 * precision * recall / (precision + recall)


def near(texts: Sequence[str], known: Sequence[str], limit: float, language: Language = "en") -> Iterator[list[int]]:
    """For each text in turn the places of all known texts whose F with it is above the limit."""
    ids: dict[str, int] = {}
    rows = [_encode(text, language, ids) for text in known]
    for some in chunks(texts, BLOCK):
        block = [_encode(text, language, ids) for text in some]
        for row, rivals in zip(block, _near(block, rows, limit), strict=True):
            yield [k for k in rivals if f_measure(row, rows[k]) > limit]


def repeated(texts: Sequence[str], limit: float, language: Language = "en") -> list[bool]:
    """For each text whether another one of them is nearer to it than the limit."""
    ids: dict[str, int] = {}
    rows = [_encode(text, language, ids) for text in texts]
    found: list[bool] = []
    for block in chunks(rows, BLOCK):
        for line in _table(block, rows, limit):
            here = len(found)
            line[here] = 0  # itself
            close = line > limit + SLACK if rows[here] else np.zeros(0)  # no words are near nothing
            found.append(bool(close.any()) or any(f_measure(rows[here], rows[k]) > limit for k in np.flatnonzero(line)))
    return found


class Pool:
    """The known texts of one iteration: the seeds, then every text that was novel, in order."""

    def __init__(self, known: Sequence[str], limit: float, language: Language = "en") -> None:
        self.limit = limit
        self.language: Language = language
        self._ids: dict[str, int] = {}
        self._known = [_encode(text, language, self._ids) for text in known]

    def __len__(self) -> int:
        return len(self._known)

    def novel(self, texts: Sequence[str]) -> list[tuple[int, float] | None]:
        """For each text in turn: None if its F with every known text is at most the limit, and then it is known too;
        else (place of the nearest known text, its F).

        How the texts are split over calls changes nothing.
        """
        blocks = ([_encode(text, self.language, self._ids) for text in some] for some in chunks(texts, BLOCK))
        return [verdict for block in blocks for verdict in self._judge(block)]

    def _judge(self, rows: list["array[int]"]) -> list[tuple[int, float] | None]:
        to_known, to_rows = _near(rows, self._known, self.limit), _near(rows, rows, self.limit)
        place: dict[int, int] = {}  # of the rows of this block that became known
        verdicts: list[tuple[int, float] | None] = []
        for i, row in enumerate(rows):
            rivals = [*to_known[i], *(place[j] for j in to_rows[i] if j in place)]
            best = max(((f_measure(row, self._known[k]), -k) for k in rivals), default=(0.0, 0))
            if best[0] > self.limit:
                verdicts.append((-best[1], best[0]))
            else:
                verdicts.append(None)
                place[i] = len(self._known)
                self._known.append(row)
        return verdicts


def _encode(text: str, language: Language, ids: dict[str, int]) -> "array[int]":
    """A number for each word; words not met before are numbered in `ids`."""
    return array("Q", [ids.setdefault(word, len(ids)) for word in words(text, language)])


def _near(rows: Sequence["array[int]"], known: Sequence["array[int]"], limit: float) -> list[list[int]]:
    """For each row the places in `known` whose F may be above the limit (a few below it are among them)."""
    return [np.flatnonzero(line).tolist() for line in _table(rows, known, limit)] if known else [[] for _ in rows]


def _table(rows: Sequence["array[int]"], known: Sequence["array[int]"], limit: float) -> Any:
    """F of each row with each known one, about, and 0 where it is not near the limit: float32 (rows, known)."""
    cut = max(limit - SLACK, 0.0)
    return cdist(rows, known, scorer=Indel.normalized_similarity, score_cutoff=cut, dtype=np.float32)
