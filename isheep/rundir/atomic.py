"""Write files atomically: write, fsync, rename, fsync the folder."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

NO_FSYNC = (errno.EINVAL, errno.EBADF, errno.ENOSYS, errno.ENOTSUP, errno.EROFS)
"""How a file system answers that can't sync a file or a folder: some network file systems and FUSE."""

BeforeCommit = Callable[[Path], None]
"""Called with the path of the complete and synced content just before it gets its name."""


def do_nothing(part: Path) -> None:
    """Do nothing before a file gets its name."""


def write_text(path: Path, text: str, before_commit: BeforeCommit = do_nothing) -> None:
    """Write a file so that it exists completely or not at all."""
    write_pieces(path, (text,), before_commit)


def write_pieces(path: Path, pieces: Iterable[str], before_commit: BeforeCommit = do_nothing) -> None:
    """Write a file like `write_text`, from pieces that need not be in memory together."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(pieces)
            file.flush()
            fsync(file.fileno())
        before_commit(part)
    except BaseException:
        # No incomplete file is left if a piece can't be made.
        part.unlink(missing_ok=True)
        raise
    commit_file(part)


def write_json(path: Path, value: Any, before_commit: BeforeCommit = do_nothing) -> None:
    """Write a value as JSON, like `write_text`."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n", before_commit)


def write_json_list(path: Path, values: Iterable[Any], before_commit: BeforeCommit = do_nothing) -> None:
    """Write a JSON list value by value, with the same bytes as `write_json` of the whole list."""

    def pieces() -> Iterator[str]:
        opening = "["
        for value in values:
            # JSON escapes the line ends inside strings, so every line end is one of the indentation.
            lines = json.dumps(value, ensure_ascii=False, indent=1).replace("\n", "\n ")
            yield f"{opening}\n {lines}"
            opening = ","
        yield "[]\n" if opening == "[" else "\n]\n"

    write_pieces(path, pieces(), before_commit)


def copy_atomically(source: Path, target: Path, before_commit: BeforeCommit = do_nothing) -> None:
    """Copy a file or a folder so that it exists completely or not at all. Removes an incomplete `target`.

    The copy has a name of its own until it is complete, because a stage would resume from a `target.part`.
    """
    part = target.with_name(f"{target.name}.copy.part")
    for old in (part, target, target.with_name(f"{target.name}.part")):
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        _copy_folder(source, part)
    else:
        shutil.copyfile(source, part)
    before_commit(part)
    commit_folder(part, target)


def _copy_folder(source: Path, target: Path) -> None:
    """Copy a folder without its permissions: the copy of one that may only be read can be written to."""
    target.mkdir()
    for path in sorted(source.rglob("*")):
        if path.is_dir():
            (target / path.relative_to(source)).mkdir()
        else:
            shutil.copyfile(path, target / path.relative_to(source))


def commit_file(part: Path, target: Path | None = None) -> None:
    """Rename NAME.part to NAME, or to `target`, and sync its folder."""
    part.rename(target or part.with_suffix(""))
    fsync_path(part.parent)


def commit_folder(part: Path, target: Path | None = None) -> None:
    """Sync everything in the folder NAME.part, then rename it like `commit_file`."""
    for path in (*part.rglob("*"), part):
        fsync_path(path)
    commit_file(part, target)


def fsync_path(path: Path) -> None:
    """Sync a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        fsync(handle)
    finally:
        os.close(handle)


def fsync(handle: int) -> None:
    """Sync an open file to the disk, where the file system can.

    Where it can't, a power cut may lose what was written last; a killed process loses nothing.
    """
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_FSYNC:
            raise
