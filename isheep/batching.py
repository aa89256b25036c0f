"""Fixed batches, and seeds that come from a place rather than from a global generator."""

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def chunks(items: Sequence[T], size: int, first: int = 0) -> Iterator[Sequence[T]]:
    """Cut `items`, from place `first` on, into pieces of `size`, in order; the last one may be shorter."""
    for start in range(first, len(items), size):
        yield items[start : start + size]


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """`chunks` of what need not be in memory as a whole."""
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def seed_of(*place: int | str) -> int:
    """A 63-bit seed for a place, such as `seed_of(run_seed, iteration, "response", batch)`.

    The same place gives the same seed on every machine; `1` and `"1"` are different places.
    """
    return int.from_bytes(sha256(repr(place).encode()).digest()[:8], "big") >> 1
