"""Batched decoding on a transformers model: shared beginnings read once, free places refilled, seeded draws.

Imports torch and transformers, so only `isheep.engines.transformers` imports it, when weights are loaded.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from isheep.engines.attention import InPlace, Prefix, read_prefix, shares

SHORTEST_PREFIX = 8  # below this many shared tokens a pass of its own costs more than it saves
FULL = 0.75  # a batch is put in order, which copies its cache, when fewer of its places than this are in use
CANDIDATES = 64  # a nucleus is nearly always this small; a row whose nucleus is larger is sorted whole


# --- what rows have in common


def common(one: Sequence[int], other: Sequence[int], limit: int) -> int:
    """How many leading tokens two rows share, `limit` at most."""
    return next((i for i, (a, b) in enumerate(zip(one[:limit], other, strict=False)) if a != b), limit)


def common_prefix(rows: Sequence[Sequence[int]], own: Sequence[int]) -> int:
    """How many leading tokens all rows share, with the last `own[i]` tokens of row i left out; 0 if hardly any."""
    if len(rows) < 2:
        return 0
    limit = min(len(row) - n for row, n in zip(rows, own, strict=True))
    shared = common(min(map(list, rows)), max(map(list, rows)), limit)  # what the outer two share all rows share
    return shared if shared >= SHORTEST_PREFIX else 0


def families(rows: Sequence[Sequence[int]], own: int, most: int) -> list[tuple[int, list[int]]]:
    """Rows that begin alike, `most` at most in each group: how many tokens they share, their places.

    The last `own` tokens of a row are not shared. A row joins its neighbours in lexical order where they share half of
    the shorter one, and where that leaves less to read.
    """
    found: list[tuple[int, list[int]]] = []
    for place in sorted(range(len(rows)), key=lambda i: list(rows[i])):
        alone = len(rows[place]) - own
        stem, places = found[-1] if found else (0, [])
        if places and len(places) < most:
            shared = common(rows[places[-1]], rows[place], min(stem, alone))
            half = min(len(rows[places[-1]]), len(rows[place])) / 2
            if shared >= max(SHORTEST_PREFIX, half) and shared * len(places) > stem * (len(places) - 1):
                found[-1] = (shared, [*places, place])
                continue
        found.append((alone, [place]))
    return found


def alike(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Places in groups of `most` at most and of similar lengths, the longest first: little padding."""
    group: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if group and (len(group) == most or lengths[place] + SHORTEST_PREFIX < 0.75 * lengths[group[0]]):
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def begins(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether the tokens of `one` are the first ones of `other`."""
    return other[: len(one)] == one


def paths(options: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The fewest token sequences that pass through every place where one of `options` still has a token to come."""
    places = {option[:k] for option in options for k in range(len(option))}
    return sorted(place for place in places if not any(begins(place, other) for other in places - {place}))


# --- rows on their way through a model


class Batch:
    """Rows of token ids behind one prefix: their cache, which of its columns each may see, how far each has been read.

    New tokens of all rows take the same columns, the shorter rows' padded on the left.
    """

    def __init__(self, model: Any, prefix: Prefix, rows: int, room: int) -> None:
        """`room` is the number of columns; a model that keeps its own cache makes room as it needs it."""
        self.model, self.prefix, self.length = model, prefix, 0
        self.cache: Any = DynamicCache(config=model.config)
        self.arguments: dict[str, Any] = {}
        if shares(model):
            self.arguments = {"shared": lambda layer: prefix.layers[layer] if prefix.layers else None}
            self.cache.layers = [InPlace(room) for _ in self.cache.layers]
        self.seen = torch.ones(rows, room, dtype=torch.bool, device=model.device)
        self.counts = torch.zeros(rows, dtype=torch.long, device=model.device)

    def read(self, rows: Sequence[Sequence[int]], logits: int = 1) -> Tensor:
        """Reads tokens on for each row, one at least: the logits (rows, `logits`, vocabulary) of the last positions."""
        width = max(map(len, rows))
        lengths = torch.tensor([len(row) for row in rows], device=self.counts.device)
        ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows], device=self.counts.device)
        columns = torch.arange(width, device=self.counts.device) - (width - lengths)[:, None]
        self.seen[:, self.length : self.length + width] = columns >= 0
        return self._forward(ids, self.counts[:, None] + columns.clamp(min=0), lengths, logits)

    def step(self, tokens: Tensor) -> Tensor:
        """Reads one more token per row: the logits (rows, vocabulary) after it."""
        return self._forward(tokens[:, None], self.counts[:, None], 1, 1)[:, -1]

    def keep(self, rows: Tensor) -> "Batch":
        """Makes these rows (positions in the batch, which may come more than once) the batch's."""
        self.cache.reorder_cache(rows)
        self.seen, self.counts = self.seen[rows], self.counts[rows]
        return self

    def join(self, others: Sequence["Batch"], room: int) -> None:
        """Takes in the rows of other batches, none read in more than one go, and makes room for `room` more columns."""
        self.counts = torch.cat([self.counts, *(other.counts for other in others)])
        self.length = int(self.counts.max())
        for layer, *more in zip(self.cache.layers, *(other.cache.layers for other in others), strict=True):
            layer.join(more, self.length, room)
        columns = torch.arange(self.length + room, device=self.counts.device)
        self.seen = columns >= self.length - self.counts[:, None]

    def _forward(self, ids: Tensor, positions: Tensor, more: Tensor | int, logits: int) -> Tensor:
        self.length += ids.shape[1]
        self.counts = self.counts + more
        result: Tensor = self.model(
            ids, attention_mask=self.seen[:, : self.length], position_ids=self.prefix.tokens + positions,
            past_key_values=self.cache, use_cache=True, logits_to_keep=logits, **self.arguments,
        ).logits  # fmt: skip
        return result


def read_start(model: Any, rows: Sequence[Sequence[int]], own: Sequence[int]) -> tuple[Prefix, list[Sequence[int]]]:
    """What all rows begin with, read once, and what is left of each: at least the last `own[i]` tokens of row i."""
    shared = common_prefix(rows, own) if shares(model) else 0
    return read_prefix(model, rows[0][:shared] if shared else []), [row[shared:] for row in rows]


def read_ends(
    model: Any, prefix: Prefix, rows: Sequence[Sequence[int]], groups: Sequence[tuple[int, list[int]]], own: int
) -> tuple[list[int], Tensor]:
    """The places of the rows in `groups` (of `families`), and the logits (places, `own`, vocabulary) of their ends.

    What a group begins with is read once.
    """
    places = [place for _, some in groups for place in some]
    stems, tails = [], []
    for shared, some in groups:
        stems.append(rows[some[0]][: max(0, shared)])
        tails += [rows[place][max(0, shared) :] for place in some]
    if len(groups) == len(places) or not all(stems):
        whole = [rows[place] for place in places]
        return places, Batch(model, prefix, len(whole), max(map(len, whole))).read(whole, own)
    batch = Batch(model, prefix, len(stems), max(map(len, stems)) + max(map(len, tails)))
    batch.read(stems)
    batch.keep(torch.tensor([n for n, (_, some) in enumerate(groups) for _ in some], device=model.device))
    return places, batch.read(tails, own)


# --- draws


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


# --- decoding


def decode(
    model: Any,
    rows: Sequence[Sequence[int]],
    limits: Sequence[int],
    most: int,
    pick: Callable[[Tensor, list[int], list[list[int]]], Tensor],
    ended: Callable[[list[int]], bool],
) -> list[tuple[list[int], bool]]:
    """Continues each row of token ids: its new tokens, and whether `ended` was true of them (else `limits[i]` was met).

    At most `most` rows are in the batch; where some have ended, waiting ones take their places, the longest first.
    `pick(logits, places, written)` chooses a token for each row in the batch: `places` are their places in `rows`,
    `written` is what each row of `rows` has so far.
    """
    prefix, rest = read_start(model, rows, [1] * len(rows))
    written: list[list[int]] = [[] for _ in rows]
    ends = [False] * len(rows)
    open_ = set(range(len(rows)))
    waiting = sorted(open_, key=lambda place: -len(rest[place]))
    places: list[int] = []  # of the rows in the batch
    batch, logits = None, torch.empty(0)
    while open_:
        if waiting and (not places or (shares(model) and len(places) < FULL * most)):
            new, waiting = waiting[: most - len(places)], waiting[most - len(places) :]
            room = max(limits[place] - len(written[place]) for place in [*places, *new])
            batch, added = admit(model, prefix, batch, [rest[place] for place in new], room)
            logits, places = torch.cat([logits, added]) if places else added, [*places, *new]
        assert batch
        tokens = pick(logits, places, written)
        for place, token in zip(places, tokens.tolist(), strict=True):
            if place in open_:
                written[place].append(token)
                ends[place] = ended(written[place])
                if ends[place] or len(written[place]) == limits[place]:
                    open_.remove(place)
        alive = [i for i, place in enumerate(places) if place in open_]
        if len(alive) < FULL * len(places):
            places, chosen = [places[i] for i in alive], torch.tensor(alive, dtype=torch.long, device=tokens.device)
            tokens, batch = tokens[chosen], batch.keep(chosen) if alive else None
        if batch:
            logits = batch.step(tokens)
    return list(zip(written, ends, strict=True))


def admit(
    model: Any, prefix: Prefix, batch: Batch | None, rows: Sequence[Sequence[int]], room: int
) -> tuple[Batch, Tensor]:
    """The batch with these rows in it, the longest first, and room for `room` steps; the logits after each of them."""
    lengths = [len(row) for row in rows]
    groups = list(alike(lengths, len(rows))) if shares(model) else [list(range(len(rows)))]
    alone = batch is None and len(groups) == 1
    found, logits = [batch] if batch else [], []
    for group in groups:
        one = Batch(model, prefix, len(group), max(lengths) + room if alone else lengths[group[0]])
        logits.append(one.read([rows[i] for i in group])[:, -1])
        found.append(one)
    if not alone:
        found[0].join(found[1:], room)
    return found[0], torch.cat(logits)
