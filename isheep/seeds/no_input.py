"""The ways to write that a task has no input: <noinput>, "No input", "(None).", "n/a"."""

import re

# After a tag, the rest is ignored. Words stand alone, perhaps between signs.
NO_INPUT = re.compile(r"(?i)<no ?input>.*|[\W_]*(?:no[\W_]?input|none|n/?a)[\W_]*", re.DOTALL)


def is_no_input(text: str) -> bool:
    """Return whether the input of a task says that there is none."""
    return NO_INPUT.fullmatch(text) is not None
