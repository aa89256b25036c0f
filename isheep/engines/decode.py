"""Batched decoding with a transformers model: shared prefixes are read once, free slots refilled, draws seeded.

Imports torch and transformers, so only `isheep.engines.transformers` imports it, after weights are loaded.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from isheep.engines.attention import uses_shared_attention
from isheep.engines.batch import CachedBatch, SegmentBatch, read_shared_prefix
from isheep.engines.prefixes import group_by_prefix
from isheep.rundir import progress

# Waiting rows are read when less than this share of a batch is in use: a few rows at a time are read more slowly.
MIN_FILLED_SHARE = 0.75
# The nucleus (top_p) is nearly always smaller than this; only rows with a larger one are sorted as a whole.
NUCLEUS_CANDIDATES = 64


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
    finish: Callable[[int, list[int], bool], None] = lambda row, output, ended: None
    """Called with the number of each row that has finished, its new tokens, and whether it has ended."""


def decode(model: Any, rows: Sequence[Sequence[int]], policy: Policy) -> list[tuple[list[int], bool]]:
    """Continue each row of token ids. Returns its new tokens, and whether it has ended rather than met its limit.

    At most `batch_size` rows are in the batch; if some have ended, waiting rows take their places, the longest first.
    """
    prefix, tails = read_shared_prefix(model, rows, [1] * len(rows))
    outputs: list[list[int]] = [[] for _ in rows]
    ended = [False] * len(rows)
    unfinished = set(range(len(rows)))
    batch: SegmentBatch | CachedBatch = CachedBatch(model)
    waiting = sorted(unfinished, key=lambda index: -len(tails[index]))
    if uses_shared_attention(model):
        batch = SegmentBatch(model, prefix, policy.batch_size)
        groups = group_by_prefix(tails, [1] * len(rows), policy.batch_size)
        groups.sort(key=lambda group: -max(len(tails[index]) for index in group.indices))
        waiting = [index for group in groups for index in group.indices]
    # The index in `rows` of each row of the batch.
    indices: list[int] = []
    logits = torch.empty(0)
    while unfinished:
        refill = batch.can_grow and len(indices) < MIN_FILLED_SHARE * policy.batch_size
        if waiting and (not indices or refill):
            num_free = policy.batch_size - len(indices)
            new, waiting = waiting[:num_free], waiting[num_free:]
            order, new_logits = batch.add([tails[index] for index in new])
            logits = torch.cat([logits, new_logits]) if indices else new_logits
            indices += [new[position] for position in order]
        tokens, num_unfinished = policy.pick(logits, indices, outputs), len(unfinished)
        num_tokens = sum(index in unfinished for index in indices)
        for index, token in zip(indices, tokens.tolist(), strict=True):
            if index in unfinished:
                outputs[index].append(token)
                ended[index] = policy.has_ended(outputs[index])
                if ended[index] or len(outputs[index]) == policy.limits[index]:
                    unfinished.remove(index)
                    policy.finish(index, outputs[index], ended[index])
        progress.report(tokens=num_tokens, rows=num_unfinished - len(unfinished))
        order = batch.keep([position for position, index in enumerate(indices) if index in unfinished])
        if len(order) < len(indices):
            indices = [indices[position] for position in order]
            tokens = tokens[torch.tensor(order, dtype=torch.long, device=tokens.device)]
        if indices:
            logits = batch.step(tokens)
    return list(zip(outputs, ended, strict=True))
