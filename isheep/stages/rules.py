"""Self-Instruct's rules for new instructions (Wang et al. 2023, Section 2.2), by language."""

import re
import string
import unicodedata
from functools import cache
from pathlib import Path

import yaml

from isheep.text.novelty import Language, split_words

# What would change the meaning of a prompt: a special token, or a line that looks like the prompt's separator.
UNSAFE = re.compile(r"(?m)<\|.{0,40}?\|>|^[ \t]*#{3,}")
WORD_RULES = Path(__file__).parent / "word_rules.yaml"


def broken_rule(instruction: str, language: Language = "en") -> str | None:
    """Return why Self-Instruct's rules reject an instruction, or None.

    An instruction has more than 3 and at most 150 words, and begins with no punctuation and, for "en", with no
    non-ASCII character. It holds no word of the language's list in word_rules.yaml (things that a text model can't see
    or make) and begins with none of its openings. For "any", which has no such
    list, the words are Unicode words, and an instruction may start with a letter or an opening quotation mark of every
    script. Text that looks like a special token or the separator of the prompt is rejected too.
    """
    num_words = len(instruction.split() if language == "en" else split_words(instruction, language))
    if num_words <= 3:
        return "3 words or fewer"
    if num_words > 150:
        return "more than 150 words"
    return broken_word_rule(instruction, language) or _bad_start(instruction[0], language) or unsafe_text(instruction)


def broken_word_rule(instruction: str, language: Language) -> str | None:
    """Return which unsuitable word or opening of the language an instruction has; None if it has none."""
    rules = word_rules().get(language)
    if rules is None:
        return None
    words, openings = rules
    if match := words.search(instruction):
        return f"holds the word {match[0].lower()!r}"
    opening = next((text for text in openings if instruction.startswith(text)), None)
    return f"starts with {opening!r}" if opening else None


@cache
def word_rules() -> dict[str, tuple[re.Pattern[str], tuple[str, ...]]]:
    """Return for each language that has word rules the pattern of its unsuitable words, and its openings."""
    data = yaml.safe_load(WORD_RULES.read_text(encoding="utf-8"))
    return {
        language: (re.compile(rf"(?i)\b(?:{'|'.join(map(re.escape, rules['words']))})\b"), tuple(rules["openings"]))
        for language, rules in data.items()
    }


def unsafe_text(text: str) -> str | None:
    """Return what in a text looks like a special token or a separator of the prompt, as a reason, or None."""
    match = UNSAFE.search(text)
    return f"holds {match[0].strip()!r}" if match else None


def _bad_start(character: str, language: Language) -> str | None:
    if language == "en":
        if not character.isascii():
            return "starts with a non-ASCII character"
        is_allowed = character not in string.punctuation
    else:
        # Opening brackets (Ps) and quotation marks (Pi, and Pf where they open) of other scripts begin a sentence.
        is_quote = not character.isascii() and unicodedata.category(character) in ("Ps", "Pi", "Pf")
        is_allowed = character.isalnum() or character in "¿¡" or is_quote
    return None if is_allowed else "starts with punctuation"
