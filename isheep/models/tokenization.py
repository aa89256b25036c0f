"""Texts to token ids and back, in every engine and trainer: prompts, what continues them, and generated tokens.

A tokenizer of the SentencePiece kind puts a space before the first word of a text and drops it when it decodes. A
continuation must not get that space, so it is encoded and decoded after other text.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from isheep.errors import UserError, one_line
from isheep.models.checkpoint import start_token_ids
from isheep.models.prompt_text import NAME_END, NAME_START, literal_spans, token_pattern, without_literal

WITHOUT_NAMES = str.maketrans(dict.fromkeys((NAME_START, NAME_END), "\ufffd"))
"""The translation that makes the enclosing characters of names replacement characters."""

ANCHORS = ("\n", "|", "a", "ab")
"""Texts behind which a continuation is encoded; one of them does not merge with it."""


def encode(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of a text, without tokens added before and after it.

    Special tokens that are written in the text become their token ids, except in the literal parts of a Prompt.
    """
    if literal_spans(text):
        return _literal_ids(tokenizer, text)
    ids: list[int] = _plain_ids(tokenizer, [str(text)])[0]
    return ids


def prompt_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of prompts, after what the tokenizer puts before a text if the prompt does not begin so.

    An empty prompt becomes the end-of-text token, because a model needs a token to start from.
    """
    start = start_token_ids(tokenizer)
    plain = [str(text) for text in texts if not literal_spans(text)]
    plain_rows = iter(_plain_ids(tokenizer, plain) if plain else [])
    rows = [_literal_ids(tokenizer, text) if literal_spans(text) else next(plain_rows) for text in texts]
    rows = [row if row[: len(start)] == start else start + row for row in rows]
    return [row or [tokenizer.eos_token_id or 0] for row in rows]


def _plain_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """Return the token ids of texts without literal places.

    Raises UserError if the tokenizer gives up on one, as its library does where a regular expression of its file takes
    too many steps. That is an exception of Rust, which is no Exception of Python.
    """
    try:
        rows: list[list[int]] = tokenizer(texts, add_special_tokens=False).input_ids
        return rows
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise UserError(
            f"the tokenizer gives up on a text: {one_line(error)}; give a tokenizer.json with simpler expressions"
        ) from None


def continuation_ids(tokenizer: Any, text: str, before: Sequence[int]) -> list[int]:
    """Return the token ids of a text that continues the tokens `before`, those of an output or of an option.

    Encoded for itself, " 8" would begin with two spaces in a tokenizer that puts one before a text.
    """
    if not text or not adds_space(tokenizer):
        return encode(tokenizer, text)
    if opens_text(tokenizer, before):
        return encode(tokenizer, text)
    last_token = tokenizer.convert_ids_to_tokens(before[-1])
    anchors = (last_token,) if before[-1] in added_ids(tokenizer) else ANCHORS
    for anchor in anchors:
        anchor_ids, ids = encode(tokenizer, anchor), encode(tokenizer, anchor + text)
        if ids[: len(anchor_ids)] == anchor_ids:
            return ids[len(anchor_ids) :]
    return encode(tokenizer, text)


def decode_continuation(tokenizer: Any, tokens: Sequence[int], before: Sequence[int] | None = None) -> str:
    """Return the text of tokens that a model wrote behind the tokens `before`, without special tokens.

    Without `before` they stand behind other text. It is the text from which `continuation_ids` gives such tokens.
    """
    if not drops_space(tokenizer):
        return decode_tokens(tokenizer, tokens)
    anchor = encode(tokenizer, "a")[-1:]
    text = decode_tokens(tokenizer, [*anchor, *tokens])[len(decode_tokens(tokenizer, anchor)) :]
    num_spaces = len(text) - len(text.lstrip(" "))
    if before is None or not num_spaces:
        return text
    # Behind these tokens the tokenizer may have put the first space there itself.
    shorter = " " * (num_spaces - 1) + "a"
    ids = continuation_ids(tokenizer, shorter, before)
    return text[1:] if decode_continuation(tokenizer, ids) == f" {shorter}" else text


def decode_tokens(tokenizer: Any, tokens: Sequence[int]) -> str:
    """Return the text of tokens that begin a text, without special tokens."""
    text: str = tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


@lru_cache(maxsize=16)
def adds_space(tokenizer: Any) -> bool:
    """Return whether a text for itself is encoded in another way than behind other text."""
    for text in ("a", " a"):
        for anchor in ANCHORS[:2]:
            anchor_ids, ids = encode(tokenizer, anchor), encode(tokenizer, anchor + text)
            if ids[: len(anchor_ids)] == anchor_ids and ids[len(anchor_ids) :] != encode(tokenizer, text):
                return True
    return False


@lru_cache(maxsize=16)
def drops_space(tokenizer: Any) -> bool:
    """Return whether tokens for themselves are decoded without the space that they begin with."""
    ids = encode(tokenizer, "a b")
    joint = decode_tokens(tokenizer, ids)
    return any(
        decode_tokens(tokenizer, ids[:cut]) + decode_tokens(tokenizer, ids[cut:]) != joint for cut in range(1, len(ids))
    )


def opens_text(tokenizer: Any, before: Sequence[int]) -> bool:
    """Return whether a text behind the tokens `before` is the first one: there is none but the sequence's start."""
    return not before or list(before) == start_token_ids(tokenizer)


@lru_cache(maxsize=16)
def added_ids(tokenizer: Any) -> frozenset[int]:
    """Return the ids of the tokens that the tokenizer matches before it splits a text, white space left out."""
    return frozenset(index for index, token in tokenizer.added_tokens_decoder.items() if not token.content.isspace())


# --- control tokens as text


def _literal_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of a Prompt. Tokens that even plain text gives are left out of the text."""
    copy = _literal_tokenizer(tokenizer)
    ids = copy.encode(text) if copy else None
    return encode(tokenizer, without_literal(text)) if ids is None else ids


@lru_cache(maxsize=4)
def _literal_tokenizer(tokenizer: Any) -> "LiteralTokenizer | None":
    """Return the copy of a tokenizer that matches renamed tokens only; None if it is not of the tokenizers library."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return LiteralTokenizer(backend) if hasattr(backend, "get_added_tokens_decoder") else None


class LiteralTokenizer:
    """A copy of a tokenizer whose added tokens have names that no text spells.

    A prompt's own control tokens get these names before it is encoded, so that only they are matched, with all rules of
    the tokenizer. Everything else is split as ever.
    """

    def __init__(self, backend: Any) -> None:
        from tokenizers import AddedToken, Tokenizer

        self.tokenizer = Tokenizer(backend.model)
        self.tokenizer.normalizer, self.tokenizer.pre_tokenizer = backend.normalizer, backend.pre_tokenizer
        added = sorted(backend.get_added_tokens_decoder().items())
        self.names = {
            token.content: f"{NAME_START}{index}{NAME_END}" for index, token in added if not token.content.isspace()
        }
        flags = ("lstrip", "rstrip", "single_word", "normalized")
        new_names = [self.names.get(token.content, token.content) for _, token in added]
        self.tokenizer.add_tokens(
            [
                AddedToken(name, **{flag: getattr(token, flag) for flag in flags})
                for name, (_, token) in zip(new_names, added, strict=True)
            ]
        )
        self.real_ids = {
            self.tokenizer.token_to_id(name): index for name, (index, _) in zip(new_names, added, strict=True)
        }
        self.control_ids = frozenset(index for index, token in added if not token.content.isspace())

    def encode(self, text: str) -> list[int] | None:
        """Return the token ids of a Prompt; None if its plain text gives one of the control tokens all the same."""
        pattern, pieces, position = token_pattern(frozenset(self.names)), [], 0
        for start, end in (*literal_spans(text), (len(text), len(text))):
            # Each is replaced by another character: without it, what stands around it could be a control token.
            piece = str(text)[position:start].translate(WITHOUT_NAMES)
            literal = str(text)[start:end].translate(WITHOUT_NAMES)
            pieces += [pattern.sub(lambda match: self.names[match[0]], piece), literal]
            position = end
        ids = self.tokenizer.encode("".join(pieces), add_special_tokens=False).ids
        # A renamed token has a new id, so that an old one can only come from plain text.
        if any(index in self.control_ids and index not in self.real_ids for index in ids):
            return None
        return [self.real_ids.get(index, index) for index in ids]
