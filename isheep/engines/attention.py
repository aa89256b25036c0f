"""Attention over a prefix that all rows share, stored once, and the cache of the rows' own keys and values.

Imports torch and transformers, so only `isheep.engines.decode` imports it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask


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

    def join(self, others: Sequence["InPlace"], width: int, room: int) -> None:
        """Takes in the rows of other layers. Of all rows the last `width` columns stay, and room for `room` more."""
        layers = [self, *others]
        self.keys, self.values = (
            _stacked([(part, layer.length) for part, layer in zip(parts, layers, strict=True)], width, room)
            for parts in ([layer.keys for layer in layers], [layer.values for layer in layers])
        )
        self.room, self.length = width + room, width


def _stacked(parts: Sequence[tuple[Tensor, int]], width: int, room: int) -> Tensor:
    """Rows of all parts, the last columns of each part's own length side by side at column `width`."""
    first = parts[0][0]
    out = first.new_zeros(sum(len(part) for part, _ in parts), first.shape[1], width + room, first.shape[3])
    start = 0
    for part, length in parts:
        used = min(width, length)
        out[start : start + len(part), :, width - used : width] = part[:, :, length - used : length]
        start += len(part)
    return out


class Prefix(NamedTuple):
    """What all rows begin with: how many tokens, and each layer's keys and values, (1, heads, tokens, width) each."""

    tokens: int
    layers: list[tuple[Tensor, Tensor]]


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """Scaled dot-product attention over the layer's part of a prefix, if `shared` has one, then the row's own keys.

    `shared(layer)` gives the prefix's keys and values: stored once for all rows. All rows' queries meet the prefix in
    one matrix product: a prefix repeated in every row is read from memory once per row and step, which is most of the
    time of a small model. Shapes as in transformers' attention functions.
    """
    shared = settings.pop("shared", None)
    if shared is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    prefix = shared(module.layer_idx)
    rows, _, count, width = query.shape
    if count > 1:  # a pass over many of the rows' own tokens: once or twice per call, so the prefix may be repeated
        if prefix:
            before = prefix[0].shape[2]
            if attention_mask is None:
                attention_mask = torch.ones(count, count, dtype=torch.bool, device=key.device).tril()[None, None]
            attention_mask = torch.nn.functional.pad(attention_mask, (before, 0), value=True)
            both = zip(prefix, (key, value), strict=True)
            key, value = (torch.cat([p.expand(rows, -1, -1, -1), own], 2) for p, own in both)
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    query = query.view(rows, key.shape[1], -1, width) * (settings.get("scaling") or width**-0.5)
    own = query @ key.transpose(2, 3)
    if attention_mask is not None:
        own = own.masked_fill(~attention_mask, float("-inf"))
    if not prefix:
        out = own.softmax(-1, dtype=torch.float32).to(value.dtype) @ value
    else:
        before = prefix[0].shape[2]
        weights = torch.cat([_for_all_rows(query, prefix[0].transpose(2, 3)), own], -1)
        weights = weights.softmax(-1, dtype=torch.float32).to(value.dtype)
        out = _for_all_rows(weights[..., :before], prefix[1]) + weights[..., before:] @ value
    return out.reshape(rows, 1, -1, value.shape[-1]), None


def _for_all_rows(rows: Tensor, one: Tensor) -> Tensor:
    """`rows` (rows, heads, n, k) @ `one` (1, heads, k, m) as a single product per head."""
    count, heads, n, _ = rows.shape
    product = rows.transpose(0, 1).flatten(1, 2) @ one[0]
    return product.view(heads, count, n, -1).transpose(0, 1)


def shares(model: Any) -> bool:
    """Whether `model` attends with `attend`."""
    return bool(model.config._attn_implementation == "isheep")


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


def read_prefix(model: Any, tokens: Sequence[int]) -> Prefix:
    """One pass over `tokens`, which may be none; the model must attend with `attend`."""
    cache: Any = DynamicCache(config=model.config)
    if tokens:
        model(torch.tensor([tokens], device=model.device), past_key_values=cache, use_cache=True, logits_to_keep=1)
    return Prefix(len(tokens), [(layer.keys, layer.values) for layer in cache.layers] if tokens else [])
