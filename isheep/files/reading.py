"""The bytes and the text of a file, plain or gzipped, up to a limit: a larger file is refused, and never held whole."""

import gzip
import zlib
from pathlib import Path
from typing import BinaryIO

from isheep.errors import UserError, quote_path

GZIP_START = b"\x1f\x8b"

MAX_BYTES = 2**28
"""The most bytes of a file of rows, unpacked. As Python's values they take up to 25 times as many."""

MAX_TEXT_BYTES = 2**20
"""The most bytes of a file that a person writes: a recipe, prompts, a chat template."""

# A gzipped file may unpack to this many bytes, or else to this many times its own size. Texts reach a ratio of 3 to 20,
# those that repeat themselves 100.
FREE_BYTES, MAX_RATIO = 2**24, 200
_CHUNK = 2**20
MAX_SHOWN_PATH = 300
"""A longer path is shown without its middle."""


def read_bytes(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the content of a file, unpacked if it is gzipped.

    Raises UserError if it can't be read, has more than `max_bytes`, or is gzipped and more than MAX_RATIO times as
    large unpacked.
    """
    try:
        with path.open("rb") as file:
            start = file.peek(len(GZIP_START))[: len(GZIP_START)]
            if start != GZIP_START:
                return _read(file, max_bytes, f"{path}: has more than {_amount(max_bytes)}; give a smaller file")
            max_unpacked = min(max_bytes, max(FREE_BYTES, MAX_RATIO * path.stat().st_size))
            with gzip.open(file) as unpacked:
                return _read(
                    unpacked, max_unpacked, f"{path}: has more than {_amount(max_unpacked)} unpacked; unpack it and see"
                )
    # A ValueError is a NUL in the path.
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _unreadable(path, error) from None


def _read(file: BinaryIO | gzip.GzipFile, max_bytes: int, refusal: str) -> bytes:
    """Return the rest of a file, read in pieces: a device or a packed file does not say how long it is."""
    pieces, size = [], 0
    while piece := file.read(_CHUNK):
        size += len(piece)
        if size > max_bytes:
            raise UserError(refusal)
        pieces.append(piece)
    return b"".join(pieces)


def read_text(path: Path, max_bytes: int = MAX_BYTES) -> str:
    """Return a UTF-8 text without its byte order mark, unpacked if it is gzipped.

    Raises UserError like `read_bytes`, and if it is not UTF-8.
    """
    try:
        return read_bytes(path, max_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unreadable(path, error) from None


def read_small_text(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Return the UTF-8 text of a file that a person writes, with plain line ends.

    Raises UserError if it can't be read, is not UTF-8, or has more than `max_bytes`.
    """
    try:
        with path.open("rb") as file:
            content = _read(file, max_bytes, f"{path}: has more than {_amount(max_bytes)}; give a smaller file")
        return content.decode().replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> UserError:
    if isinstance(error, UnicodeDecodeError):
        return UserError(f"{path}: can't be read: not UTF-8 text at byte {error.start}; write it as UTF-8")
    label = path if len(str(path)) <= MAX_SHOWN_PATH else quote_path(str(path))
    return UserError(f"{label}: can't be read: {getattr(error, 'strerror', None) or error}")


def _amount(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB"
