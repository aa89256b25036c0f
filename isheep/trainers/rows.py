"""The rows that a trainer learns from: their selection, tokens and order. Everything follows from the seed."""

from collections.abc import Sequence
from math import ceil
from random import Random
from typing import Any, Literal, NamedTuple, TypeVar

from isheep.batching import chunks, derive_seed
from isheep.errors import UserError
from isheep.models.chat_template import ChatTemplate
from isheep.models.tokenization import continuation_ids, prompt_ids
from isheep.recipe.schema import Training
from isheep.records import Exchange, user_turn
from isheep.rundir.training_file import TrainingRow

POOL_BATCHES = 8
"""The number of batches that are sorted by length together: less padding, and still a new order in every epoch."""

IGNORED = -100
"""The label of a token without loss (torch.nn.CrossEntropyLoss)."""

MIN_ROWS = 2
"""One row to learn from and one to hold out."""

T = TypeVar("T")


class TokenizedRow(NamedTuple):
    """One training sequence. `labels` is IGNORED on the prompt: the loss is on the answer and its end token only."""

    input_ids: list[int]
    labels: list[int]


class Example(NamedTuple):
    """A row of the training file and its tokens."""

    row: TrainingRow
    tokens: TokenizedRow


class TrainingExamples(NamedTuple):
    """The examples to learn from and those held out.

    `num_selected` rows of the file were selected; `num_too_long` of these have a prompt beyond the cutoff.
    """

    train: list[Example]
    held_out: list[Example]
    num_selected: int
    num_too_long: int


def select_examples(
    rows: Sequence[TrainingRow], chat_template: ChatTemplate, tokenizer: Any, training: Training, seed: int
) -> TrainingExamples:
    """Select the rows to use, tokenize them, and hold out a share of `training.held_out`.

    At most `training.max_rows` rows are used; if `training.num_rows` is set, exactly that number of rows with tokens.

    Raises UserError if fewer than two rows, or fewer than `training.num_rows`, can be used.
    """
    selected_rows = draw(rows, training.max_rows, seed)
    examples = _tokenize_rows(selected_rows, chat_template, tokenizer, training)
    num_too_long = len(selected_rows) - len(examples)
    if len(examples) < MIN_ROWS:
        way_out = "raise training.cutoff" if num_too_long else "keep more pairs"
        raise UserError(
            f"the training file has {len(rows)} rows, {num_too_long} of them with a prompt beyond "
            f"training.cutoff {training.cutoff}; training needs {MIN_ROWS} or more: "
            f"with a new run folder, {way_out}"
        )
    if training.num_rows and len(examples) < training.num_rows:
        raise UserError(
            f"training.num_rows asks for {training.num_rows} rows, and this iteration has {len(examples)}: "
            "with a new run folder, lower training.num_rows or raise synthesis.tasks"
        )
    examples = draw(examples, training.num_rows, seed)
    held_out = _held_out_indices([example.row for example in examples], training.held_out, seed)
    return TrainingExamples(
        train=[example for index, example in enumerate(examples) if index not in held_out],
        held_out=[examples[index] for index in sorted(held_out)],
        num_selected=len(selected_rows),
        num_too_long=num_too_long,
    )


def draw(items: Sequence[T], at_most: int | None, seed: int) -> list[T]:
    """Return `at_most` of the items in their order, or all of them for None."""
    if at_most is None or len(items) <= at_most:
        return list(items)
    indices = Random(derive_seed(seed, "sample")).sample(range(len(items)), at_most)
    return [items[index] for index in sorted(indices)]


def _tokenize_rows(
    rows: Sequence[TrainingRow], chat_template: ChatTemplate, tokenizer: Any, training: Training
) -> list[Example]:
    tokenized = ((row, tokenize_row(row, chat_template, tokenizer, training.cutoff, training.end)) for row in rows)
    return [Example(row, tokens) for row, tokens in tokenized if tokens is not None]


def _held_out_indices(rows: Sequence[TrainingRow], share: float, seed: int) -> set[int]:
    """Return the indices of the held-out rows: at least one unless `share` is 0, and never all.

    The turns of a dialogue are held out together, because training on one turn lowers the loss on the other. So `share`
    counts dialogues and rows outside of dialogues.
    """
    if not share:
        return set()
    groups = _group_dialogues(rows)
    # One dialogue can't be both learned and held out, so its turns are separated.
    if len(groups) == 1:
        groups = [[index] for index in range(len(rows))]
    num_held_out = min(max(1, round(share * len(groups))), len(groups) - 1)
    held_out_groups = Random(derive_seed(seed, "held out")).sample(range(len(groups)), num_held_out)
    return {index for number in held_out_groups for index in groups[number]}


def _group_dialogues(rows: Sequence[TrainingRow]) -> list[list[int]]:
    """Return the indices of the rows of each dialogue; a row that is not in a dialogue is by itself."""
    first_exchanges = {row.history[0] for row in rows if row.history}
    groups: dict[Exchange | int, list[int]] = {}
    for index, row in enumerate(rows):
        first = row.history[0] if row.history else Exchange(user_turn(row.instruction, row.input), row.output)
        groups.setdefault(first if first in first_exchanges else index, []).append(index)
    return list(groups.values())


def tokenize_row(
    row: TrainingRow,
    chat_template: ChatTemplate,
    tokenizer: Any,
    cutoff: int,
    end: Literal["template", "tokenizer"] = "template",
) -> TokenizedRow | None:
    """Return a row as tokens: the prompt as an engine reads it, then the answer and the token that ends it.

    The two are tokenized separately, because a model that writes the answer also starts it at a token of its own.
    Special tokens spelled out in an answer are plain text. A row with `finish` "length" gets no end token, because the
    model would learn to stop in the middle; an answer beyond the cutoff loses its last tokens and the end token. With
    `end` "tokenizer" it is the tokenizer's token, and every row gets it. Returns None if no token of the answer fits.
    """
    prompt = prompt_ids(tokenizer, [chat_template.conversation(row.turns)])[0]
    answer_ids = continuation_ids(tokenizer, chat_template.answer(row.output), prompt)
    if end == "tokenizer":
        answer_ids = [*answer_ids, tokenizer.eos_token_id]
    elif row.finish != "length":
        answer_ids = [*answer_ids, tokenizer.convert_tokens_to_ids(chat_template.end)]
    answer_ids = answer_ids[: max(0, cutoff - len(prompt))]
    if not answer_ids:
        return None
    return TokenizedRow(prompt + answer_ids, [IGNORED] * len(prompt) + answer_ids)


def check_rows(chat_template: ChatTemplate, training: Training) -> None:
    """Raise UserError if the chat template alone fills training.cutoff, so that no row could be trained on.

    Also if answers are to end with a token that the tokenizer does not have (`training.end: tokenizer`).
    """
    if training.end == "tokenizer" and chat_template.tokenizer.eos_token_id is None:
        raise UserError("training.end is tokenizer, and the tokenizer has no end of sequence: set it to template")
    num_tokens = len(prompt_ids(chat_template.tokenizer, [chat_template.prompt("")])[0])
    if num_tokens >= training.cutoff:
        raise UserError(
            f"training.cutoff is {training.cutoff}, and the chat template {chat_template.name!r} alone has "
            f"{num_tokens} tokens: raise training.cutoff"
        )


def row_schedule(lengths: Sequence[int], training: Training, seed: int) -> list[int]:
    """Return the indices of the rows for a whole training; each `training.batch_size` of them are one optimizer step.

    The training has `training.max_steps` full batches if that is set, else `training.epochs` epochs. `lengths` are
    the rows' numbers of tokens.
    """
    by_length = training.order == "length"
    if not training.max_steps:
        return epoch_order(lengths, training.batch_size, training.epochs, seed, by_length)
    num_indices = training.max_steps * training.batch_size
    epochs = ceil(num_indices / len(lengths))
    return epoch_order(lengths, training.batch_size, epochs, seed, by_length)[:num_indices]


def epoch_order(lengths: Sequence[int], batch_size: int, epochs: int, seed: int, by_length: bool = True) -> list[int]:
    """Return the indices of the rows, epoch after epoch. Each epoch is shuffled anew.

    If `by_length`, rows are then sorted by length within a pool of POOL_BATCHES batches, the longest first.
    """
    indices: list[int] = []
    for epoch in range(epochs):
        shuffled = list(range(len(lengths)))
        Random(derive_seed(seed, "order", epoch)).shuffle(shuffled)
        if not by_length:
            indices += shuffled
            continue
        for pool in chunks(shuffled, POOL_BATCHES * batch_size):
            indices += sorted(pool, key=lambda index: -lengths[index])
    return indices


def fill_batches(indices: Sequence[int], batch_size: int, filled_size: int, filler: int) -> list[int]:
    """Return the indices with each `batch_size` of them filled up to `filled_size` by the index `filler`."""
    filled: list[int] = []
    for batch in chunks(indices, batch_size):
        filled += [*batch, *[filler] * (filled_size - len(batch))]
    return filled


def row_without_loss(row: TokenizedRow) -> TokenizedRow:
    """Return a row of one token, the first one of `row`, from which nothing is learned."""
    return TokenizedRow(row.input_ids[:1], [IGNORED])
