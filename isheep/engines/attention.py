"""Attention of rows to a prefix that they share, which is stored once, and to the keys and values of their own tokens.

Imports torch and transformers, so only the engine's modules for decoding import it.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

# A segment grows by this number of columns, so that its memory follows the tokens that were written.
COLUMNS_PER_GROWTH = 64


class Segment:
    """The keys and values of some rows in each layer: tensors (rows, heads, columns, width).

    All rows end in the same column, and shorter ones are padded on the left. So a new token takes one more column in
    each row, and a row is no longer than the longest row of its segment.
    """

    def __init__(self, model: Any, num_rows: int) -> None:
        self.num_columns, self.start, self.length = 0, 0, 0
        self.layers: dict[int, tuple[Tensor, ...]] = {}
        self.hidden_scores = torch.zeros(num_rows, 0, dtype=model.dtype, device=model.device)
        """What is added to the scores of a row's columns: -inf if the row does not see a column, otherwise 0."""
        self.num_tokens = torch.zeros(num_rows, dtype=torch.long, device=model.device)
        """The number of tokens of each row."""

    @property
    def num_rows(self) -> int:
        return len(self.hidden_scores)

    @property
    def width(self) -> int:
        """The number of columns from the first one that a row sees."""
        return self.length - self.start

    def add_columns(self, count: int, is_padding: Tensor | None = None) -> None:
        """Add columns for the next tokens; `is_padding` (rows, `count`) tells which of them are none."""
        if self.length + count > self.num_columns:
            num_new = self.length + count + COLUMNS_PER_GROWTH - self.num_columns
            self.num_columns += num_new
            self.hidden_scores = torch.nn.functional.pad(self.hidden_scores, (0, num_new))
            for layer, parts in self.layers.items():
                self.layers[layer] = tuple(_grow(part, self.length, self.num_columns) for part in parts)
        self.num_tokens = self.num_tokens + count
        if is_padding is not None:
            self.hidden_scores[:, self.length : self.length + count].masked_fill_(is_padding, float("-inf"))
            self.num_tokens -= is_padding.sum(1)
        self.length += count

    def write(self, layer: int, *states: Tensor) -> tuple[Tensor, ...]:
        """Write the keys and values of the last tokens. Returns those of all columns that a row sees."""
        if layer not in self.layers:
            self.layers[layer] = tuple(_grow(part, 0, self.num_columns) for part in states)
        for stored, part in zip(self.layers[layer], states, strict=True):
            stored[:, :, self.length - part.shape[2] : self.length] = part
        return tuple(stored[:, :, self.start : self.length] for stored in self.layers[layer])

    def seen_scores(self) -> Tensor:
        """Return `hidden_scores` of the columns that `write` returns, (rows, 1, 1, columns)."""
        return self.hidden_scores[:, None, None, self.start : self.length]

    def select(self, rows: Tensor) -> None:
        """Replace the rows by the rows at these positions, which may be repeated."""
        self.hidden_scores, self.num_tokens = self.hidden_scores[rows], self.num_tokens[rows]
        self.layers = {layer: tuple(part[rows] for part in parts) for layer, parts in self.layers.items()}

    def keep(self, rows: Sequence[int]) -> list[int]:
        """Remove all rows but these. Returns the former positions of the rows in their new order.

        The last rows move into the slots of removed ones, so that little is copied.
        """
        order, kept = list(range(len(rows))), set(rows)
        free = [slot for slot in order if slot not in kept]
        moved = [row for row in rows if row >= len(rows)]
        for slot, row in zip(free, moved, strict=True):
            order[slot] = row
            for part in (self.hidden_scores, *itertools.chain(*self.layers.values())):
                part[slot] = part[row]
        self.num_tokens = self.num_tokens[torch.tensor(order, device=self.num_tokens.device)]
        self.hidden_scores = self.hidden_scores[: len(rows)]
        self.layers = {layer: tuple(part[: len(rows)] for part in parts) for layer, parts in self.layers.items()}
        self.start = int((self.hidden_scores[:, : self.length] == 0).any(0).int().argmax())
        return order

    def join(self, segment: "Segment") -> None:
        """Append the rows of another segment."""
        pair = (self, segment)
        self.num_tokens = torch.cat([self.num_tokens, segment.num_tokens])
        length = max(self.width, segment.width)
        num_columns = length + COLUMNS_PER_GROWTH
        scores = [part.hidden_scores[:, None, :, None] for part in pair]
        self.hidden_scores = _align(scores, pair, length, num_columns, float("-inf"))[:, 0, :, 0]
        self.hidden_scores[:, length:] = 0
        for layer, parts in self.layers.items():
            state_pairs = zip(parts, segment.layers[layer], strict=True)
            self.layers[layer] = tuple(_align(states, pair, length, num_columns, 0) for states in state_pairs)
        self.num_columns, self.start, self.length = num_columns, 0, length


def _grow(part: Tensor, length: int, num_columns: int) -> Tensor:
    """Return a tensor of `num_columns` columns, the first `length` of which are those of `part`."""
    grown = part.new_empty(*part.shape[:2], num_columns, part.shape[3])
    grown[:, :, :length] = part[:, :, :length]
    return grown


def _align(
    parts: Sequence[Tensor], segments: Sequence[Segment], length: int, num_columns: int, filler: float
) -> Tensor:
    """Return the rows of all segments, aligned to end at column `length`. Columns before a row have the value `filler`.

    A filler is needed because what is masked must still be a number.
    """
    first = parts[0]
    aligned = first.new_full((sum(map(len, parts)), first.shape[1], num_columns, first.shape[3]), filler)
    row = 0
    for part, segment in zip(parts, segments, strict=True):
        count = segment.width
        aligned[row : row + len(part), :, length - count : length] = part[:, :, segment.start : segment.length]
        row += len(part)
    return aligned


class Prefix(NamedTuple):
    """The tokens that all rows begin with: their number, each layer's keys and values (1, heads, tokens, width)."""

    num_tokens: int
    layers: list[tuple[Tensor, Tensor]]


class ForwardPass:
    """What the layers need in a forward pass over the last columns of segments: the attention of each layer."""

    def __init__(self, prefix: Prefix, segments: Sequence[Segment], num_queries: int) -> None:
        self.prefix, self.segments = prefix, segments
        self.mask = _causal_scores(segments[0], num_queries, prefix.num_tokens) if num_queries > 1 else None

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Write keys and values, and return the attention to the prefix and to them: (rows, queries, heads, width)."""
        if query.shape[2] > 1:
            return self._attend_many(module, query, key, value, scale)
        return self._attend_next(module.layer_idx, query, key, value, scale)

    def _attend_many(self, module: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attend from several tokens of each row of a single segment.

        This happens once or twice per row, so that it costs little to repeat the prefix for each row.
        """
        keys, values = self.segments[0].write(module.layer_idx, key, value)
        if self.prefix.layers:
            keys, values = (
                torch.cat([part.expand(len(own), -1, -1, -1), own], 2)
                for part, own in zip(self.prefix.layers[module.layer_idx], (keys, values), strict=True)
            )
        # transformers copies keys for each head that shares them, which only the kernels of CUDA need.
        if query.device.type == "cpu":
            kernel = torch.nn.functional.scaled_dot_product_attention
            return kernel(query, keys, values, attn_mask=self.mask, scale=scale, enable_gqa=True).transpose(1, 2)
        return sdpa_attention_forward(module, query, keys, values, self.mask, scaling=scale)[0]

    def _attend_next(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attend from one token of each row.

        The heads that share keys are treated as several queries of one head, so that no keys are repeated. The queries
        of all rows are multiplied with the prefix in one product: if the prefix were repeated in every row, it would be
        read from memory once per row and step. The parts are weighted by the sums of their exponentiated scores.
        """
        rows, heads, _, width = key.shape
        query = query.reshape(rows, heads, -1, width)
        start, parts = 0, []
        for segment in self.segments:
            own = slice(start, start + segment.num_rows)
            keys, values = segment.write(layer, key[own], value[own])
            mask = segment.seen_scores().expand(-1, -1, query.shape[2], -1)
            parts.append(_attention(query[own], keys, values, mask, scale))
            start = own.stop
        out, log_sum = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))
        if self.prefix.layers:
            queries = query.transpose(0, 1).reshape(1, heads, -1, width)
            shared_out, shared_log_sum = _attention(queries, *self.prefix.layers[layer], None, scale)
            shared_out = shared_out.reshape(heads, rows, -1, out.shape[-1]).transpose(0, 1)
            shared_log_sum = shared_log_sum.reshape(heads, rows, -1).transpose(0, 1)
            weight = torch.sigmoid(shared_log_sum - log_sum)[..., None]
            out = torch.lerp(out.float(), shared_out.float(), weight).to(value.dtype)
        return out.reshape(rows, 1, -1, out.shape[-1])


def _causal_scores(segment: Segment, num_queries: int, num_shared: int) -> Tensor:
    """Return what is added to the scores of the last `num_queries` tokens: (rows, 1, queries, shared + own columns).

    Padding sees itself, because an attention to nothing is not a number.
    """
    columns = torch.arange(segment.start, segment.length, device=segment.hidden_scores.device)
    positions = columns[-num_queries:, None]
    scores = segment.seen_scores().masked_fill(columns > positions, float("-inf")).masked_fill(columns == positions, 0)
    return torch.nn.functional.pad(scores, (num_shared, 0))


def _attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Return the attention (rows, heads, queries, width), and the logarithm of the sum of its exponentiated scores.

    On CPU this is the kernel behind torch's `scaled_dot_product_attention`, which does not return the sum.
    """
    if query.device.type == "cpu" and query.shape[-1] == value.shape[-1]:
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, log_sum = kernel(query, key, value, attn_mask=mask, scale=scale)
        return out, log_sum
    scores = (query @ key.transpose(2, 3)).float() * scale
    scores = scores if mask is None else scores + mask
    log_sum = scores.logsumexp(-1)
    return (scores - log_sum[..., None]).exp().to(value.dtype) @ value, log_sum


def attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **settings: Any
) -> tuple[Tensor, None]:
    """Compute the attention of a layer by `attend_rows`, if the model was called with this argument.

    Shapes are those of transformers' attention functions.
    """
    attend_rows: Callable[..., Tensor] | None = settings.pop("attend_rows", None)
    if attend_rows is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    scale = settings.get("scaling") or query.shape[-1] ** -0.5
    return attend_rows(module, query, key, value, scale), None


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
    reached: list[int] = []
    segment = Segment(model, 1)
    segment.add_columns(1)
    first_pass = ForwardPass(Prefix(0, []), [segment], 1)

    def attend_rows(module: Any, *arguments: Any) -> Tensor:
        reached.append(module.layer_idx)
        return first_pass.attend(module, *arguments)

    with torch.inference_mode():
        model(torch.tensor([[0]], device=model.device), use_cache=False, attend_rows=attend_rows)
    supported = sorted(reached) == list(range(len(layers)))
    if not supported:
        model.set_attn_implementation(original)
    return supported


def read_prefix(model: Any, tokens: Sequence[int]) -> Prefix:
    """Read `tokens`, which may be empty, in one pass. If there are any, the model must use `attend`."""
    cache: Any = DynamicCache(config=model.config)
    if tokens:
        model(torch.tensor([tokens], device=model.device), past_key_values=cache, use_cache=True, logits_to_keep=1)
    return Prefix(len(tokens), [(layer.keys, layer.values) for layer in cache.layers] if tokens else [])
