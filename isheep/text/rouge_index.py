"""An index of word sequences that finds all of them whose ROUGE-L F with a new one is above a limit, fast and exactly.

ROUGE-L F is 2 LCS / (n + m) for sequences of n and m words. To be above a limit it requires an LCS of at least `need`
words, so at most n + m - 2 need words of the two (as multisets) are unmatched. The signature of a row has a bit for
each word, modulo SIGNATURE_BITS, which is set if the row has an odd number of such words: the signatures of two rows
differ in at most as many bits as there are unmatched words. Counting the differing bits, by length and first in a
folded signature, excludes nearly all pairs at about a nanosecond each; the remaining pairs are decided by their LCS
(rapidfuzz). Nothing is approximated: only pairs that can't be near are excluded, and the number of bits changes the
time alone.
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

SIGNATURE_BITS = 512
SIGNATURE_WORDS = SIGNATURE_BITS // 64
# Bits of a folded signature for each word that may be unmatched. Fewer bits exclude fewer pairs.
FOLD_BITS_PER_WORD = 5
# Rows that are looked up at a time.
BLOCK_ROWS = 1024
# Pairs of signatures that are compared at a time, so that the results stay in a core's cache.
SIGNATURE_PAIRS = 2**15
# Pairs whose LCS is computed at a time.
LCS_PAIRS = 2**15
# The number of pairs from which on threads save time.
MIN_PAIRS_FOR_THREADS = 2**22
# Far larger than any rounding error here: pairs within this distance of the limit are decided exactly.
TOLERANCE = 1e-3
NUM_CODE_POINTS = 0x110000


class TokenRow(NamedTuple):
    """A text as word numbers, and its signature.

    The numbers are the characters of a str, which rapidfuzz reads without a copy, or an array if a number is too large
    for a character.
    """

    words: Any
    signature: int


class NearRow(NamedTuple):
    """A known row that is near another one: its index, and the F of the two."""

    row_index: int
    score: float


def token_row(numbers: Sequence[int]) -> TokenRow:
    """Return the row of some word numbers."""
    signature = 0
    for number in numbers:
        signature ^= 1 << number % SIGNATURE_BITS
    if max(numbers, default=0) < NUM_CODE_POINTS:
        return TokenRow("".join(map(chr, numbers)), signature)
    return TokenRow(array("Q", numbers), signature)


def f_measure(first: Any, second: Any) -> float:
    """Return the ROUGE-L F of the words of two rows, with the floating-point steps of `rouge_score`; 0 if one is empty.

    It is symmetric.
    """
    lcs = LCSseq.similarity(first, second)
    if not lcs:
        return 0.0
    precision, recall = lcs / len(first), lcs / len(second)
    return 2 * precision * recall / (precision + recall)


class Shelf(NamedTuple):
    """The known rows of one length: their indices, signatures, and folded signatures (an array for each 64 bits)."""

    indices: "array[int]"
    signatures: "array[int]"
    folds: tuple["array[int]", ...]


class RougeIndex:
    """Known rows with indices 0, 1, ... in the order in which they were added."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._words: list[Any] = []
        self._shelves: dict[int, Shelf] = {}

    def __len__(self) -> int:
        return len(self._words)

    def add(self, rows: Sequence[TokenRow]) -> None:
        """Add rows."""
        for length, positions, signatures in _by_length(rows):
            shelf = self._shelves.get(length) or self._new_shelf(length)
            shelf.indices.frombytes((positions + len(self)).tobytes())
            shelf.signatures.frombytes(signatures.tobytes())
            for fold, part in zip(shelf.folds, _fold(signatures, len(shelf.folds)).T, strict=True):
                fold.frombytes(part.tobytes())
        self._words += [row.words for row in rows]

    def _new_shelf(self, length: int) -> Shelf:
        width = 1
        while width < SIGNATURE_WORDS and 64 * width < FOLD_BITS_PER_WORD * self._max_unmatched(length, length):
            width *= 2
        shelf = Shelf(array("Q"), array("Q"), tuple(array("Q") for _ in range(width)))
        return self._shelves.setdefault(length, shelf)

    def _max_unmatched(self, n: int, m: int) -> int:
        """Return the largest number of unmatched words of two near rows of these lengths; -1 if none can be near."""
        need = max(1, math.ceil(self.limit * (n + m) / 2 - TOLERANCE))
        return n + m - 2 * need if need <= min(n, m) else -1

    def near(self, rows: Sequence[TokenRow]) -> Iterator[list[NearRow]]:
        """Yield for each row the known rows whose F with it is above the limit, in the order of their indices."""
        for block in chunks(rows, BLOCK_ROWS):
            yield from self._near(block)

    def _near(self, rows: Sequence[TokenRow]) -> list[list[NearRow]]:
        groups = _by_length(rows)

        def search(length: int) -> list[tuple[int, NearRow]]:
            return list(self._decide(rows, self._candidates(groups, length)))

        lengths = sorted(self._shelves, key=lambda length: -len(self._shelves[length].indices))
        results: list[list[NearRow]] = [[] for _ in rows]
        for pairs in _map(search, lengths, len(rows) * len(self)):
            for position, near_row in pairs:
                results[position].append(near_row)
        return [sorted(near_rows) for near_rows in results]

    def _candidates(self, groups: Sequence[tuple[int, Any, Any]], m: int) -> Iterator[tuple[Any, Any]]:
        """Yield pairs that may be near: positions of the new rows, and indices of the known rows of length `m`."""
        shelf = self._shelves[m]
        indices, signatures = np.frombuffer(shelf.indices, np.uint64), np.frombuffer(shelf.signatures, np.uint64)
        folds = [np.frombuffer(fold, np.uint64) for fold in shelf.folds]
        for n, positions, row_signatures in groups:
            if (max_unmatched := self._max_unmatched(n, m)) < 0:
                continue
            row_folds = _fold(row_signatures, len(folds))
            step = max(1, SIGNATURE_PAIRS // len(positions))
            for start in range(0, len(indices), step):
                distance: Any = np.zeros((), np.uint8 if len(folds) < 4 else np.uint16)
                for part, fold in zip(row_folds.T, folds, strict=True):
                    distance = distance + np.bitwise_count(part[:, None] ^ fold[start : start + step])
                close: Any = np.flatnonzero(distance <= max_unmatched)
                if not len(close):
                    continue
                i, k = np.divmod(close, distance.shape[1])
                k += start
                differing = row_signatures[i] ^ signatures.reshape(-1, SIGNATURE_WORDS)[k]
                possible = np.bitwise_count(differing).sum(1, np.uint16) <= max_unmatched
                yield positions[i[possible]], indices[k[possible]]

    def _decide(self, rows: Sequence[TokenRow], candidates: Iterator[tuple[Any, Any]]) -> Iterator[tuple[int, NearRow]]:
        """Yield the pairs that are near. Collects many pairs before it computes their LCS."""
        pairs: list[tuple[int, int]] = []
        for positions, indices in candidates:
            pairs += zip(positions.tolist(), indices.tolist(), strict=True)
            if len(pairs) >= LCS_PAIRS:
                yield from self._decide_exactly(rows, pairs)
                pairs = []
        yield from self._decide_exactly(rows, pairs)

    def _decide_exactly(
        self, rows: Sequence[TokenRow], pairs: Sequence[tuple[int, int]]
    ) -> Iterator[tuple[int, NearRow]]:
        cutoff = max(self.limit - TOLERANCE, 0.0)
        for part in chunks(pairs, LCS_PAIRS):
            new_rows, known_rows = [rows[i].words for i, _ in part], [self._words[k] for _, k in part]
            scores = cpdist(
                new_rows, known_rows, scorer=Indel.normalized_similarity, score_cutoff=cutoff, dtype=np.float32
            )
            for position in np.flatnonzero(scores).tolist():
                if (score := f_measure(new_rows[position], known_rows[position])) > self.limit:
                    yield part[position][0], NearRow(part[position][1], score)


def _by_length(rows: Sequence[TokenRow]) -> list[tuple[int, Any, Any]]:
    """Return the rows that have words, by their number: (number, positions, signatures: uint64 (rows, words)).

    Rows without words are near nothing.
    """
    positions: dict[int, list[int]] = defaultdict(list)
    for position, row in enumerate(rows):
        if row.words:
            positions[len(row.words)].append(position)
    return [(length, np.array(own, np.uint64), _signatures(rows, own)) for length, own in positions.items()]


def _signatures(rows: Sequence[TokenRow], positions: Sequence[int]) -> Any:
    data = b"".join(rows[i].signature.to_bytes(SIGNATURE_BITS // 8, sys.byteorder) for i in positions)
    return np.frombuffer(data, np.uint64).reshape(-1, SIGNATURE_WORDS)


def _fold(signatures: Any, width: int) -> Any:
    """Return the signatures modulo 64 `width` bits: uint64 (rows, width)."""
    return np.bitwise_xor.reduce(signatures.reshape(len(signatures), -1, width), 1)


def _map(search: Callable[[int], Any], lengths: Sequence[int], num_pairs: int) -> Iterator[Any]:
    """Yield `search` of each length, on all cores if there are many pairs."""
    num_threads = num_cpu_threads()
    if num_pairs < MIN_PAIRS_FOR_THREADS or num_threads == 1:
        yield from map(search, lengths)
        return
    with ThreadPoolExecutor(num_threads) as pool:
        yield from pool.map(search, lengths)
