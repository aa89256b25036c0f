"""Files that are there complete or not at all: write, fsync, rename, fsync the folder."""

import os
import shutil
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a whole file so that it is there complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    finish(part)


def copy(source: Path, to: Path) -> None:
    """Copy a file or a folder so that it is there complete or not at all; what was begun of `to` is removed.

    Under a name of its own till then: a stage would go on with a `to.part`, and half a copy is nothing to go on with.
    """
    part = to.with_name(f"{to.name}.copy.part")
    for old in (part, to, to.with_name(f"{to.name}.part")):
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, part)
    else:
        shutil.copyfile(source, part)
    finish_tree(part, to)


def finish(part: Path, to: Path | None = None) -> None:
    """NAME.part becomes NAME, or `to`, for good."""
    part.rename(to or part.with_suffix(""))
    sync(part.parent)


def finish_tree(part: Path, to: Path | None = None) -> None:
    """`finish` for a folder: all that is in it is synced first."""
    for path in (*part.rglob("*"), part):
        sync(path)
    finish(part, to)


def sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
