"""Attention to a prefix that all rows share and that is stored once, and the cache of each row's own keys and values.

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


class PreallocatedLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A layer of the cache, allocated for the whole answer at the start.

    On CPU the `torch.cat` that transformers' own layer does at every step costs more than the attention.
    """

    keys: Any
    values: Any

    def __init__(self, num_columns: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_columns, self.length = num_columns, 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        rows, heads, count, _ = key_states.shape
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys = key_states.new_empty(rows, heads, self.num_columns, key_states.shape[3])
            self.values = value_states.new_empty(rows, heads, self.num_columns, value_states.shape[3])
        start, self.length = self.length, self.length + count
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def get_seq_length(self) -> int:
        return self.length

    def join(self, more: Sequence["PreallocatedLayer"], width: int, num_free: int) -> None:
        """Add the rows of more layers. All rows keep their last `width` columns and get `num_free` free ones."""
        layers = [self, *more]
        self.keys, self.values = (
            _stack([(part, layer.length) for part, layer in zip(parts, layers, strict=True)], width, num_free)
            for parts in ([layer.keys for layer in layers], [layer.values for layer in layers])
        )
        self.num_columns, self.length = width + num_free, width


def _stack(parts: Sequence[tuple[Tensor, int]], width: int, num_free: int) -> Tensor:
    """Return the rows of all parts (each with the number of its filled columns), aligned to end at column `width`."""
    first = parts[0][0]
    stacked = first.new_zeros(sum(len(part) for part, _ in parts), first.shape[1], width + num_free, first.shape[3])
    start = 0
    for part, length in parts:
        count = min(width, length)
        stacked[start : start + len(part), :, width - count : width] = part[:, :, length - count : length]
        start += len(part)
    return stacked


class Prefix(NamedTuple):
    """The tokens that all rows begin with: their number, each layer's keys and values (1, heads, tokens, width)."""

    num_tokens: int
    layers: list[tuple[Tensor, Tensor]]


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """Compute scaled dot-product attention to the shared prefix, if there is one, and to each row's own keys.

    `shared(layer)` returns the prefix's keys and values in that layer, stored once for all rows. The queries of all
    rows are multiplied with the prefix in one matrix product. If the prefix were repeated in every row, it would be
    read from memory once per row and step, which takes most of the time of a small model. Shapes are those of
    transformers' attention functions.
    """
    shared = settings.pop("shared", None)
    if shared is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    prefix = shared(module.layer_idx)
    # A pass over many tokens happens once or twice per call, so that repeating the prefix costs little.
    if query.shape[2] > 1:
        if prefix:
            key, value, attention_mask = _repeat_prefix(prefix, key, value, attention_mask, query.shape[2])
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    rows, _, _, width = query.shape
    query = query.view(rows, key.shape[1], -1, width) * (settings.get("scaling") or width**-0.5)
    scores = query @ key.transpose(2, 3)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, float("-inf"))
    if not prefix:
        out = scores.softmax(-1, dtype=torch.float32).to(value.dtype) @ value
    else:
        num_shared = prefix[0].shape[2]
        weights = torch.cat([_multiply_all_rows(query, prefix[0].transpose(2, 3)), scores], -1)
        weights = weights.softmax(-1, dtype=torch.float32).to(value.dtype)
        out = _multiply_all_rows(weights[..., :num_shared], prefix[1]) + weights[..., num_shared:] @ value
    return out.reshape(rows, 1, -1, value.shape[-1]), None


def _repeat_prefix(
    prefix: tuple[Tensor, Tensor], key: Tensor, value: Tensor, attention_mask: Tensor | None, num_queries: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return keys, values and mask with the prefix in front of each row."""
    num_shared = prefix[0].shape[2]
    if attention_mask is None:
        attention_mask = torch.ones(num_queries, num_queries, dtype=torch.bool, device=key.device).tril()[None, None]
    attention_mask = torch.nn.functional.pad(attention_mask, (num_shared, 0), value=True)
    expanded = [part.expand(len(key), -1, -1, -1) for part in prefix]
    return torch.cat([expanded[0], key], 2), torch.cat([expanded[1], value], 2), attention_mask


def _multiply_all_rows(rows: Tensor, shared: Tensor) -> Tensor:
    """Return `rows` (rows, heads, n, k) @ `shared` (1, heads, k, m), computed as a single product per head."""
    count, heads, n, _ = rows.shape
    product = rows.transpose(0, 1).flatten(1, 2) @ shared[0]
    return product.view(heads, count, n, -1).transpose(0, 1)


def uses_shared_attention(model: Any) -> bool:
    """Return whether `model` computes its attention with `attend`."""
    return bool(model.config._attn_implementation == "isheep")


def use_shared_attention(model: Any) -> bool:
    """Make `model` compute its attention with `attend`, and return whether it can.

    A model can if every layer sees the whole past (no sliding window, no recurrent state) and gets our arguments. Some
    models drop these on the way, so one token is read to find out. Any other model keeps its own attention and cache,
    and no prefix is shared.
    """
    layers = DynamicCache(config=model.config).layers
    if not model._supports_attention_backend or any(type(layer) is not DynamicLayer for layer in layers):
        return False
    AttentionInterface.register("isheep", attend)
    AttentionMaskInterface.register("isheep", sdpa_mask)
    original = model.config._attn_implementation
    model.set_attn_implementation("isheep")
    reached: set[int] = set()
    with torch.inference_mode():
        model(torch.tensor([[0]], device=model.device), use_cache=False, shared=reached.add)
    supported = reached == set(range(len(layers)))
    if not supported:
        model.set_attn_implementation(original)
    return supported


def read_prefix(model: Any, tokens: Sequence[int]) -> Prefix:
    """Read `tokens`, which may be empty, in one pass. If there are any, the model must use `attend`."""
    cache: Any = DynamicCache(config=model.config)
    if tokens:
        model(torch.tensor([tokens], device=model.device), past_key_values=cache, use_cache=True, logits_to_keep=1)
    return Prefix(len(tokens), [(layer.keys, layer.values) for layer in cache.layers] if tokens else [])
