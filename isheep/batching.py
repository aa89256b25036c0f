"""Fixed batches, and seeds that come from a place rather than from a global generator."""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import TypeVar

T = TypeVar("T")


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Cut `items` into pieces of `size`, in order; the last one may be shorter."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def seed_of(*place: int | str) -> int:
    """A 63-bit seed for a place, such as `seed_of(run_seed, iteration, "response", batch)`.

    The same place gives the same seed on every machine; `1` and `"1"` are different places.
    """
    return int.from_bytes(sha256(repr(place).encode()).digest()[:8], "big") >> 1
