"""A last look at files before others get them: no secret of the environment and no path of the machine is in them."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from isheep.errors import UserError

SECRET_WORDS = {"KEY", "KEYS", "APIKEY", "TOKEN", "TOKENS", "SECRET", "SECRETS", "PASSWORD", "PASSWD", "CREDENTIALS"}
"""A variable is taken for a secret if its name has one of these words between underscores."""

SHORTEST_SECRET = 8
"""The number of characters of the shortest value that is searched for. A shorter one, such as "1", is everywhere."""

BLOCK = 1 << 24
"""The number of bytes of a file that are in memory at once."""


def check_files(paths: Iterable[Path], environment: Mapping[str, str], token: str | None, home: Path) -> None:
    """Raise UserError if a file holds the value of a secret, the token of the Hub's login, or the home folder's path.

    The message names the file and the variable, never the value.
    """
    needles = _secrets(environment)
    if token and len(token) >= SHORTEST_SECRET:
        needles[token.encode()] = "the token of the Hugging Face Hub"
    if len(home.parts) > 1:
        needles[f"{home}/".encode()] = "the path of the home folder"
    for path in paths:
        if needle := _find(path, list(needles)):
            raise UserError(f"{path} holds {needles[needle]}, so nothing is uploaded: take it out of the run")


def _secrets(environment: Mapping[str, str]) -> dict[bytes, str]:
    return {
        os.fsencode(value): f"the value of the environment variable {name}"
        for name, value in environment.items()
        if SECRET_WORDS & {*name.upper().split("_")} and len(value) >= SHORTEST_SECRET
    }


def _find(path: Path, needles: list[bytes]) -> bytes | None:
    """Return the first of the texts that a file holds. Blocks overlap, so that none is missed between two."""
    overlap = max(map(len, needles), default=0)
    with path.open("rb") as file:
        before = b""
        while block := file.read(BLOCK):
            window = before + block
            for needle in needles:
                if needle in window:
                    return needle
            before = window[-overlap:] if overlap else b""
    return None
