"""What every engine makes of token ids: prompts that fit, stop strings, completions, probabilities of options."""

from collections.abc import Callable, Sequence
from typing import Any

from isheep.batching import derive_seed
from isheep.errors import TooLong
from isheep.models.tokenization import continuation_ids, decode_continuation
from isheep.records import Completion


def split_stops(tokenizer: Any, stops: Sequence[str]) -> tuple[set[int], list[str]]:
    """Return the ids of the stop strings that are special tokens, which no decoded text shows, and the texts of all.

    A stop string stops wherever its text appears, whatever tokens it is made of.
    """
    added = tokenizer.added_tokens_decoder.items()
    special_ids = {token.content: index for index, token in added if token.special}
    special_ids |= {token: tokenizer.convert_tokens_to_ids(token) for token in tokenizer.all_special_tokens}
    return {special_ids[stop] for stop in stops if stop in special_ids}, [stop for stop in stops if stop]


def fitting_indices(
    rows: Sequence[Sequence[int]], context: int, too_long: Callable[[str], TooLong], option_length: int | None = None
) -> list[int]:
    """Return the indices of the prompts that leave room in the context for a token, or for options of a length.

    Raises the error that `too_long` makes of a description of the shortest prompt if there are prompts and none fits.
    """
    indices = [index for index, row in enumerate(rows) if len(row) + (option_length or 1) <= context]
    if rows and not indices:
        option = "" if option_length is None else f" with an option of {option_length}"
        raise too_long(f"a prompt of {min(map(len, rows))} tokens{option}")
    return indices


def rows_with_outputs(
    tokenizer: Any, rows: Sequence[list[int]], outputs: Sequence[str], context: int
) -> list[tuple[list[int], list[int]]]:
    """Return each prompt with the tokens of its output, as far as both fit the context.

    They are tokenized separately, so that the prompt's tokens are those that `generate` reads.
    """
    pairs = ((row, continuation_ids(tokenizer, text, row)) for row, text in zip(rows, outputs, strict=True))
    return [(row, output[: max(0, context - len(row))]) for row, output in pairs]


def request_seeds(seed: int, num_requests: int) -> list[int]:
    """Return the random seeds of the requests of a call, so that the other prompts of the call never change one."""
    return [derive_seed(seed, index) for index in range(num_requests)]


def make_completion(
    tokenizer: Any,
    prompt: Sequence[int],
    tokens: Sequence[int],
    stopped: bool,
    stop_ids: set[int],
    stop_texts: Sequence[str],
) -> Completion:
    """Return the completion that `tokens` are behind `prompt`, cut at its end token or the first of the stop strings"""
    written = tokens[:-1] if tokens and tokens[-1] in stop_ids else tokens
    text = decode_continuation(tokenizer, written, prompt)
    end = min((text.index(stop) for stop in stop_texts if stop in text), default=len(text))
    return Completion(text[:end], len(tokens), "stop" if stopped else "length")


def exclusive_probabilities(options: Sequence[tuple[int, ...]], probabilities: Sequence[float]) -> list[float]:
    """Return the probabilities of options that exclude each other.

    `probabilities` are those of a continuation that begins with an option's tokens. If these tokens begin a longer
    option ("1" and "10"), the longer option's probability is subtracted.
    """
    exclusive = list(probabilities)
    for i in sorted(range(len(options)), key=lambda i: -len(options[i])):
        option = options[i]
        exclusive[i] -= sum(
            exclusive[j] for j, longer in enumerate(options) if longer != option and longer[: len(option)] == option
        )
    return [max(probability, 0.0) for probability in exclusive]
