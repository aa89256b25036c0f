"""Replies of a server to the batch of rows that is under way, kept on the disk until the rows are in their file.

A stage writes a batch of rows as a whole. If a call of the batch fails, or the run is killed, the replies that did
arrive are here, and the same requests are not sent again. Like the progress, the kept replies are those of the process:
an engine knows nothing of the stage that it works for.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

SUFFIX = ".replies.part"
"""The name of the file is that of the file of rows, and this."""


class KeptReplies:
    """Replies by the key of their request, each a text. Without a path they are not kept: nothing is found or written.

    The file is not synced to the disk, because it outlives the end of the process without that.
    """

    def __init__(self, path: Path | None = None) -> None:
        content = path.read_bytes() if path and path.exists() else b""
        self.path, self.texts = path, dict(_read_lines(content))
        self.ends_torn = bool(content) and not content.endswith(b"\n")

    def get(self, key: str) -> str | None:
        """Return the reply to a request; None if it has none."""
        return self.texts.get(key)

    def add(self, key: str, text: str) -> None:
        """Keep the reply to a request."""
        if self.path is None:
            return
        # The end of a line that a kill has torn.
        beginning = "\n" if self.ends_torn else ""
        self.texts[key], self.ends_torn = text, False
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{beginning}{json.dumps([key, text])}\n")

    def clear(self) -> None:
        """Forget all replies, and remove the file."""
        self.texts, self.ends_torn = {}, False
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _read_lines(content: bytes) -> Iterator[tuple[str, str]]:
    """Yield the keys and texts of the lines that are whole."""
    for line in content.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            match json.loads(line):
                case [str(key), str(text)]:
                    yield key, text


def kept_for(path: Path) -> KeptReplies:
    """Return the kept replies to the batch of a file of rows that is under way."""
    return KeptReplies(path.with_name(f"{path.name}{SUFFIX}"))


_stages: list[KeptReplies] = []


def current() -> KeptReplies:
    """Return the kept replies of the innermost stage that is under way."""
    return _stages[-1] if _stages else KeptReplies()


@contextlib.contextmanager
def keep_replies(path: Path) -> Iterator[KeptReplies]:
    """Keep the replies of a server inside the block in the file of rows `path`, and SUFFIX. Clear them at its end.

    If the block is left by an error, they stay on the disk.
    """
    kept = kept_for(path)
    _stages.append(kept)
    try:
        yield kept
        kept.clear()
    finally:
        _stages.remove(kept)
