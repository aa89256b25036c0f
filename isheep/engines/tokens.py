"""Conversions between texts and token ids that every engine shares: prompts, stop strings, completions, options."""

from collections.abc import Sequence
from typing import Any

from isheep.records import Completion


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of a text, without special tokens around it."""
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids


def prompt_ids(tokenizer: Any, start: list[int], texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of prompts, after the beginning of sequence if the text does not start with it.

    `start` is `start_token_ids(tokenizer)`. An empty prompt becomes the end-of-text token, because a model needs a
    token to start from.
    """
    rows = tokenizer(list(texts), add_special_tokens=False).input_ids if texts else []
    rows = [row if start and row[:1] == start else start + row for row in rows]
    return [row or [tokenizer.eos_token_id or 0] for row in rows]


def split_stops(tokenizer: Any, stops: Sequence[str]) -> tuple[set[int], list[str]]:
    """Split stop strings into the ids of those that are a single special token, and the texts of the others."""
    added = tokenizer.get_added_vocab()
    return {added[stop] for stop in stops if stop in added}, [stop for stop in stops if stop and stop not in added]


def decode_tokens(tokenizer: Any, tokens: Sequence[int]) -> str:
    """Return the text of token ids, without special tokens."""
    text: str = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def make_completion(
    tokenizer: Any, tokens: Sequence[int], stopped: bool, stop_ids: set[int], stop_texts: Sequence[str]
) -> Completion:
    """Return the completion of generated tokens, cut at its end token or at the first of the stop strings."""
    text = decode_tokens(tokenizer, tokens[:-1] if tokens and tokens[-1] in stop_ids else tokens)
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
