"""Hashes that decide whether stored answers, verdicts and results may be used again."""

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from isheep.errors import UserError


def fingerprint(content: Any) -> str:
    """Return a hash of some content. Values that JSON does not have, such as dates in Parquet files, count as text."""
    return sha256(json.dumps(content, default=str).encode()).hexdigest()


def item_fingerprints(contents: Sequence[Any]) -> list[str]:
    """Return the short hashes that rows store as `of`, to tell what each row is about."""
    return [fingerprint(content)[:12] for content in contents]


def check_unchanged(path: Path, rows: Sequence[Any], fingerprints: Sequence[str]) -> None:
    """Check that stored rows are about the items of the data.

    Raises UserError if a row has another fingerprint, because the data have changed since. Rows of versions that stored
    no fingerprint have "" and pass.
    """
    if any(row.of not in ("", expected) for row, expected in zip(rows, fingerprints, strict=False)):
        raise UserError(
            f"{path} is about other items: give the data that it was made from, or delete {path.parent} to have it "
            "made again"
        )
