"""Keep the memory that a training frees: the next step takes it without asking the system for new, empty pages.

A training on a CPU allocates and frees the same gigabytes in every step. glibc gives large blocks back to the system at
once, and clearing new ones took a fifth of the time (docs/performance.md). Imports no torch.
"""

import contextlib
import ctypes
from collections.abc import Iterator

# The numbers of glibc's settings in malloc.h, and their defaults.
TRIM_THRESHOLD, TRIM_DEFAULT = -1, 128 * 1024
MMAP_MAX, MMAP_DEFAULT = -4, 65_536
MOST_BYTES = 2**31 - 1


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Keep freed memory in this process inside the block, and give it back at its end. Without glibc, do nothing."""
    library = ctypes.CDLL(None)
    if not (hasattr(library, "mallopt") and hasattr(library, "malloc_trim")):
        yield
        return
    library.mallopt(MMAP_MAX, 0)
    library.mallopt(TRIM_THRESHOLD, MOST_BYTES)
    try:
        yield
    finally:
        library.mallopt(MMAP_MAX, MMAP_DEFAULT)
        library.mallopt(TRIM_THRESHOLD, TRIM_DEFAULT)
        library.malloc_trim(0)
