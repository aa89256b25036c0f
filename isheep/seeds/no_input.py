"""The ways to write that a task has no input: <noinput>, "No input", "(None).", "n/a", "null"."""

import re
import unicodedata

# After a tag, the rest is ignored. Words stand alone, perhaps between signs.
WORDS = (
    r"no[\W_]{0,3}(?:(?:additional|further|extra|specific|other) )?inputs?"
    r"(?: (?:is )?(?:required|needed|necessary|given|provided))?"
    r"|none|null|nil|n[/.]?a|not applicable"
)
NO_INPUT = re.compile(rf"(?i)<no ?input>.*|[\W_]*(?:{WORDS})[\W_]*|<(?:blank|empty)>", re.DOTALL)


def is_no_input(text: str) -> bool:
    """Return whether the input of a task says that there is none."""
    # Full-width letters are written as others.
    return NO_INPUT.fullmatch(unicodedata.normalize("NFKC", text)) is not None
