"""Many word sequences, held so that all of them nearer to a new one than a limit are found quickly, and exactly.

Nearness is ROUGE-L F, 2 LCS / (n + m) for n and m words. Above a limit it needs an LCS of `need` words or more, so at
most n + m - 2 need words of the two (as multisets) are not matched. A row's print has a bit for each word, modulo
`BITS`, set where it has an odd number of such words: two rows' prints differ in no more bits than there are unmatched
words. Counting bits in the prints, by length and first in a folded one, rules out nearly all pairs at about a
nanosecond each; the rest are decided by their LCS (rapidfuzz). Nothing is estimated: only pairs that can't be near are
ruled out, and how many bits a print has changes the time alone.
"""

import math
import sys
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from rapidfuzz.distance import Indel, LCSseq
from rapidfuzz.process import cpdist

from isheep.batching import chunks, num_cpu_threads

BITS = 512  # of a print
WORDS = BITS // 64
SPARSE = 5  # bits of a folded print for each word that may be unmatched: fewer let more pairs through
BLOCK = 1024  # rows looked up at once
CELLS = 2**15  # pairs of prints compared at once: what is written of them stays in a core's cache
PAIRS = 2**15  # pairs decided at once
LARGE = 2**22  # pairs from which on threads pay
SLACK = 1e-3  # far more than any float here loses: what is nearer to the limit is decided exactly
CHARACTERS = 0x110000


class TokenRow(NamedTuple):
    """A text as the numbers of its words (the characters of a str, which rapidfuzz reads without a copy), and its
    print."""

    words: Any  # str, or an array where a number is too large for a character
    print: int


class NearRow(NamedTuple):
    """A known row that is near another, by its place, and F of the two."""

    place: int
    f: float


def token_row(numbers: Sequence[int]) -> TokenRow:
    """A row of word numbers."""
    print_ = 0
    for number in numbers:
        print_ ^= 1 << number % BITS
    small = max(numbers, default=0) < CHARACTERS
    return TokenRow("".join(map(chr, numbers)) if small else array("Q", numbers), print_)


def f_measure(one: Any, other: Any) -> float:
    """ROUGE-L F of the words of two rows, in the float steps of `rouge_score`; 0 where one is empty. Symmetric."""
    lcs = LCSseq.similarity(one, other)
    if not lcs:
        return 0.0
    precision, recall = lcs / len(one), lcs / len(other)
    return 2 * precision * recall / (precision + recall)


class Shelf(NamedTuple):
    """The known rows of one length: their places, their prints, and the prints' folds, one array for each 64 bits."""

    places: "array[int]"
    prints: "array[int]"
    folds: tuple["array[int]", ...]


class RougeIndex:
    """Known rows. Their order is their places, 0, 1, ..."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._words: list[Any] = []
        self._shelves: dict[int, Shelf] = {}

    def __len__(self) -> int:
        return len(self._words)

    def add(self, some: Sequence[TokenRow]) -> None:
        for length, own, prints in _by_length(some):
            shelf = self._shelves.get(length) or self._new(length)
            shelf.places.frombytes((own + len(self)).tobytes())
            shelf.prints.frombytes(prints.tobytes())
            for fold, part in zip(shelf.folds, _fold(prints, len(shelf.folds)).T, strict=True):
                fold.frombytes(part.tobytes())
        self._words += [one.words for one in some]

    def _new(self, length: int) -> Shelf:
        width = 1
        while width < WORDS and 64 * width < SPARSE * self._unmatched(length, length):
            width *= 2
        shelf = Shelf(array("Q"), array("Q"), tuple(array("Q") for _ in range(width)))
        return self._shelves.setdefault(length, shelf)

    def _unmatched(self, n: int, m: int) -> int:
        """How many words of two near rows of these lengths are unmatched at most; below 0 where none can be near."""
        need = max(1, math.ceil(self.limit * (n + m) / 2 - SLACK))
        return n + m - 2 * need if need <= min(n, m) else -1

    def near(self, some: Sequence[TokenRow]) -> Iterator[list[NearRow]]:
        """For each row in turn the known rows whose F with it is above the limit, in the order of their places."""
        for block in chunks(some, BLOCK):
            yield from self._near(block)

    def _near(self, some: Sequence[TokenRow]) -> list[list[NearRow]]:
        groups = _by_length(some)

        def look(m: int) -> list[tuple[int, NearRow]]:
            return list(self._decided(some, self._possible(groups, m)))

        lengths = sorted(self._shelves, key=lambda m: -len(self._shelves[m].places))
        found: list[list[NearRow]] = [[] for _ in some]
        for some_found in _mapped(look, lengths, len(some) * len(self)):
            for i, near in some_found:
                found[i].append(near)
        return [sorted(own) for own in found]

    def _possible(self, groups: Sequence[tuple[int, Any, Any]], m: int) -> Iterator[tuple[Any, Any]]:
        """Pairs that may be near: their places among the rows looked up, and among the known rows of length `m`."""
        shelf = self._shelves[m]
        places, prints = np.frombuffer(shelf.places, np.uint64), np.frombuffer(shelf.prints, np.uint64)
        folds = [np.frombuffer(fold, np.uint64) for fold in shelf.folds]
        for n, own, full in groups:
            if (most := self._unmatched(n, m)) < 0:
                continue
            mine = _fold(full, len(folds))
            step = max(1, CELLS // len(own))
            for start in range(0, len(places), step):
                apart: Any = np.zeros((), np.uint8 if len(folds) < 4 else np.uint16)
                for part, fold in zip(mine.T, folds, strict=True):
                    apart = apart + np.bitwise_count(part[:, None] ^ fold[start : start + step])
                found: Any = np.flatnonzero(apart <= most)
                if not len(found):
                    continue
                i, k = np.divmod(found, apart.shape[1])
                k += start
                good = np.bitwise_count(full[i] ^ prints.reshape(-1, WORDS)[k]).sum(1, np.uint16) <= most
                yield own[i[good]], places[k[good]]

    def _decided(self, some: Sequence[TokenRow], possible: Iterator[tuple[Any, Any]]) -> Iterator[tuple[int, NearRow]]:
        """Those of the pairs that are near, their LCS computed a good many at once."""
        held: list[tuple[int, int]] = []
        for i, k in possible:
            held += zip(i.tolist(), k.tolist(), strict=True)
            if len(held) >= PAIRS:
                yield from self._exactly(some, held)
                held = []
        yield from self._exactly(some, held)

    def _exactly(self, some: Sequence[TokenRow], pairs: Sequence[tuple[int, int]]) -> Iterator[tuple[int, NearRow]]:
        for part in chunks(pairs, PAIRS):
            ours, theirs = [some[i].words for i, _ in part], [self._words[k] for _, k in part]
            cut = max(self.limit - SLACK, 0.0)
            scores = cpdist(ours, theirs, scorer=Indel.normalized_similarity, score_cutoff=cut, dtype=np.float32)
            for at in np.flatnonzero(scores).tolist():
                if (f := f_measure(ours[at], theirs[at])) > self.limit:
                    yield part[at][0], NearRow(part[at][1], f)


def _by_length(some: Sequence[TokenRow]) -> list[tuple[int, Any, Any]]:
    """The rows that have words, by their number: (number, places in `some`, prints: uint64 (rows, WORDS))."""
    places: dict[int, list[int]] = defaultdict(list)
    for i, one in enumerate(some):
        if one.words:  # no words are near nothing
            places[len(one.words)].append(i)
    return [(length, np.array(own, np.uint64), _prints(some, own)) for length, own in places.items()]


def _prints(some: Sequence[TokenRow], places: Sequence[int]) -> Any:
    whole = b"".join(some[i].print.to_bytes(BITS // 8, sys.byteorder) for i in places)
    return np.frombuffer(whole, np.uint64).reshape(-1, WORDS)


def _fold(prints: Any, width: int) -> Any:
    """The prints modulo 64 `width` bits: uint64 (rows, width)."""
    return np.bitwise_xor.reduce(prints.reshape(len(prints), -1, width), 1)


def _mapped(look: Callable[[int], Any], lengths: Sequence[int], pairs: int) -> Iterator[Any]:
    """`look` at each length, on all cores where there is much to do."""
    if pairs < LARGE or (usable := num_cpu_threads()) == 1:
        yield from map(look, lengths)
        return
    with ThreadPoolExecutor(usable) as pool:
        yield from pool.map(look, lengths)
