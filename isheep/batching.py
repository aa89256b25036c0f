"""Fixed batches, and seeds that come from a place rather than from a global generator."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
Made = TypeVar("Made")


def chunks(items: Sequence[T], size: int, first: int = 0) -> Iterator[Sequence[T]]:
    """Cut `items`, from place `first` on, into pieces of `size`, in order; the last one may be shorter."""
    for start in range(first, len(items), size):
        yield items[start : start + size]


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """`chunks` of what need not be in memory as a whole."""
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def ordered_map(make: Callable[[T], Made], places: Iterable[T], at_once: int) -> Iterator[Made]:
    """`make` of each place, in order. `at_once` are under way at a time, in threads, and finished ones wait their turn.

    With 1 each is made when it is asked for. So what is made must hang on its place alone, never on when.
    """
    if at_once == 1:
        yield from map(make, places)
        return
    rest, pool = iter(places), ThreadPoolExecutor(at_once)
    try:
        # Twice as many: nobody idles where the first one takes longest, or while its rows are written.
        owed = deque(pool.submit(make, place) for place in islice(rest, 2 * at_once))
        while owed:
            yield owed.popleft().result()
            owed.extend(pool.submit(make, place) for place in islice(rest, 1))
    finally:  # what is under way when nobody wants more is not waited for
        pool.shutdown(wait=False, cancel_futures=True)


def derive_seed(*place: int | str) -> int:
    """A 63-bit seed for a place, such as `seed_of(run_seed, iteration, "response", batch)`.

    The same place gives the same seed on every machine; `1` and `"1"` are different places.
    """
    return int.from_bytes(sha256(repr(place).encode()).digest()[:8], "big") >> 1


def num_cpu_threads() -> int:
    """OMP_NUM_THREADS, the usual word on how many threads a process may use, or the cores that this one may use."""
    said = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(said) if said.isdigit() and int(said) else usable
