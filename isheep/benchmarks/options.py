"""Log-probabilities for benchmarks whose answers are chosen, not written; what does not fit is its own outcome."""

from collections.abc import Sequence
from typing import Any

from isheep.engines import Engine
from isheep.errors import TooLong, UserError
from isheep.models.checkpoint import start_token_ids
from isheep.records import Record, TokenLogprobs
from isheep.rundir.folder import RunFolder


class OptionScores(Record):
    """A value for each option of an item, the lower the better; None where it does not fit the model's context."""

    values: tuple[float | None, ...]
    of: str = ""  # a mark of the item (benchmarks.marks)

    @property
    def lowest(self) -> int | None:
        """The first option with the lowest value, None where one is missing."""
        known = [value for value in self.values if value is not None]
        return known.index(min(known)) if known and len(known) == len(self.values) else None


def logprobs(engine: Engine, prompts: Sequence[str], outputs: Sequence[str]) -> list[TokenLogprobs | None]:
    """Engine.logprobs, None where prompt and output are too long together: halves are tried down to single ones."""
    try:
        return list(engine.logprobs(prompts, outputs))
    except TooLong:
        if len(prompts) == 1:
            return [None]
        half = len(prompts) // 2
        return logprobs(engine, prompts[:half], outputs[:half]) + logprobs(engine, prompts[half:], outputs[half:])


def losses(engine: Engine, texts: Sequence[str], tokenizer: Any) -> list[float | None]:
    """The loss of each text in nats, divided by its number of tokens, as OpenCompass has it.

    The first token has no loss and is counted: it is the tokenizer's beginning of sequence where it has one. Where it
    has none, our engine reads an end of text before the first token, which OpenCompass does not.
    """
    start = start_token_ids(tokenizer)
    begin = tokenizer.bos_token or "" if start else ""
    found = logprobs(engine, [""] * len(texts), [text.removeprefix(begin) for text in texts])
    first = 0 if start else 1
    return [
        None if one is None else -sum(one.logprobs[first:]) / max(len(one.logprobs) + len(start), 1) for one in found
    ]


def ready(engine: Engine) -> None:
    """Loads the model. Raises UserError where it can't, before the first texts are read."""
    engine.logprobs(["a"], ["a"])


def too_long(folder: RunFolder, rows: Sequence[OptionScores]) -> None:
    """Says how many rows did not fit. Raises UserError where none did."""
    lost = sum(row.lowest is None for row in rows)
    if rows and lost == len(rows):
        raise UserError(f"{folder.path}: nothing fits the model's context; take a model with a longer one")
    if lost:
        folder.say(
            f"{folder.path.name}: {lost} of {len(rows)} rows do not fit the model's context; their items count as wrong"
        )
