"""Self-Instruct's rules for new instructions (Wang et al. 2023, Section 2.2), by language."""

import re
import string
import unicodedata
from functools import cache
from pathlib import Path

from isheep.files.yaml_files import read_yaml
from isheep.text.characters import unfit_character
from isheep.text.novelty import UNSPACED, Language, split_words

# What would change the meaning of a prompt: a special token, or a line that looks like the prompt's separator.
UNSAFE = re.compile(r"(?m)<\|.{0,40}?\|>|^[ \t]*#{3,}")
WORD_RULES = Path(__file__).parent / "word_rules.yaml"


def broken_rule(instruction: str, language: Language = "en") -> str | None:
    """Return why Self-Instruct's rules reject an instruction, or None.

    An instruction has more than 3 and at most 150 words, and begins with no punctuation and, for "en", with no
    non-ASCII character. It holds no word of the language's list in word_rules.yaml (things that a text model can't see
    or make) and begins with none of its openings; "any" has no such list. For languages other than "en" the words are
    Unicode words, and an instruction may start with a letter or an opening quotation mark of every script. Text that
    looks like a special token or the separator of the prompt, or has a control character, is rejected too.
    """
    num_words = len(instruction.split() if language == "en" else split_words(instruction, language))
    if num_words <= 3:
        return "3 words or fewer"
    if num_words > 150:
        return "more than 150 words"
    return (
        broken_word_rule(instruction, language)
        or _bad_start(_first_visible(instruction), language)
        or unsafe_text(instruction)
    )


def broken_word_rule(instruction: str, language: Language) -> str | None:
    """Return which unsuitable word or opening of the language an instruction has; None if it has none."""
    rules = word_rules().get(language)
    if rules is None:
        return None
    words, openings = rules
    # The lists have composed characters.
    instruction = unicodedata.normalize("NFC", instruction)
    if match := words.search(instruction):
        return f"holds the word {match[0].lower()!r}"
    opening = next((text for text in openings if instruction.startswith(text)), None)
    return f"starts with {opening!r}" if opening else None


@cache
def word_rules() -> dict[str, tuple[re.Pattern[str], tuple[str, ...]]]:
    """Return for each language that has word rules the pattern of its unsuitable words, and its openings."""
    data = read_yaml(WORD_RULES)
    return {language: (_any_of(rules["words"]), tuple(rules["openings"])) for language, rules in data.items()}


def _any_of(words: list[str]) -> re.Pattern[str]:
    """Return the pattern of any of some words, in any case and with any white space within them.

    Words of a script without spaces match anywhere.
    """
    patterns = []
    for word in words:
        word = unicodedata.normalize("NFC", word)
        pattern = r"\s+".join(map(re.escape, word.split()))
        patterns.append(pattern if re.match(f"[{UNSPACED}]", word) else rf"\b{pattern}\b")
    return re.compile(rf"(?i)(?:{'|'.join(patterns)})")


def unsafe_text(text: str) -> str | None:
    """Return as a reason what no prompt may hold, or None.

    That is a special token, a separator of the prompt, or a character that is unfit to learn from.
    """
    if match := UNSAFE.search(text):
        return f"holds {match[0].strip()!r}"
    why = unfit_character(text)
    return f"holds {why}" if why else None


def _first_visible(text: str) -> str:
    """Return the first character of a text that is not a format sign, such as a mark of the writing direction."""
    return next((character for character in text if unicodedata.category(character) != "Cf"), text[0])


def _bad_start(character: str, language: Language) -> str | None:
    if language == "en":
        if not character.isascii():
            return "starts with a non-ASCII character"
        is_allowed = character not in string.punctuation
    else:
        is_allowed = character.isalnum() or character in "¿¡" or _is_opening(character)
    return None if is_allowed else "starts with punctuation"


def _is_opening(character: str) -> bool:
    """Return whether a character is an opening bracket or a quotation mark of a script, but not an ASCII one.

    Brackets have the category Ps. Quotation marks have Pi, Pf where they open, or say so in their names, as in Hebrew.
    """
    if character.isascii():
        return False
    words = unicodedata.name(character, "").split()
    is_quotation_mark = not {"QUOTATION", "GERESH", "GERSHAYIM"}.isdisjoint(words)
    return is_quotation_mark or unicodedata.category(character) in ("Ps", "Pi", "Pf")
