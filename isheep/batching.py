"""Fixed batches, and random seeds that are derived from a path rather than drawn from a global generator."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import islice
from typing import TypeVar

T = TypeVar("T")
Output = TypeVar("Output")


def chunks(items: Sequence[T], size: int, first: int = 0) -> Iterator[Sequence[T]]:
    """Yield the items from index `first` on in slices of `size`, in order; the last slice may be shorter."""
    for start in range(first, len(items), size):
        yield items[start : start + size]


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of `size`, in order; unlike for `chunks`, they need not be a sequence in memory."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def ordered_map(make: Callable[[T], Output], items: Iterable[T], max_in_flight: int) -> Iterator[Output]:
    """Yield `make(item)` of each item, in order.

    With a `max_in_flight` above 1, that many calls run at a time, in threads, and finished results wait for their turn.
    With 1, each result is made when it is needed. `make` must depend only on its item, not on timing.
    """
    if max_in_flight == 1:
        yield from map(make, items)
        return
    iterator, pool = iter(items), ThreadPoolExecutor(max_in_flight)
    try:
        # Twice as many are submitted, so that no thread is idle while the first call takes longest or rows are written.
        futures = deque(pool.submit(make, item) for item in islice(iterator, 2 * max_in_flight))
        while futures:
            yield futures.popleft().result()
            futures.extend(pool.submit(make, item) for item in islice(iterator, 1))
    finally:
        # If the caller stops early, the calls in flight are not waited for.
        pool.shutdown(wait=False, cancel_futures=True)


def derive_seed(*path: int | str) -> int:
    """Return a 63-bit random seed for a path, such as `derive_seed(recipe.seed, iteration, "response", batch)`.

    The same path gives the same seed on every machine. The elements `1` and `"1"` give different seeds.
    """
    return int.from_bytes(sha256(repr(path).encode()).digest()[:8], "big") >> 1


def num_cpu_threads() -> int:
    """Return the number of threads that a process may use: OMP_NUM_THREADS, or the number of its usable cores."""
    setting = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(setting) if setting.isdigit() and int(setting) else num_usable_cores()


def num_usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
