"""Log-probabilities for benchmarks whose answers are chosen; an option that does not fit the context has none."""

from collections.abc import Callable, Sequence
from typing import Any

from isheep.benchmarks.support.context import EvalContext
from isheep.benchmarks.support.fingerprints import check_unchanged, item_fingerprints
from isheep.engines import Engine
from isheep.errors import TooLong, UserError
from isheep.models.checkpoint import start_text, start_token_ids
from isheep.records import Record, TokenLogprobs

LOSSES_FILE = "losses.jsonl"


class OptionScores(Record):
    """A value for each option of an item, the lower the better; None if the option does not fit the model's context.

    `of` is the fingerprint of the item.
    """

    values: tuple[float | None, ...]
    of: str = ""

    @property
    def lowest(self) -> int | None:
        """The index of the first option with the lowest value; None if a value is missing."""
        values = [value for value in self.values if value is not None]
        return values.index(min(values)) if values and len(values) == len(self.values) else None


def score_items(
    context: EvalContext,
    items: Sequence[Any],
    score_batch: Callable[[Sequence[Any]], Sequence[tuple[float | None, ...]]],
    batch_size: int,
) -> Sequence[OptionScores]:
    """Return the option scores of items, stored in the benchmark's folder.

    `score_batch` returns the values of each item of a batch. Raises UserError if the stored scores are about other
    items, because the data have changed since, or if no item fits the model's context.
    """
    fingerprints, path = item_fingerprints(items), context.folder.path / LOSSES_FILE

    def make_batch(start: int) -> list[OptionScores]:
        batch = slice(start, start + batch_size)
        scores = zip(score_batch(items[batch]), fingerprints[batch], strict=True)
        return [OptionScores(values=values, of=item) for values, item in scores]

    def check(rows: Sequence[OptionScores]) -> None:
        check_unchanged(path, rows, fingerprints)

    check_model_loads(context.engine)
    rows = context.folder.map_batches(
        LOSSES_FILE, OptionScores, make_batch, len(items), batch_size, context.engine.max_in_flight, check
    )
    report_too_long(context, rows)
    return rows


def logprobs(engine: Engine, prompts: Sequence[str], outputs: Sequence[str]) -> list[TokenLogprobs | None]:
    """Return Engine.logprobs, with None for a prompt and output that are too long together.

    A batch with such a pair is halved, down to single pairs.
    """
    try:
        return list(engine.logprobs(prompts, outputs))
    except TooLong:
        if len(prompts) == 1:
            return [None]
        half = len(prompts) // 2
        return logprobs(engine, prompts[:half], outputs[:half]) + logprobs(engine, prompts[half:], outputs[half:])


def mean_losses(engine: Engine, texts: Sequence[str], tokenizer: Any) -> list[float | None]:
    """Return the loss of each text in nats, divided by its number of tokens, as OpenCompass computes it.

    The first token has no loss and is counted: it is the tokenizer's beginning of sequence, if it has one. If it has
    none, our engine reads an end of text before the first token, which OpenCompass does not.
    """
    start = start_token_ids(tokenizer)
    begin = start_text(tokenizer)
    results = logprobs(engine, [""] * len(texts), [text.removeprefix(begin) for text in texts])
    first = 0 if start else 1
    return [
        None if result is None else -sum(result.logprobs[first:]) / max(len(result.logprobs) + len(start), 1)
        for result in results
    ]


def check_model_loads(engine: Engine) -> None:
    """Load the model. Raises UserError if it can't be loaded, before thousands of texts are sent to it."""
    engine.logprobs(["a"], ["a"])


def report_too_long(context: EvalContext, rows: Sequence[OptionScores]) -> None:
    """Print how many rows did not fit the context. Raises UserError if none did."""
    folder, missing = context.folder, sum(row.lowest is None for row in rows)
    if rows and missing == len(rows):
        raise UserError(f"{folder.path}: nothing fits the model's context; take a model with a longer one")
    if missing:
        folder.notify(
            f"{folder.path.name}: {missing} of {len(rows)} rows do not fit the model's context; their items count as "
            "wrong"
        )
