"""Batched decoding on a transformers model: a prefix computed once, keys and values written in place, seeded draws.

Imports torch and transformers, so only `isheep.engines.transformers` imports it, when weights are loaded.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

SHORTEST_PREFIX = 8  # below this many shared tokens a pass of its own costs more than it saves
CANDIDATES = 64  # a nucleus is nearly always this small; a row whose nucleus is larger is sorted whole


class InPlace(DynamicLayer):  # type: ignore[no-untyped-call]
    """A cache layer with room for the whole answer: `torch.cat` at every step costs more than the attention on CPU."""

    keys: Any
    values: Any

    def __init__(self, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.room, self.length = room, 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        rows, heads, count, _ = key_states.shape
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys = key_states.new_empty(rows, heads, self.room, key_states.shape[3])
            self.values = value_states.new_empty(rows, heads, self.room, value_states.shape[3])
        start, self.length = self.length, self.length + count
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_seq_length(self) -> int:
        return self.length


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """Scaled dot-product attention over the layer's prefix, if `shared` has one for it, then the row's own keys.

    `shared(layer)` gives the prefix's keys and values, (1, heads, tokens, width) each: stored once for all rows.
    All rows' queries meet the prefix in one matrix product: a prefix repeated in every row is read from memory once
    per row and step, which is most of the time of a small model. Shapes as in transformers' attention functions.
    """
    shared = settings.pop("shared", None)
    prefix = shared(module.layer_idx) if shared else None
    if prefix is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    rows, _, count, width = query.shape
    before = prefix[0].shape[2]
    if count > 1:  # the first pass over the rows' own tokens: once per call, so the prefix may be repeated
        if attention_mask is None:
            attention_mask = torch.ones(count, count, dtype=torch.bool, device=key.device).tril()[None, None]
        mask = torch.nn.functional.pad(attention_mask, (before, 0), value=True)
        key, value = (torch.cat([p.expand(rows, -1, -1, -1), s], 2) for p, s in zip(prefix, (key, value), strict=True))
        return sdpa_attention_forward(module, query, key, value, mask, **settings)
    heads = key.shape[1]
    query = query.view(rows, heads, -1, width) * (settings.get("scaling") or width**-0.5)
    own = query @ key.transpose(2, 3)
    if attention_mask is not None:
        own = own.masked_fill(~attention_mask, float("-inf"))
    weights = torch.cat([_for_all_rows(query, prefix[0].transpose(2, 3)), own], -1)
    weights = weights.softmax(-1, dtype=torch.float32).to(value.dtype)
    out = _for_all_rows(weights[..., :before], prefix[1]) + weights[..., before:] @ value
    return out.reshape(rows, 1, -1, value.shape[-1]), None


def _for_all_rows(rows: Tensor, one: Tensor) -> Tensor:
    """`rows` (rows, heads, n, k) @ `one` (1, heads, k, m) as a single product per head."""
    count, heads, n, _ = rows.shape
    product = rows.transpose(0, 1).flatten(1, 2) @ one[0]
    return product.view(heads, count, n, -1).transpose(0, 1)


def share_prefixes(model: Any) -> bool:
    """Has `model` attend with `attend`, where it can; else it keeps its own attention and cache, and shares no prefix.

    It can where every layer sees the whole past (no sliding window, no recurrent state) and gets our arguments: some
    models drop them on the way, so one token is read to see it.
    """
    layers = DynamicCache(config=model.config).layers
    if not model._supports_attention_backend or any(type(layer) is not DynamicLayer for layer in layers):
        return False
    AttentionInterface.register("isheep", attend)
    AttentionMaskInterface.register("isheep", sdpa_mask)
    own = model.config._attn_implementation
    model.set_attn_implementation("isheep")
    reached: set[int] = set()
    with torch.inference_mode():
        model(torch.tensor([[0]], device=model.device), use_cache=False, shared=reached.add)
    able = reached == set(range(len(layers)))
    if not able:
        model.set_attn_implementation(own)
    return able


def common_prefix(rows: Sequence[Sequence[int]], own: Sequence[int]) -> int:
    """How many leading tokens all rows share, with the last `own[i]` tokens of row i left out; 0 if hardly any."""
    if len(rows) < 2:
        return 0
    limit = min(len(row) - n for row, n in zip(rows, own, strict=True))
    low, high = min(map(list, rows)), max(map(list, rows))  # in lexical order, what the outer two share all rows share
    shared = next((i for i in range(limit) if low[i] != high[i]), limit)
    return shared if shared >= SHORTEST_PREFIX else 0


def begins(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether the tokens of `one` are the first ones of `other`."""
    return other[: len(one)] == one


def paths(options: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The fewest token sequences that pass through every place where one of `options` still has a token to come."""
    places = {option[:k] for option in options for k in range(len(option))}
    return sorted(place for place in places if not any(begins(place, other) for other in places - {place}))


class Batch:
    """Rows of token ids on their way through a model: cache, attention mask, and how far they have been read."""

    def __init__(self, model: Any) -> None:
        self.model, self.before, self.length = model, 0, 0
        self.sharing = model.config._attn_implementation == "isheep"
        self.arguments: dict[str, Any] = {}

    def prefill(self, rows: Sequence[Sequence[int]], own: Sequence[int], room: int) -> Tensor:
        """Reads all rows, their common prefix once: the logits (rows, max(own), vocabulary) of the ends.

        `own[i]` is the number of positions whose logits row i needs, at least 1; `room` the number of steps to come.
        """
        self.before = common_prefix(rows, own) if self.sharing else 0
        rest = [row[self.before :] for row in rows]
        width = max(map(len, rest))
        self.cache = self._cache(rows[0][: self.before], width + room)
        self.pads = torch.tensor([width - len(row) for row in rest], device=self.model.device)
        self.mask = torch.arange(width + room, device=self.pads.device) >= self.pads[:, None]
        ids = [[0] * (width - len(row)) + list(row) for row in rest]
        return self._forward(torch.tensor(ids, device=self.pads.device), max(own))

    def _cache(self, prefix: Sequence[int], room: int) -> Any:
        cache: Any = DynamicCache(config=self.model.config)
        if prefix:
            ids = torch.tensor([prefix], device=self.model.device)
            self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        if not self.sharing:
            return cache
        parts = [(layer.keys, layer.values) if prefix else None for layer in cache.layers]
        cache.layers = [InPlace(room) for _ in parts]
        self.arguments = {"shared": parts.__getitem__}
        return cache

    def step(self, tokens: Tensor) -> Tensor:
        """Reads one more token per row: the logits (rows, vocabulary) after it."""
        return self._forward(tokens[:, None], 1)[:, -1]

    def keep(self, rows: Tensor) -> None:
        """Drops all rows but these (positions in the batch)."""
        self.cache.reorder_cache(rows)
        self.mask, self.pads = self.mask[rows], self.pads[rows]

    def _forward(self, ids: Tensor, logits: int) -> Tensor:
        start, self.length = self.length, self.length + ids.shape[1]
        columns = torch.arange(start, self.length, device=ids.device)
        positions = self.before + (columns - self.pads[:, None]).clamp(min=0)
        result: Tensor = self.model(
            ids, attention_mask=self.mask[:, : self.length], position_ids=positions,
            past_key_values=self.cache, use_cache=True, logits_to_keep=logits, **self.arguments,
        ).logits  # fmt: skip
        return result


def noise(seeds: Sequence[int], length: int) -> Tensor:
    """One row of uniforms per seed, (seeds, length): all the chance that a request sees."""
    return torch.stack([torch.rand(length, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def draw(logits: Tensor, uniforms: Tensor, temperature: float, top_p: float) -> Tensor:
    """One token per row of `logits` (rows, vocabulary): inverse CDF at `uniforms` (rows,), greedy at temperature 0.

    `top_p` < 1 keeps the smallest set of most probable tokens whose mass reaches it (nucleus sampling, Holtzman et
    al. 2020).
    """
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits.float() / temperature, -1)
    if top_p >= 1:
        return _inverse_cdf(probabilities, uniforms, 1.0)
    values, ids = probabilities.topk(min(CANDIDATES, logits.shape[-1]))
    tokens = ids.gather(1, _inverse_cdf(values, uniforms, top_p)[:, None])[:, 0]
    wide = values.sum(-1) < top_p
    if wide.any():
        values, ids = probabilities[wide].sort(descending=True, stable=True)
        tokens[wide] = ids.gather(1, _inverse_cdf(values, uniforms[wide], top_p)[:, None])[:, 0]
    return tokens


def _inverse_cdf(values: Tensor, uniforms: Tensor, top_p: float) -> Tensor:
    """The column in each row of `values` (probabilities) where their mass, up to `top_p`, passes its uniform share."""
    mass = values.cumsum(-1)
    kept = (mass - values < top_p).sum(-1, keepdim=True) if top_p < 1 else torch.full_like(mass[:, :1], mass.shape[1])
    total = mass.gather(1, kept.long() - 1)
    columns = torch.searchsorted(mass, uniforms[:, None] * total, right=True)
    return torch.minimum(columns, kept.long() - 1)[:, 0]


def decode(
    model: Any,
    rows: Sequence[Sequence[int]],
    limits: Sequence[int],
    pick: Callable[[Tensor, Tensor, int], Tensor],
    ended: Callable[[list[int]], bool],
) -> list[tuple[list[int], bool]]:
    """Continues each row of token ids: its new tokens, and whether `ended` was true of them (else `limits[i]` was met).

    `pick(logits, places, step)` chooses a token for each row still in the batch, `places` being their places in `rows`.
    """
    batch = Batch(model)
    logits = batch.prefill(rows, [1] * len(rows), room=max(limits))[:, -1]
    written: list[list[int]] = [[] for _ in rows]
    finished = [False] * len(rows)
    places = torch.arange(len(rows))
    open_ = set(range(len(rows)))
    for step in range(max(limits)):
        tokens = pick(logits, places, step)
        for place, token in zip(places.tolist(), tokens.tolist(), strict=True):
            if place in open_:
                written[place].append(token)
                finished[place] = ended(written[place])
                if finished[place] or len(written[place]) == limits[place]:
                    open_.remove(place)
        if not open_:
            break
        if len(open_) < 0.75 * len(places):  # dropping rows copies the cache, so not at every step
            alive = torch.tensor([i for i, place in enumerate(places.tolist()) if place in open_])
            places, alive = places[alive], alive.to(tokens.device)
            tokens = tokens[alive]
            batch.keep(alive)
        logits = batch.step(tokens)
    return list(zip(written, finished, strict=True))
