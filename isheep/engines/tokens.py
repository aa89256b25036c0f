"""What every engine makes of token ids: stop strings, completions, probabilities of options."""

from collections.abc import Sequence
from typing import Any

from isheep.models.tokenization import decode_continuation
from isheep.records import Completion


def split_stops(tokenizer: Any, stops: Sequence[str]) -> tuple[set[int], list[str]]:
    """Return the ids of the stop strings that are special tokens, which no decoded text shows, and the texts of all.

    A stop string stops wherever its text appears, whatever tokens it is made of.
    """
    added = tokenizer.added_tokens_decoder.items()
    special_ids = {token.content: index for index, token in added if token.special}
    special_ids |= {token: tokenizer.convert_tokens_to_ids(token) for token in tokenizer.all_special_tokens}
    return {special_ids[stop] for stop in stops if stop in special_ids}, [stop for stop in stops if stop]


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
