"""manifest.json in a run folder: the size and the SHA-256 of every finished file, and of what it was made from.

A file is recorded before it gets its name, so that a finished file that is not in the manifest was not made by the run.
The content of the manifest follows from the files alone: a run that was killed and continued ends with the same one.
"""

import hashlib
import json
import threading
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from isheep.errors import UserError, shell_word
from isheep.rundir.artifacts import (
    JUDGE_CALIBRATION,
    SEEDS_FILE,
    artifact_of,
    iteration_name,
    production_order,
    redo_command,
    split_file,
)
from isheep.rundir.atomic import commit_file, write_text
from isheep.rundir.digests import file_sha256, sample_sha256
from isheep.rundir.entries import RECORDED_FOLDERS, ROOT_FILES, walk
from isheep.rundir.lock import check_lock

MANIFEST_FILE = "manifest.json"
FORMAT = 1

SAMPLED_FROM = 2**30
"""Files of more bytes are checked by sampled blocks, unless all bytes are to be checked."""

_writing = threading.Lock()


class FileRecord(BaseModel):
    """What the manifest says about a file: size in bytes, SHA-256, that of sampled blocks for a large file.

    `sources` are the digests that the files had that this one was made from, by their paths in the run folder; an
    adapter, which is a folder, counts as one (`digest_of`). `accepted` says that the user changed the file, and had it
    recorded as it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: Annotated[int, Field(ge=0)]
    sha256: str
    sample: str | None = None
    sources: dict[str, str] = {}
    accepted: Literal[True] | None = None


Files = Mapping[str, FileRecord]
"""The records by the path of the file in the run folder, such as iter-1/pairs.jsonl."""


class StaleFile(NamedTuple):
    """A file that was made from an earlier content of another one."""

    file: str
    source: str


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: int
    digest: str
    files: dict[str, FileRecord]


# --- reading


def has_manifest(root: Path) -> bool:
    """Return whether a run folder has a manifest: runs of earlier versions have none until they are continued."""
    return (root / MANIFEST_FILE).is_file()


def read_manifest(root: Path) -> Files:
    """Return the records of a run folder; none if it has no manifest. Raises UserError if the manifest is damaged."""
    path = root / MANIFEST_FILE
    try:
        status = path.stat()
    except FileNotFoundError:
        return {}
    return _read_manifest(path, status.st_mtime_ns, status.st_size, status.st_ino)


@lru_cache(maxsize=64)
def _read_manifest(path: Path, modified: int, size: int, inode: int) -> Files:
    try:
        manifest = _Manifest.model_validate_json(path.read_bytes())
    except (ValidationError, OSError):
        manifest = None
    if manifest is None or manifest.format != FORMAT or manifest.digest != _digest_of_records(manifest.files):
        raise UserError(
            f"{path} is damaged: put it back as it was; or, if you trust the files of the run, delete it: the next "
            f"isheep run {shell_word(path.parent)} records them as they are"
        )
    return manifest.files


def digest_of(files: Files, name: str) -> str | None:
    """Return the recorded digest of a file, or of all recorded files in a folder together; None if there is none."""
    if name in files:
        return files[name].sha256
    lines = [f"{file} {record.sha256}\n" for file, record in sorted(files.items()) if file.startswith(f"{name}/")]
    return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else None


def find_stale_files(root: Path, files: Files) -> list[StaleFile]:
    """Return the existing files one of whose sources has another digest now than when they were made."""
    digests: dict[str, str | None] = {}
    stale = []
    for file, record in sorted(files.items(), key=lambda entry: production_order(entry[0])):
        for source, digest in record.sources.items():
            if source not in digests:
                digests[source] = digest_of(files, source)
            if digests[source] not in (None, digest) and (root / file).exists():
                stale.append(StaleFile(file, source))
    return stale


def is_stale(root: Path, file: str) -> bool:
    """Return whether a file, or one in a folder, was made from another content of its sources than they have now."""
    return any(f"{stale.file}/".startswith(f"{file}/") for stale in find_stale_files(root, read_manifest(root)))


def files_made_from(root: Path, files: Files, file: str) -> list[str]:
    """Return the existing files that were made directly from a file, or from the folder that it is in."""
    sources = {file, *(str(folder) for folder in Path(file).parents)}
    return [name for name, record in files.items() if sources & record.sources.keys() and (root / name).exists()]


# --- writing


def begin_manifest(root: Path) -> list[str]:
    """Write the manifest of a run folder that has none: its finished files as they are now. Return their names."""
    if has_manifest(root):
        return []
    # A file is recorded after those that it is made from.
    names = sorted(finished_files(root), key=production_order)
    files: dict[str, FileRecord] = {}
    for name in names:
        files[name] = _make_record(files, name, root / name)
    _write(root, files)
    return names


def record_files(root: Path, parts: Mapping[str, Path]) -> None:
    """Record files of a run by their names; the values are the paths of their content, which may be NAME.part.

    Raises UserError, and records nothing, if another file was made from an earlier content of one of them: a file that
    was deleted and made again did not come out the same.
    """
    parts = {name: path for name, path in parts.items() if is_recorded(name)}
    if not parts:
        return
    if not has_manifest(root):
        raise UserError(f"{root / MANIFEST_FILE} is gone while the run is under way: run the same command again")
    with _writing:
        before = read_manifest(root)
        files = dict(before)
        for name, path in parts.items():
            files[name] = _make_record(files, name, path)
        if stale := find_stale_files(root, files):
            file, source = stale[0]
            raise UserError(
                f"{root / source} was made again and is another file than the one that {root / file} was made from: "
                f"put the old one back, or make what follows again: {redo_command(root, file)}"
            )
        if files != before:
            _write(root, files)


def accept_files(root: Path, names: Iterable[str]) -> None:
    """Record existing files as they are now, whatever was made from them, and forget those that do not exist.

    A file that has not changed keeps its record, which says what it was made from. The others are marked as accepted.
    """
    with _writing:
        files = dict(read_manifest(root))
        for name in names:
            if (root / name).is_file():
                record = _make_record(files, name, root / name)
                if name not in files or files[name].sha256 != record.sha256:
                    files[name] = record.model_copy(update={"accepted": True})
            else:
                files.pop(name, None)
        _write(root, files)


def accepted_files(root: Path) -> list[str]:
    """Return the files of a run that the user changed and had recorded as they are."""
    return [name for name, record in read_manifest(root).items() if record.accepted]


def is_accepted(root: Path, file: str) -> bool:
    """Return whether a file, or one of its folder or of what belongs to it, was accepted after a change of the user's.

    The folder eval/NAME belongs to the file eval/NAME.json.
    """
    folder = f"{Path(file).with_suffix('')}/"
    return any(name == file or name.startswith((f"{file}/", folder)) for name in accepted_files(root))


def forget_files(root: Path, names: Iterable[str]) -> None:
    """Remove the records of files, or of all files in folders, that are no longer in the run folder."""
    folders = tuple(f"{name}/" for name in names)
    if has_manifest(root):
        accept_files(root, [file for file in read_manifest(root) if f"{file}/".startswith(folders)])


def awaits_commit(root: Path, name: str, record: FileRecord) -> bool:
    """Return whether a kill has stopped the replacement of a file after it was recorded: NAME.part is its new content.

    No other files than those that are written in place of existing ones can be left so. Any other NAME.part beside a
    finished file is not the run's.
    """
    part = root / f"{name}.part"
    return (
        _is_replaced_in_place(name)
        and part.is_file()
        and part.stat().st_size == record.size
        and file_sha256(part) == record.sha256
    )


def files_awaiting_commit(root: Path) -> list[str]:
    """Return the files whose replacement a kill has stopped, or which another process is replacing at the moment."""
    return [name for name, record in read_manifest(root).items() if awaits_commit(root, name, record)]


def complete_commits(root: Path) -> None:
    """Give files their recorded content whose replacement a kill has stopped."""
    check_lock(root)
    for name in files_awaiting_commit(root):
        commit_file(root / f"{name}.part", root / name)


def _is_replaced_in_place(name: str) -> bool:
    artifact = artifact_of(split_file(name)[1])
    return name in ROOT_FILES or artifact is not None and artifact.stage == JUDGE_CALIBRATION


def restore_manifest(root: Path, files: Files) -> None:
    """Write earlier records again."""
    if has_manifest(root):
        _write(root, files)


def finished_files(root: Path) -> list[str]:
    """Return the finished files of a run folder that belong into a manifest, as paths in it."""
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and _is_recorded_folder(path.name)]
    paths = [*(root / name for name in ROOT_FILES), *(path for folder in folders for path in walk(folder))]
    return [name for path in paths if path.is_file() and is_recorded(name := str(path.relative_to(root)))]


def is_recorded(name: str) -> bool:
    """Return whether a file of a run folder belongs into the manifest: it is finished, and the run itself made it."""
    path = Path(name)
    if any(part.endswith(".part") for part in path.parts):
        return False
    if len(path.parts) == 1:
        return name in ROOT_FILES
    _, rest = split_file(name)
    first = path.parts[0]
    return _is_recorded_folder(first) and (first in RECORDED_FOLDERS or artifact_of(rest) is not None)


def _is_recorded_folder(name: str) -> bool:
    return name in RECORDED_FOLDERS or split_file(f"{name}/")[0] is not None


def _make_record(files: Files, name: str, path: Path) -> FileRecord:
    size = path.stat().st_size
    sample = sample_sha256(path) if size > SAMPLED_FROM else None
    sources = {source: digest for source in _sources(name) if (digest := digest_of(files, source))}
    return FileRecord(size=size, sha256=file_sha256(path), sample=sample, sources=sources)


def _sources(name: str) -> list[str]:
    """Return the files and folders that a file of an iteration is made from, as paths in the run folder."""
    iteration, rest = split_file(name)
    artifact = artifact_of(rest)
    if iteration is None or artifact is None:
        return []
    sources = [f"{iteration_name(iteration)}/{source}" for source in artifact.sources]
    if artifact.model == "current":
        # The answers in eval/NAME/ belong to the scores in eval/NAME.json.
        return sources
    return [SEEDS_FILE, *([f"{iteration_name(iteration - 1)}/adapter"] if iteration > 1 else []), *sources]


def _write(root: Path, files: Files) -> None:
    check_lock(root)
    records = {name: files[name].model_dump(exclude_none=True) for name in sorted(files)}
    content = {"format": FORMAT, "digest": _digest_of_records(files), "files": records}
    write_text(root / MANIFEST_FILE, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def _digest_of_records(files: Files) -> str:
    records = {name: record.model_dump(exclude_none=True) for name, record in files.items()}
    return hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()
