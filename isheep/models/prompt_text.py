"""Prompts in which control tokens that a user or a model spelled out are ordinary text.

`<s>` in "What does <s>text</s> do in HTML?" is three characters of a question, and `<s>` that a chat template writes is
the token that begins a sequence. A `Prompt` is a text together with the character spans that are literal.
"""

import re
from collections.abc import Collection
from functools import lru_cache

MARK_START, MARK_END = "\ufdd0", "\ufdd1"
"""Stand around a spelled control token while a template is rendered. Unicode reserves them for such internal use."""

NAME_START, NAME_END = "\ufdd2", "\ufdd3"
"""Enclose the number that replaces the name of an added token in tokenization.LiteralTokenizer."""

WITHOUT_MARKS = str.maketrans("", "", MARK_START + MARK_END + NAME_START + NAME_END)
"""The translation that removes these four characters from a text."""

Spans = tuple[tuple[int, int], ...]
"""Spans of a text: (start, end) in characters."""


class Prompt(str):
    """A text for a tokenizer; in its `literal` places no added token of the tokenizer is matched."""

    literal: Spans

    def __new__(cls, text: str, literal: Spans = ()) -> "Prompt":
        prompt = super().__new__(cls, text)
        prompt.literal = literal
        return prompt

    def __add__(self, text: str) -> "Prompt":
        return Prompt(str(self) + str(text), self.literal + _moved(literal_spans(text), len(self)))

    def removeprefix(self, prefix: str, /) -> "Prompt":
        """Return the prompt without `prefix`, with its literal places behind it."""
        length = len(prefix) if self.startswith(prefix) else 0
        return Prompt(str(self)[length:], _moved(self.literal, -length))

    def __radd__(self, text: str) -> "Prompt":
        return Prompt(str(text) + str(self), literal_spans(text) + _moved(self.literal, len(text)))


def literal_spans(text: str) -> Spans:
    """Return the places of a text in which no added token is matched: none, unless it is a Prompt."""
    return text.literal if isinstance(text, Prompt) else ()


def literal_text(text: str, tokens: Collection[str]) -> str:
    """Return a text whose characters all mean themselves, also where it spells one of the control tokens `tokens`.

    The four marks are removed first, so that no later step joins what stands around them to a control token.
    """
    text = without_marks(text)
    spans = tuple(match.span() for match in token_pattern(frozenset(tokens)).finditer(text))
    return Prompt(text, spans) if spans else text


def without_marks(text: str) -> str:
    """Return a text without the four characters that this package uses as marks."""
    return text.translate(WITHOUT_MARKS)


def without_literal(text: str) -> str:
    """Return a text without its literal places, for a reader that would take what they spell as control tokens.

    A space stands in their place, so that what is around them is not joined to a control token.
    """
    pieces, position = [], 0
    for start, end in literal_spans(text):
        pieces.append(str(text)[position:start])
        position = end
    return " ".join([*pieces, str(text)[position:]])


def mark_tokens(text: str, tokens: Collection[str]) -> str:
    """Return a text with MARK_START and MARK_END around each of the control tokens `tokens` that it spells."""
    text = without_marks(text)
    return token_pattern(frozenset(tokens)).sub(lambda match: f"{MARK_START}{match[0]}{MARK_END}", text)


def unmark(text: str) -> str:
    """Return a rendered text without the marks, as a Prompt whose literal places are those that the marks enclosed.

    A template may cut a text between two marks; a mark without its partner is dropped.
    """
    parts: list[str] = []
    spans: list[tuple[int, int]] = []
    length = 0
    for part in re.split(f"({MARK_START}[^{MARK_START}{MARK_END}]*{MARK_END})", text):
        content = part.replace(MARK_START, "").replace(MARK_END, "")
        if content and part.startswith(MARK_START) and part.endswith(MARK_END):
            spans.append((length, length + len(content)))
        parts.append(content)
        length += len(content)
    return Prompt("".join(parts), tuple(spans)) if spans else "".join(parts)


@lru_cache(maxsize=16)
def token_pattern(tokens: frozenset[str]) -> re.Pattern[str]:
    """Return the pattern that matches each of the tokens, the longest first; without tokens it matches nothing."""
    longest_first = sorted(tokens, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _moved(spans: Spans, distance: int) -> Spans:
    return tuple((start + distance, end + distance) for start, end in spans)
