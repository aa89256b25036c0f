"""Rows of token ids in a model: they are read in batches, and continued by one token at a time.

Imports torch and transformers, so only the engine's modules for decoding import it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from isheep.engines.attention import ForwardPass, Prefix, Segment, read_prefix, uses_shared_attention
from isheep.engines.prefixes import PrefixGroup, common_prefix_length, group_by_length, group_by_prefix

# An attention that is computed for one segment more costs about as much as so many columns of single rows.
SEGMENT_COST = 512
# Rows that have ended are removed when less than this share of a batch is in use. Until then they are computed.
MIN_USED_SHARE = 0.95
# The same for a model that keeps its own cache, which is copied as a whole.
MIN_USED_SHARE_OF_COPIED = 0.75


class SegmentBatch:
    """Rows after one prefix, for a model with shared attention. Rows that were read together form a segment."""

    can_grow = True

    def __init__(self, model: Any, prefix: Prefix, max_rows: int) -> None:
        self.model, self.prefix, self.max_rows = model, prefix, max_rows
        self.segments: list[Segment] = []

    def add(self, rows: Sequence[Sequence[int]]) -> tuple[list[int], Tensor]:
        """Read rows into new segments. Returns their indices in the order of the batch, and the logits after them."""
        indices, logits = list[int](), list[Tensor]()
        for segment_rows, segment, last in read_segments(self.model, self.prefix, rows, [1] * len(rows), self.max_rows):
            self.segments.append(segment)
            indices += segment_rows
            logits.append(last[:, -1])
        return indices, torch.cat(logits)

    def step(self, tokens: Tensor) -> Tensor:
        """Read one more token for each row. Returns the logits (rows, vocabulary) after it."""
        positions = torch.cat([segment.num_tokens for segment in self.segments])
        for segment in self.segments:
            segment.add_columns(1)
        return _read_columns(self.model, self.prefix, self.segments, tokens[:, None], positions[:, None], 1)[:, -1]

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Remove other rows than these if they are many. Returns the positions of the rows in their new order.

        Two segments are joined if the columns in which the shorter rows are padded cost less than a segment.
        """
        num_rows = sum(segment.num_rows for segment in self.segments)
        if len(rows) >= MIN_USED_SHARE * num_rows:
            return list(range(num_rows))
        kept, start, parts = set(rows), 0, list[tuple[Segment, list[int]]]()
        for segment in self.segments:
            own = range(start, start + segment.num_rows)
            start = own.stop
            own_rows = [row - own.start for row in own if row in kept]
            if own_rows:
                order = segment.keep(own_rows) if len(own_rows) < len(own) else own_rows
                parts.append((segment, [own.start + row for row in order]))
        parts.sort(key=lambda part: part[0].width)
        merged: list[tuple[Segment, list[int]]] = []
        for segment, order in parts:
            if merged and merged[-1][0].num_rows * (segment.width - merged[-1][0].width) < SEGMENT_COST:
                merged[-1][0].join(segment)
                merged[-1][1].extend(order)
            else:
                merged.append((segment, order))
        self.segments = [segment for segment, _ in merged]
        return [row for _, order in merged for row in order]


class CachedBatch:
    """Rows for a model that keeps its own cache: they are read at once, and padded on the left to the longest one."""

    can_grow = False

    def __init__(self, model: Any) -> None:
        self.model = model
        self.cache: Any = None

    def add(self, rows: Sequence[Sequence[int]]) -> tuple[list[int], Tensor]:
        """Read the rows of an empty batch. Returns their indices, and the logits after them."""
        self.cache = DynamicCache(config=self.model.config)
        ids, self.is_padding, positions = _pad(rows, self.model.device)
        self.lengths = positions[:, -1] + 1
        return list(range(len(rows))), self._forward(ids, positions)

    def step(self, tokens: Tensor) -> Tensor:
        """Read one more token for each row. Returns the logits (rows, vocabulary) after it."""
        self.is_padding = torch.nn.functional.pad(self.is_padding, (0, 1))
        positions, self.lengths = self.lengths[:, None], self.lengths + 1
        return self._forward(tokens[:, None], positions)

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Remove other rows than these if they are many. Returns the positions of the batch's rows."""
        if len(rows) >= MIN_USED_SHARE_OF_COPIED * len(self.lengths):
            return list(range(len(self.lengths)))
        positions = torch.tensor(rows, dtype=torch.long, device=self.lengths.device)
        if rows:
            self.cache.reorder_cache(positions)
        self.is_padding, self.lengths = self.is_padding[positions], self.lengths[positions]
        return list(rows)

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        logits: Tensor = self.model(
            ids, attention_mask=~self.is_padding, position_ids=positions, past_key_values=self.cache, use_cache=True,
            logits_to_keep=1,
        ).logits  # fmt: skip
        return logits[:, -1]


def read_shared_prefix(
    model: Any, rows: Sequence[Sequence[int]], num_own: Sequence[int]
) -> tuple[Prefix, list[Sequence[int]]]:
    """Read the prefix of all rows once. Returns it and the remaining tokens of each row, at least `num_own[i]`."""
    shared = common_prefix_length(rows, num_own) if uses_shared_attention(model) else 0
    return read_prefix(model, rows[0][:shared] if shared else []), [row[shared:] for row in rows]


def read_rows(
    model: Any, prefix: Prefix, rows: Sequence[Sequence[int]], num_own: Sequence[int], max_rows: int
) -> Iterator[tuple[list[int], Tensor]]:
    """Read rows, at most `max_rows` at a time. Yields some rows' indices and their last logits.

    The logits have the shape (rows, positions, vocabulary), with at least the last `num_own[i]` positions of row i.
    """
    if uses_shared_attention(model):
        for indices, _, logits in read_segments(model, prefix, rows, num_own, max_rows):
            yield indices, logits
        return
    for indices in group_by_length(list(map(len, rows)), max_rows):
        ids, is_padding, positions = _pad([rows[i] for i in indices], model.device)
        num_logits = max(num_own[i] for i in indices)
        yield (
            indices,
            model(
                ids, attention_mask=~is_padding, position_ids=positions, use_cache=False, logits_to_keep=num_logits
            ).logits,
        )


def read_segments(
    model: Any, prefix: Prefix, rows: Sequence[Sequence[int]], num_own: Sequence[int], max_rows: int
) -> Iterator[tuple[list[int], Segment, Tensor]]:
    """Read rows as `read_rows` does, and yield the segment that they form too.

    Rows of similar lengths form a segment. The tokens with which several rows begin are read once.
    """
    groups = group_by_prefix(rows, num_own, max_rows)
    for part in ([group for group in groups if len(group.indices) > 1], [g for g in groups if len(g.indices) == 1]):
        lengths = [max(len(rows[index]) for index in group.indices) for group in part]
        largest = max((len(group.indices) for group in part), default=1)
        for numbers in group_by_length(lengths, max(1, max_rows // largest)):
            yield _read_groups(model, prefix, rows, [part[number] for number in numbers], num_own)


def _read_groups(
    model: Any,
    prefix: Prefix,
    rows: Sequence[Sequence[int]],
    groups: Sequence[PrefixGroup],
    num_own: Sequence[int],
) -> tuple[list[int], Segment, Tensor]:
    """Read the rows of some groups into a segment. Returns the rows' indices, the segment and the last logits."""
    indices = [index for group in groups for index in group.indices]
    num_logits = max(num_own[index] for index in indices)
    segment = Segment(model, len(groups))
    if len(groups) == len(indices):
        return indices, segment, _read_tokens(model, prefix, segment, [rows[index] for index in indices], num_logits)
    _read_tokens(model, prefix, segment, [rows[group.indices[0]][: group.num_shared] for group in groups], 1)
    repeated = [number for number, group in enumerate(groups) for _ in group.indices]
    segment.select(torch.tensor(repeated, device=model.device))
    tails = [rows[index][group.num_shared :] for group in groups for index in group.indices]
    return indices, segment, _read_tokens(model, prefix, segment, tails, num_logits)


def _read_tokens(
    model: Any, prefix: Prefix, segment: Segment, rows: Sequence[Sequence[int]], num_logits: int
) -> Tensor:
    """Read at least one more token for each row of a segment. Returns the last logits."""
    ids, is_padding, positions = _pad(rows, model.device)
    positions = positions + segment.num_tokens[:, None]
    segment.add_columns(ids.shape[1], is_padding)
    return _read_columns(model, prefix, [segment], ids, positions, num_logits)


def _read_columns(
    model: Any, prefix: Prefix, segments: Sequence[Segment], ids: Tensor, positions: Tensor, num_logits: int
) -> Tensor:
    """Read `ids` (rows, columns) into the last columns of segments. Returns the last logits."""
    forward_pass = ForwardPass(prefix, segments, ids.shape[1])
    logits: Tensor = model(
        ids, position_ids=prefix.num_tokens + positions, use_cache=False, logits_to_keep=num_logits,
        attend_rows=forward_pass.attend,
    ).logits  # fmt: skip
    return logits


def _pad(rows: Sequence[Sequence[int]], device: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows' ids padded on the left, which of them are padding, and each token's position in its row."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=device)
    num_padding = torch.tensor([width - len(row) for row in rows], device=device)
    positions = torch.arange(width, device=device) - num_padding[:, None]
    return ids, positions < 0, positions.clamp(min=0)
