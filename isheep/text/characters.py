"""Characters that no text to learn from has: control characters, noncharacters, and open directional signs.

A joiner (U+200D, U+200C), a mark of the writing direction (U+200E, U+200F, U+061C) and an embedding, override or
isolate that ends in its paragraph are parts of texts in Hindi, Persian, Hebrew, Arabic and others.
"""

import re

# Unicode's categories Cc, without tab, newline and carriage return, and Cs, and the 66 noncharacters.
_PLANES = range(0x110000 >> 16)
_ENDS = "".join(f"{chr((plane << 16) + 0xFFFE)}{chr((plane << 16) + 0xFFFF)}" for plane in _PLANES)
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
NO_CHARACTER = re.compile(f"[\ud800-\udfff\ufdd0-\ufdef{_ENDS}]")

# What a tokenizer of bytes writes in place of bytes that are no character.
REPLACEMENT = "\ufffd"

DIRECTIONAL = re.compile("[\u202a-\u202e\u2066-\u2069\n\r\u2029]")
# What ends an embedding or an override, and what ends an isolate (Unicode Standard Annex 9).
POP_EMBEDDING, POP_ISOLATE = "\u202c", "\u2069"
ISOLATES, PARAGRAPH_ENDS = "\u2066\u2067\u2068", "\n\r\u2029"


def unfit_character(text: str) -> str | None:
    """Return what in a text is no character to learn from, as "control character U+0000", or None."""
    if match := CONTROL.search(text):
        return f"control character {_code(match[0])}"
    if match := NO_CHARACTER.search(text):
        return f"{_code(match[0])}, which is no character"
    sign = _unbalanced(text)
    return f"{_code(sign)}, a directional sign without its counterpart" if sign else None


def _unbalanced(text: str) -> str | None:
    """Return a directional sign that does not end in its paragraph, or ends nothing; None if there is none."""
    open_signs: list[str] = []
    for sign in DIRECTIONAL.findall(text):
        if sign in PARAGRAPH_ENDS:
            if open_signs:
                return open_signs[0]
        elif sign in (POP_EMBEDDING, POP_ISOLATE):
            is_isolate = bool(open_signs) and open_signs[-1] in ISOLATES
            if not open_signs or is_isolate != (sign == POP_ISOLATE):
                return str(sign)
            open_signs.pop()
        else:
            open_signs.append(sign)
    return open_signs[0] if open_signs else None


def _code(character: str) -> str:
    return f"U+{ord(character):04X}"
