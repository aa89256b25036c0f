"""Batched decoding with a transformers model: shared prefixes are read once, free slots refilled, draws seeded.

Imports torch and transformers, so only `isheep.engines.transformers` imports it, after weights are loaded.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from isheep.engines.attention import PreallocatedLayer, Prefix, read_prefix, uses_shared_attention
from isheep.rundir import progress

# With fewer shared tokens than this, a separate forward pass over them costs more than it saves.
MIN_PREFIX_TOKENS = 8
# Rows that have ended are removed from the batch, which copies its cache, when less than this share of it is in use.
MIN_USED_SHARE = 0.75
# The nucleus (top_p) is nearly always smaller than this; only rows with a larger one are sorted as a whole.
NUCLEUS_CANDIDATES = 64


# --- prefixes that rows share


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


def group_by_prefix(rows: Sequence[Sequence[int]], num_own: int, max_size: int) -> list[PrefixGroup]:
    """Group rows that begin alike, at most `max_size` in a group, so that fewer tokens have to be read.

    The last `num_own` tokens of a row are never shared. A row joins its neighbors in lexical order if they share half
    of the shorter row, and if reading the smaller prefix once saves more than the larger one of the group did.
    """
    groups: list[PrefixGroup] = []
    for index in sorted(range(len(rows)), key=lambda i: list(rows[i])):
        max_shared = len(rows[index]) - num_own
        num_shared, indices = groups[-1] if groups else PrefixGroup(0, [])
        if indices and len(indices) < max_size:
            shared = common_length(rows[indices[-1]], rows[index], min(num_shared, max_shared))
            half = min(len(rows[indices[-1]]), len(rows[index])) / 2
            saves_more = shared * len(indices) > num_shared * (len(indices) - 1)
            if shared >= max(MIN_PREFIX_TOKENS, half) and saves_more:
                groups[-1] = PrefixGroup(shared, [*indices, index])
                continue
        groups.append(PrefixGroup(max_shared, [index]))
    return groups


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


# --- forward passes


class Batch:
    """Rows of token ids after one prefix: their cache, which of its columns each row may see, and each row's length.

    New tokens of all rows take the same columns of the cache; shorter rows are padded on the left.
    """

    def __init__(self, model: Any, prefix: Prefix, num_rows: int, num_columns: int) -> None:
        """Make an empty batch. A model that keeps its own cache extends it beyond `num_columns` if needed."""
        self.model, self.prefix, self.length = model, prefix, 0
        self.cache: Any = DynamicCache(config=model.config)
        self.arguments: dict[str, Any] = {}
        if uses_shared_attention(model):
            self.arguments = {"shared": lambda layer: prefix.layers[layer] if prefix.layers else None}
            self.cache.layers = [PreallocatedLayer(num_columns) for _ in self.cache.layers]
        self.visible = torch.ones(num_rows, num_columns, dtype=torch.bool, device=model.device)
        self.lengths = torch.zeros(num_rows, dtype=torch.long, device=model.device)

    def read(self, rows: Sequence[Sequence[int]], num_logits: int = 1) -> Tensor:
        """Read at least one token for each row. Returns the last logits (rows, `num_logits`, vocabulary)."""
        width = max(map(len, rows))
        added = torch.tensor([len(row) for row in rows], device=self.lengths.device)
        ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=self.lengths.device)
        columns = torch.arange(width, device=self.lengths.device) - (width - added)[:, None]
        self.visible[:, self.length : self.length + width] = columns >= 0
        return self._forward(ids, self.lengths[:, None] + columns.clamp(min=0), added, num_logits)

    def step(self, tokens: Tensor) -> Tensor:
        """Read one more token for each row. Returns the logits (rows, vocabulary) after it."""
        return self._forward(tokens[:, None], self.lengths[:, None], 1, 1)[:, -1]

    def select(self, rows: Tensor) -> "Batch":
        """Replace the batch's rows by the rows at these positions, which may be repeated."""
        self.cache.reorder_cache(rows)
        self.visible, self.lengths = self.visible[rows], self.lengths[rows]
        return self

    def join(self, batches: Sequence["Batch"], num_columns: int) -> None:
        """Add the rows of batches that were read in one pass each, and `num_columns` columns for new tokens."""
        self.lengths = torch.cat([self.lengths, *(batch.lengths for batch in batches)])
        self.length = int(self.lengths.max())
        for layer, *more in zip(self.cache.layers, *(batch.cache.layers for batch in batches), strict=True):
            layer.join(more, self.length, num_columns)
        columns = torch.arange(self.length + num_columns, device=self.lengths.device)
        self.visible = columns >= self.length - self.lengths[:, None]

    def _forward(self, ids: Tensor, positions: Tensor, added: Tensor | int, num_logits: int) -> Tensor:
        self.length += ids.shape[1]
        self.lengths = self.lengths + added
        logits: Tensor = self.model(
            ids, attention_mask=self.visible[:, : self.length], position_ids=self.prefix.num_tokens + positions,
            past_key_values=self.cache, use_cache=True, logits_to_keep=num_logits, **self.arguments,
        ).logits  # fmt: skip
        return logits


def read_shared_prefix(
    model: Any, rows: Sequence[Sequence[int]], num_own: Sequence[int]
) -> tuple[Prefix, list[Sequence[int]]]:
    """Read the prefix of all rows once. Returns it and the remaining tokens of each row, at least `num_own[i]`."""
    shared = common_prefix_length(rows, num_own) if uses_shared_attention(model) else 0
    return read_prefix(model, rows[0][:shared] if shared else []), [row[shared:] for row in rows]


def read_groups(
    model: Any, prefix: Prefix, rows: Sequence[Sequence[int]], groups: Sequence[PrefixGroup], num_logits: int
) -> tuple[list[int], Tensor]:
    """Read the rows of some groups, the tokens that a group shares only once.

    Returns the rows' indices, and the logits (rows, `num_logits`, vocabulary) of their last tokens.
    """
    indices = [index for group in groups for index in group.indices]
    stems, tails = [], []
    for group in groups:
        num_shared = max(0, group.num_shared)
        stems.append(rows[group.indices[0]][:num_shared])
        tails += [rows[index][num_shared:] for index in group.indices]
    if len(groups) == len(indices) or not all(stems):
        full_rows = [rows[index] for index in indices]
        batch = Batch(model, prefix, len(full_rows), max(map(len, full_rows)))
        return indices, batch.read(full_rows, num_logits)
    batch = Batch(model, prefix, len(stems), max(map(len, stems)) + max(map(len, tails)))
    batch.read(stems)
    repeated = [position for position, group in enumerate(groups) for _ in group.indices]
    batch.select(torch.tensor(repeated, device=model.device))
    return indices, batch.read(tails, num_logits)


# --- draws


def seeded_uniforms(seeds: Sequence[int], length: int) -> Tensor:
    """Return `length` uniform random numbers per seed, (seeds, length): all the randomness that a request sees."""
    return torch.stack([torch.rand(length, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def draw_tokens(logits: Tensor, uniforms: Tensor, temperature: float, top_p: float) -> Tensor:
    """Draw a token for each row of `logits` (rows, vocabulary): inverse CDF at `uniforms` (rows,), greedy at 0.

    `top_p` < 1 draws from the smallest set of most probable tokens whose mass reaches it (nucleus sampling, Holtzman
    et al. 2020).
    """
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits.float() / temperature, -1)
    if top_p >= 1:
        return _inverse_cdf(probabilities, uniforms, 1.0)
    values, ids = probabilities.topk(min(NUCLEUS_CANDIDATES, logits.shape[-1]))
    tokens = ids.gather(1, _inverse_cdf(values, uniforms, top_p)[:, None])[:, 0]
    wide = values.sum(-1) < top_p
    if wide.any():
        values, ids = probabilities[wide].sort(descending=True, stable=True)
        tokens[wide] = ids.gather(1, _inverse_cdf(values, uniforms[wide], top_p)[:, None])[:, 0]
    return tokens


def _inverse_cdf(values: Tensor, uniforms: Tensor, top_p: float) -> Tensor:
    """Return for each row of probabilities the column at which their mass, up to `top_p`, passes its uniform share."""
    mass = values.cumsum(-1)
    if top_p < 1:
        nucleus_size = (mass - values < top_p).sum(-1, keepdim=True).long()
    else:
        nucleus_size = torch.full((len(mass), 1), mass.shape[1], dtype=torch.long, device=mass.device)
    total = mass.gather(1, nucleus_size - 1)
    columns = torch.searchsorted(mass, uniforms[:, None] * total, right=True)
    return torch.minimum(columns, nucleus_size - 1)[:, 0]


# --- decoding


class Policy(NamedTuple):
    """Functions that choose the next token of each row and decide when a row has ended.

    `pick(logits, indices, outputs)` returns a token for each row of the batch: `indices[k]` is the number of the
    request in batch row k, and `outputs[i]` holds the tokens generated so far for request i. `has_ended(output)`
    returns whether an output is complete.
    """

    pick: Callable[[Tensor, list[int], list[list[int]]], Tensor]
    has_ended: Callable[[list[int]], bool]
    limits: Sequence[int]
    """The largest number of new tokens of each row."""
    batch_size: int


def decode(model: Any, rows: Sequence[Sequence[int]], policy: Policy) -> list[tuple[list[int], bool]]:
    """Continue each row of token ids. Returns its new tokens, and whether it has ended rather than met its limit.

    At most `batch_size` rows are in the batch; if some have ended, waiting rows take their slots, the longest first.
    """
    prefix, tails = read_shared_prefix(model, rows, [1] * len(rows))
    outputs: list[list[int]] = [[] for _ in rows]
    ended = [False] * len(rows)
    unfinished = set(range(len(rows)))
    waiting = sorted(unfinished, key=lambda index: -len(tails[index]))
    # The index in `rows` of each row of the batch.
    indices: list[int] = []
    batch, logits = None, torch.empty(0)
    while unfinished:
        refill = uses_shared_attention(model) and len(indices) < MIN_USED_SHARE * policy.batch_size
        if waiting and (not indices or refill):
            num_free = policy.batch_size - len(indices)
            new, waiting = waiting[:num_free], waiting[num_free:]
            num_columns = max(policy.limits[index] - len(outputs[index]) for index in [*indices, *new])
            batch, new_logits = add_rows(model, prefix, batch, [tails[index] for index in new], num_columns)
            logits, indices = torch.cat([logits, new_logits]) if indices else new_logits, [*indices, *new]
        assert batch
        tokens, num_unfinished = policy.pick(logits, indices, outputs), len(unfinished)
        for index, token in zip(indices, tokens.tolist(), strict=True):
            if index in unfinished:
                outputs[index].append(token)
                ended[index] = policy.has_ended(outputs[index])
                if ended[index] or len(outputs[index]) == policy.limits[index]:
                    unfinished.remove(index)
        alive = [slot for slot, index in enumerate(indices) if index in unfinished]
        num_ended = num_unfinished - len(unfinished)
        progress.report(tokens=len(alive) + num_ended, rows=num_ended)
        if len(alive) < MIN_USED_SHARE * len(indices):
            indices = [indices[slot] for slot in alive]
            slots = torch.tensor(alive, dtype=torch.long, device=tokens.device)
            tokens, batch = tokens[slots], batch.select(slots) if alive else None
        if batch:
            logits = batch.step(tokens)
    return list(zip(outputs, ended, strict=True))


def add_rows(
    model: Any, prefix: Prefix, batch: Batch | None, rows: Sequence[Sequence[int]], num_columns: int
) -> tuple[Batch, Tensor]:
    """Add rows, the longest first, to a batch or a new one, with `num_columns` columns for new tokens.

    Returns the batch, and the logits (rows, vocabulary) after each of the rows.
    """
    lengths = [len(row) for row in rows]
    groups = list(group_by_length(lengths, len(rows))) if uses_shared_attention(model) else [list(range(len(rows)))]
    alone = batch is None and len(groups) == 1
    batches, logits = [batch] if batch else [], []
    for group in groups:
        group_columns = max(lengths) + num_columns if alone else lengths[group[0]]
        group_batch = Batch(model, prefix, len(group), group_columns)
        logits.append(group_batch.read([rows[i] for i in group])[:, -1])
        batches.append(group_batch)
    if not alone:
        batches[0].join(batches[1:], num_columns)
    return batches[0], torch.cat(logits)
