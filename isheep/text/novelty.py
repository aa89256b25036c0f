"""Exact novelty: whether the ROUGE-L F of a text and any known text is above a limit.

Self-Instruct (Wang et al. 2023, Section 2.2) keeps an instruction whose ROUGE-L with every known one is at most 0.7.
The verdicts are those of the `rouge_score` package without stemming, also at the limit. isheep.text.rouge_index finds
the near pairs.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Literal

from isheep.batching import batched, chunks
from isheep.text.rouge_index import BLOCK_ROWS, NearRow, RougeIndex, TokenRow, token_row

Language = Literal["en", "es", "zh", "ar", "hi", "de", "any"]
"""The language of tasks, or "any" for all others and for mixtures."""

SCRIPTS = {"en": "LATIN", "es": "LATIN", "de": "LATIN", "zh": "CJK", "ar": "ARABIC", "hi": "DEVANAGARI"}
"""The script of each language: the first word of the Unicode names of its letters."""

# Thai to Myanmar, Khmer, kana, Han: scripts without spaces between words, in which each character counts as a word.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)


def split_words(text: str, language: Language = "en") -> list[str]:
    """Return the words of a text that are compared.

    "en" gives the tokens of `rouge_score`: runs of a-z and 0-9 in the lower-cased text. The others give Unicode words:
    runs of letters and digits of any script with their marks, and each character of a script without spaces. The two
    agree on ASCII.
    """
    if language == "en":
        return re.findall(r"[a-z0-9]+", text.lower())
    return _unicode_word().findall(unicodedata.normalize("NFC", _long_marks().sub(r"\1", text.lower())))


@cache
def _long_marks() -> re.Pattern[str]:
    """Return a pattern of more combining marks in a row than any language has; the first 30 are its group.

    Unicode calls texts without such runs stream-safe (UAX 15). Sorting a run takes time that grows with its square.
    """
    marks = "".join(c for c in map(chr, range(0x300, 0x20000)) if unicodedata.combining(c))
    return re.compile(f"([{marks}]{{30}})[{marks}]+")


def is_in_script(text: str, language: Language) -> bool:
    """Return whether at least half of a text is in the script of the language; True for "any".

    For "en" half of the letters must be a to z: only these are compared, so an exact repeat in another script would
    count as novel. For the other languages half of the words must begin with a letter of the script, because a few
    names in Latin letters have more letters than a sentence in Chinese.
    """
    if language == "any":
        return True
    if language == "en":
        letters = [character for character in text if character.isalpha()]
        return 2 * sum(map(str.isascii, letters)) >= len(letters)
    words = [word for word in split_words(text, language) if word[0].isalpha()]
    script = SCRIPTS[language]
    return 2 * sum(unicodedata.name(word[0], "").startswith(script) for word in words) >= len(words)


@cache
def _unicode_word() -> re.Pattern[str]:
    marks = "".join(c for c in map(chr, range(0x300, 0x1F000)) if unicodedata.category(c).startswith("M"))
    return re.compile(rf"(?:(?![_{UNSPACED}])\w[{marks}]*)+|(?=\w)[{UNSPACED}][{marks}]*")


def find_near(
    texts: Iterable[str], known_texts: Sequence[str], limit: float, language: Language = "en"
) -> Iterator[list[int]]:
    """Yield for each text the indices of all known texts whose F with it is above the limit."""
    ids: dict[str, int] = {}
    index = RougeIndex(limit)
    index.add([_encode(text, language, ids) for text in known_texts])
    for block in batched(texts, BLOCK_ROWS):
        for near_rows in index.near([_encode(text, language, ids) for text in block]):
            yield [row.row_index for row in near_rows]


def find_repeated(
    texts: Sequence[str], limit: float, language: Language = "en", among: Iterable[str] | None = None
) -> list[bool]:
    """Return for each text whether another one is nearer to it than the limit.

    The others are those of `texts`, or, if given, of `among`, which must contain each of `texts` once.

    A text that a pool refuses is near a text of the pool, and both are repeated. The texts of the pool are not near
    each other, so only refused texts have to be compared with the remaining ones; if all texts are alike, few remain.
    """
    pooled: list[int] = []
    repeated = [False] * len(texts)
    for index, verdict in enumerate(NoveltyPool([], limit, language).novel(texts)):
        if verdict is None:
            pooled.append(index)
        else:
            repeated[index] = repeated[pooled[verdict[0]]] = True
    remaining = [index for index in pooled if not repeated[index]]
    candidates = among
    if candidates is None:
        candidates = (text for text, refused in zip(texts, repeated, strict=True) if refused)
    counts: Counter[int] = Counter()
    for positions in find_near(candidates, [texts[index] for index in remaining], limit, language):
        counts.update(positions)
    # A text of `among` is near itself.
    num_self = 0 if among is None else 1
    for position, count in counts.items():
        repeated[remaining[position]] = count > num_self
    return repeated


class NoveltyPool:
    """The known texts of one iteration: the seed tasks, then every text that was novel, in order."""

    def __init__(self, known_texts: Sequence[str], limit: float, language: Language = "en") -> None:
        self.limit = limit
        self.language: Language = language
        self._ids: dict[str, int] = {}
        self._index = RougeIndex(limit)
        self._index.add([_encode(text, language, self._ids) for text in known_texts])

    def __len__(self) -> int:
        return len(self._index)

    def novel(self, texts: Sequence[str]) -> list[tuple[int, float] | None]:
        """Return for each text None if it is novel, else the index of the nearest known text and their F.

        A text is novel if its F with every known text is at most the limit; it is known from then on. The result does
        not depend on how the texts are split over calls.
        """
        blocks = ([_encode(text, self.language, self._ids) for text in part] for part in chunks(texts, BLOCK_ROWS))
        return [verdict for block in blocks for verdict in self._judge(block)]

    def _judge(self, block: Sequence[TokenRow]) -> list[tuple[int, float] | None]:
        near_known = list(self._index.near(block))
        # Only rows that are near no known text can become known.
        candidates = [i for i, near_rows in enumerate(near_known) if not near_rows]
        block_index = RougeIndex(self.limit)
        block_index.add([block[i] for i in candidates])
        # The pool's indices of the block's rows that became known.
        pool_indices: dict[int, int] = {}
        verdicts: list[tuple[int, float] | None] = []
        for i, near_candidates in enumerate(block_index.near(block)):
            near_rows = list(near_known[i])
            for row in near_candidates:
                known_index = pool_indices.get(candidates[row.row_index])
                if known_index is not None:
                    near_rows.append(NearRow(known_index, row.score))
            nearest = max(near_rows, key=lambda row: (row.score, -row.row_index), default=None)
            verdicts.append(nearest and (nearest.row_index, nearest.score))
            if nearest is None:
                pool_indices[i] = len(self._index) + len(pool_indices)
        self._index.add([block[i] for i in pool_indices])
        return verdicts


def _encode(text: str, language: Language, ids: dict[str, int]) -> TokenRow:
    """Return the row of a text's word numbers. New words are added to `ids`."""
    return token_row([ids.setdefault(word, len(ids)) for word in split_words(text, language)])
