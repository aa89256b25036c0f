"""Texts in a recipe that name files."""

from typing import Annotated

from pydantic import AfterValidator

MAX_NAME_BYTES = 255
"""The longest name of a file or folder that Linux has."""


def _check_path(value: str) -> str:
    names = value.split("/")
    if not value or "\0" in value or max(len(name.encode()) for name in names) > MAX_NAME_BYTES:
        raise ValueError(f"a path, or a name, has no NUL, and at most {MAX_NAME_BYTES} bytes between two slashes")
    return value


PathText = Annotated[str, AfterValidator(_check_path)]
