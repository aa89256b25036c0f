"""The entries of a run folder: regular files and folders. Links to these are followed, and anything else is refused.

A pipe or a device in place of a file could be read without end, and a folder or a dangling link would be taken for a
file that is missing.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from isheep.errors import UserError
from isheep.rundir.artifacts import ARTIFACTS, SEEDS_FILE, split_file

ROOT_FILES = ("recipe.yaml", "version.json", "prompts.yaml", "python.json", "judges.json", SEEDS_FILE)
"""The files beside the iterations that the manifest records. The others grow by lines, or are no part of results."""
OTHER_FILES = ("manifest.json", "run.jsonl", "judge.jsonl", "reuse.json", "lock", "progress.json", "report.html",
               "judge_calibration.prompts.yaml")  # fmt: skip
RECORDED_FOLDERS = ("control",)
"""The folders beside those of iterations whose files the manifest records."""
# What is in the last three is read by no run.
OTHER_FOLDERS = ("annotations", "export", "tracking", "replaced")

KINDS = (
    (stat.S_ISREG, "a file"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode), "a device"),
)


def check_entries(root: Path) -> None:
    """Raise UserError if what a run reads or writes in its folder is not a file or a folder, as it must be."""
    for name in sorted(os.listdir(root)) if root.is_dir() else []:
        expected = _kind_at_root(name)
        if expected is None:
            continue
        _check_kind(root / name, expected)
        if expected == "a folder" and name not in OTHER_FOLDERS[1:]:
            for path in walk(root / name):
                _check_kind(path, _kind_in_iteration(str(path.relative_to(root))))


def walk(folder: Path) -> Iterator[Path]:
    """Yield everything below a folder. Links to folders are followed, unless they lead to a folder above."""
    yield from _walk(folder, (os.path.realpath(folder),))


def _walk(folder: Path, above: tuple[str, ...]) -> Iterator[Path]:
    try:
        paths = sorted(folder.iterdir())
    # A run that is under way has renamed it.
    except FileNotFoundError:
        return
    for path in paths:
        yield path
        if path.is_dir() and (target := os.path.realpath(path)) not in above:
            yield from _walk(path, (*above, target))


def _kind_at_root(name: str) -> str | None:
    """Return what an entry of a run folder must be; None for one that no run reads or writes."""
    if name in (*RECORDED_FOLDERS, *OTHER_FOLDERS) or split_file(f"{name}/")[0] is not None:
        return "a folder"
    return "a file" if name.removesuffix(".part") in (*ROOT_FILES, *OTHER_FILES) else None


def _kind_in_iteration(file: str) -> str:
    """Return what an entry of an iteration's folder must be: "a file or a folder" if its name does not say."""
    iteration, name = split_file(file)
    names = {artifact.name for artifact in ARTIFACTS}
    if iteration is None or name.removesuffix(".part") not in names:
        return "a file or a folder"
    return "a file" if "." in name.removesuffix(".part") else "a folder"


def _check_kind(path: Path, expected: str) -> None:
    """Raise UserError if a path is not of the kind "a file", "a folder" or "a file or a folder"."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        # It may have been renamed meanwhile.
        if not os.path.lexists(path):
            return
        kind = "a symbolic link to nothing"
    except OSError as error:
        kind = f"something that can't be read ({error.strerror})"
    else:
        kind = next((kind for is_kind, kind in KINDS if is_kind(mode)), "something else")
    if kind not in expected.split(" or "):
        # Without a manifest, all files are recorded as they are.
        trust = ", if you trust the files of the run," if path.name == "manifest.json" else ""
        raise UserError(f"{path} is {kind}, and must be {expected}: put the run's own back, or{trust} move it away")
