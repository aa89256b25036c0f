"""What a trainer learns from: which pairs, as which tokens, in which order. Everything follows from the seed."""

from collections.abc import Sequence
from math import ceil
from random import Random
from typing import Any, NamedTuple, TypeVar

from isheep.batching import chunks, derive_seed
from isheep.errors import UserError
from isheep.models.chat_template import ChatTemplate
from isheep.models.checkpoint import start_token_ids
from isheep.recipe.schema import Training
from isheep.records import Pair

POOL = 8  # batches that are sorted by length together: less padding, and still a new order in every epoch
IGNORED = -100  # the label of a token without loss


T = TypeVar("T")


class TokenizedRow(NamedTuple):
    """One training sequence. `labels` is IGNORED on the prompt: the loss is on the answer and its end token only."""

    input_ids: list[int]
    labels: list[int]


class TokenizedRows(NamedTuple):
    """The rows of a training, and how many pairs were sampled and how many of these have a prompt beyond the cutoff."""

    train: list[TokenizedRow]
    held_out: list[TokenizedRow]
    sampled: int
    too_long: int


class SelectedPairs(NamedTuple):
    """The pairs of a training, each with its row; how many were sampled, how many of these have no row."""

    train: list[tuple[Pair, TokenizedRow]]
    held_out: list[tuple[Pair, TokenizedRow]]
    sampled: int
    too_long: int


def select_rows(
    pairs: Sequence[Pair], chat: ChatTemplate, tokenizer: Any, training: Training, seed: int
) -> TokenizedRows:
    """`chosen`, as rows."""
    train, held_out, sampled, too_long = select_pairs(pairs, chat, tokenizer, training, seed)
    return TokenizedRows([row for _, row in train], [row for _, row in held_out], sampled, too_long)


def select_pairs(
    pairs: Sequence[Pair], chat: ChatTemplate, tokenizer: Any, training: Training, seed: int
) -> SelectedPairs:
    """At most `training.at_most` of the pairs, exactly `training.rows` of those with tokens where it is given, a share
    of `training.held_out` of them set aside.

    Raises UserError where fewer than two rows, or than `training.rows`, can be used.
    """
    sampled = sample(pairs, training.at_most, seed)
    found = [(pair, row) for pair in sampled if (row := tokenize_pair(pair, chat, tokenizer, training.cutoff))]
    if len(found) < 2:
        long = f", {len(sampled) - len(found)} of them with a prompt beyond cutoff {training.cutoff}" if sampled else ""
        raise UserError(
            f"this iteration kept {len(pairs)} pairs{long}: training needs 2 or more; "
            "with a new --out, lower the filters' thresholds or ask for more synthesis.tasks"
        )
    if training.rows and len(found) < training.rows:
        raise UserError(
            f"training.rows asks for {training.rows} rows, and this iteration has {len(found)}: "
            "with a new --out, give fewer or ask for more synthesis.tasks"
        )
    usable = len(found)
    found = sample(found, training.rows, seed)
    aside = min(max(1, round(training.held_out * len(found))), len(found) - 1) if training.held_out else 0
    places = set(Random(derive_seed(seed, "held out")).sample(range(len(found)), aside))
    train = [one for place, one in enumerate(found) if place not in places]
    return SelectedPairs(train, [found[place] for place in sorted(places)], len(sampled), len(sampled) - usable)


def sample(items: Sequence[T], at_most: int | None, seed: int) -> list[T]:
    """`at_most` of the items in their order, or all of them for None."""
    if at_most is None or len(items) <= at_most:
        return list(items)
    places = Random(derive_seed(seed, "sample")).sample(range(len(items)), at_most)
    return [items[place] for place in sorted(places)]


def tokenize_pair(pair: Pair, chat: ChatTemplate, tokenizer: Any, cutoff: int) -> TokenizedRow | None:
    """A pair as tokens: the prompt as an engine reads it, then the answer and the token that ends it.

    The two are tokenized apart, as they meet when the model writes. Special tokens that an answer spells out are plain
    text. An answer that was cut off as it was written gets no end token, so that nothing is taught to stop in the
    middle; one beyond the cutoff loses its end and the end token. None where nothing of the answer is left.
    """
    start, end = start_token_ids(tokenizer), tokenizer.convert_tokens_to_ids(chat.end)
    prompt = tokenizer(chat.prompt(pair.content), add_special_tokens=False).input_ids
    if prompt[:1] != start:
        prompt = start + prompt
    answer = tokenizer(pair.output, add_special_tokens=False, split_special_tokens=True).input_ids
    answer = (answer + [end] * (pair.finish != "length"))[: max(0, cutoff - len(prompt))]
    return TokenizedRow(prompt + answer, [IGNORED] * len(prompt) + answer) if answer else None


def row_schedule(lengths: Sequence[int], training: Training, seed: int) -> list[int]:
    """`order` for a training: `training.epochs`, or `training.max_steps` whole batches where these are given."""
    if not training.max_steps:
        return epoch_order(lengths, training.batch, training.epochs, seed)
    places = training.max_steps * training.batch
    return epoch_order(lengths, training.batch, ceil(places / len(lengths)), seed)[:places]


def epoch_order(lengths: Sequence[int], batch: int, epochs: int, seed: int) -> list[int]:
    """The places of the rows for a whole training, epoch after epoch; each `batch` of them is an optimizer step.

    Shuffled anew in each epoch; rows of similar length lie side by side.
    """
    places: list[int] = []
    for epoch in range(epochs):
        shuffled = list(range(len(lengths)))
        Random(derive_seed(seed, "order", epoch)).shuffle(shuffled)
        for pool in chunks(shuffled, POOL * batch):
            places += sorted(pool, key=lambda place: -lengths[place])
    return places


def fill_batches(places: Sequence[int], batch: int, size: int, blank: int) -> list[int]:
    """The places with each `batch` of them filled up to `size` by the place `blank`."""
    return [place for step in chunks(places, batch) for place in (*step, *[blank] * (size - len(step)))]


def row_without_loss(row: TokenizedRow) -> TokenizedRow:
    """A row of one token beside rows such as `row`, from which nothing is learned."""
    return TokenizedRow(row.input_ids[:1], [IGNORED])
