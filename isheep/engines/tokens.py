"""Between texts and token ids, the same for every engine: prompts, stops, completions, options."""

from collections.abc import Sequence
from typing import Any

from isheep.records import Completion


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """A text's tokens, nothing added."""
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids


def prompts(tokenizer: Any, start: list[int], texts: Sequence[str]) -> list[list[int]]:
    """Token ids, the beginning of sequence in front where the tokenizer adds one and the text has none.

    `start` is checkpoint.start_of the tokenizer. An empty text too needs a token to start from: the end of text.
    """
    rows = tokenizer(list(texts), add_special_tokens=False).input_ids if texts else []
    rows = [row if start and row[:1] == start else start + row for row in rows]
    return [row or [tokenizer.eos_token_id or 0] for row in rows]


def stops(tokenizer: Any, texts: Sequence[str]) -> tuple[set[int], list[str]]:
    """Stop strings as the ids of those that are one special token, and the texts of the others."""
    added = tokenizer.get_added_vocab()
    return {added[text] for text in texts if text in added}, [text for text in texts if text and text not in added]


def text_of(tokenizer: Any, tokens: Sequence[int]) -> str:
    decoded: str = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return decoded


def completion(tokenizer: Any, tokens: Sequence[int], stopped: bool, ids: set[int], texts: Sequence[str]) -> Completion:
    """What was written, up to its end token (one of `ids`) or the first of the stop strings `texts`."""
    text = text_of(tokenizer, tokens[:-1] if tokens and tokens[-1] in ids else tokens)
    cut = min((text.index(stop) for stop in texts if stop in text), default=len(text))
    return Completion(text[:cut], len(tokens), "stop" if stopped else "length")


def exclusive(options: Sequence[tuple[int, ...]], chances: Sequence[float]) -> list[float]:
    """The chances of options that exclude each other: where one begins a longer one, the longer one's share goes."""
    shares = list(chances)
    for i in sorted(range(len(options)), key=lambda i: -len(options[i])):
        mine = options[i]
        shares[i] -= sum(shares[j] for j, other in enumerate(options) if other != mine and other[: len(mine)] == mine)
    return [max(share, 0.0) for share in shares]
