"""Files that are there complete or not at all: write, fsync, rename, fsync the folder. And reading what users bring."""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from isheep.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Write a whole file so that it is there complete or not at all."""
    write_pieces(path, (text,))


def write_pieces(path: Path, pieces: Iterable[str]) -> None:
    """`write_text` of pieces that need not be in memory together."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(pieces)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:  # a piece that can't be made leaves nothing behind
        part.unlink(missing_ok=True)
        raise
    commit_file(part)


def write_json(path: Path, value: Any) -> None:
    """`write_text` of a value as JSON."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def write_json_list(path: Path, values: Iterable[Any]) -> None:
    """`write_json` of a list, value by value: the same bytes."""

    def pieces() -> Iterator[str]:
        opening = "["
        for value in values:
            lines = json.dumps(value, ensure_ascii=False, indent=1).replace("\n", "\n ")  # strings hold no line ends
            yield f"{opening}\n {lines}"
            opening = ","
        yield "[]\n" if opening == "[" else "\n]\n"

    write_pieces(path, pieces())


def copy_atomically(source: Path, to: Path) -> None:
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
    commit_folder(part, to)


def commit_file(part: Path, to: Path | None = None) -> None:
    """NAME.part becomes NAME, or `to`, for good."""
    part.rename(to or part.with_suffix(""))
    fsync_path(part.parent)


def commit_folder(part: Path, to: Path | None = None) -> None:
    """`finish` for a folder: all that is in it is synced first."""
    for path in (*part.rglob("*"), part):
        fsync_path(path)
    commit_file(part, to)


def fsync_path(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """The values of a file of JSON lines, each with its place ("FILE line 3"); empty lines are passed over.

    Raises UserError where the file can't be read or a line is not JSON.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from None
    for number, line in enumerate(text.split("\n"), 1):  # JSON may hold other line separators
        if line.strip():
            try:
                yield f"{path} line {number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path} line {number}: not JSON: {error}") from None
