"""Digests of files, which are read anew only if a file has changed since its last digest."""

import hashlib
from functools import cache
from pathlib import Path

NUM_BLOCKS = 256
BLOCK_BYTES = 2**16


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits. A file of the same size and time is not read again."""
    status = path.stat()
    return _file_sha256(path, status.st_mtime_ns, status.st_size)


@cache
def _file_sha256(path: Path, modified: int, size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sample_sha256(path: Path) -> str:
    """Return the SHA-256 of blocks of a file at equal distances, the first and the last one included.

    At most 16 MiB are read. A file of the same size and time is not read again.
    """
    status = path.stat()
    return _sample_sha256(path, status.st_mtime_ns, status.st_size)


@cache
def _sample_sha256(path: Path, modified: int, size: int) -> str:
    digest = hashlib.sha256()
    last = max(0, size - BLOCK_BYTES)
    with path.open("rb") as file:
        for index in range(NUM_BLOCKS):
            file.seek(last * index // (NUM_BLOCKS - 1))
            digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()
