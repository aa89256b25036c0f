"""Which tokens rows have in common, and which rows are read together."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

# With fewer shared tokens than this, a separate forward pass over them costs more than it saves.
MIN_PREFIX_TOKENS = 8
# The same for a prefix that is a smaller part of the shorter of two rows than this.
MIN_SHARED_PART = 0.125


class PrefixGroup(NamedTuple):
    """Rows that begin alike: the number of tokens that they share, and their indices."""

    num_shared: int
    indices: list[int]


def common_length(first: Sequence[int], second: Sequence[int], limit: int) -> int:
    """Return the number of leading tokens that two rows share, at most `limit`."""
    pairs = enumerate(zip(first[:limit], second, strict=False))
    return next((index for index, (left, right) in pairs if left != right), limit)


def common_prefix_length(rows: Sequence[Sequence[int]], num_own: Sequence[int]) -> int:
    """Return the number of leading tokens that all rows share, or 0 if these are too few to be worth a pass.

    The last `num_own[i]` tokens of row i are never part of the prefix.
    """
    if len(rows) < 2:
        return 0
    limit = min(len(row) - own for row, own in zip(rows, num_own, strict=True))
    # What the first and the last row in lexical order share, all rows share.
    shared = common_length(min(map(list, rows)), max(map(list, rows)), limit)
    return shared if shared >= MIN_PREFIX_TOKENS else 0


def group_by_prefix(rows: Sequence[Sequence[int]], num_own: Sequence[int], max_size: int) -> list[PrefixGroup]:
    """Group rows that begin alike, at most `max_size` in a group, so that the fewest tokens have to be read.

    The last `num_own[i]` tokens of row i are never shared. A group is read in two passes, its common prefix once and
    then the remaining tokens of each row. It consists of neighbors in lexical order. The grouping that saves most is
    found by dynamic programming over this order.
    """
    order = sorted(range(len(rows)), key=lambda i: list(rows[i]))
    limits = [len(rows[i]) - num_own[i] for i in order]
    shared = [0] * len(rows)
    for k in range(1, len(rows)):
        first, second = rows[order[k - 1]], rows[order[k]]
        length = common_length(first, second, min(limits[k - 1], limits[k]))
        enough = max(MIN_PREFIX_TOKENS, MIN_SHARED_PART * min(len(first), len(second)))
        shared[k] = length if length >= enough else 0
    # The tokens saved in the rows up to k, and the first row and the shared tokens of the group that ends with row k.
    saved, last = [0], list[tuple[int, int]]()
    for k in range(len(rows)):
        best, start, num_shared = saved[k], k, limits[k]
        common = limits[k]
        for first_row in range(k - 1, max(-1, k - max_size), -1):
            common = min(common, shared[first_row + 1])
            if not common:
                break
            if saved[first_row] + common * (k - first_row) > best:
                best, start, num_shared = saved[first_row] + common * (k - first_row), first_row, common
        saved.append(best)
        last.append((start, num_shared))
    groups, end = list[PrefixGroup](), len(rows)
    while end:
        start, num_shared = last[end - 1]
        groups.append(PrefixGroup(num_shared, order[start:end]))
        end = start
    return groups[::-1]


def group_by_length(lengths: Sequence[int], max_size: int) -> Iterator[list[int]]:
    """Yield indices in groups of similar lengths, at most `max_size` in a group, the longest first: little padding."""
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if group and (len(group) == max_size or lengths[index] + MIN_PREFIX_TOKENS < 0.75 * lengths[group[0]]):
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def is_prefix(prefix: tuple[int, ...], tokens: tuple[int, ...]) -> bool:
    """Return whether `tokens` start with all tokens of `prefix`."""
    return tokens[: len(prefix)] == prefix


def option_paths(options: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Return the fewest token sequences that have every proper prefix of every option as a prefix.

    Reading these after a prompt gives the probability of each token of each option.
    """
    prefixes = {option[:length] for option in options for length in range(len(option))}
    return sorted(path for path in prefixes if not any(is_prefix(path, longer) for longer in prefixes - {path}))
