"""Set files of a run aside from a stage on, so that the run makes them again (`isheep redo`).

Files are renamed one by one, those that are made last first. So at any moment the folder is that of a run which was
stopped: no file in it is made from one that is set aside.
"""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from isheep.errors import UserError, unknown_name
from isheep.rundir import kept_replies
from isheep.rundir.artifacts import ARTIFACTS, STAGES, artifact_of, stage_of
from isheep.rundir.atomic import fsync_path
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import iteration_name
from isheep.rundir.reuse import REUSE_FILE

REPLACED_DIR = "replaced"

JUDGE_CALIBRATION = "judge calibration"
"""The stage that no run makes: `isheep judge-calibration` makes its files."""

# Other names of the stages: those of the functions and of the recipe's sections.
STAGE_NAMES = {
    "synthesize": "instructions",
    "synthesis": "instructions",
    "respond": "answers",
    "response": "answers",
    "measure": "measures for filters",
    "measures": "measures for filters",
    "assess": "ratings",
    "assessment": "ratings",
    "filter": "filtering",
    "filters": "filtering",
    "train": "training",
    "evaluate": "evaluation",
    "eval": "evaluation",
}


def find_stage(name: str) -> str:
    """Return the stage of a name that the user writes. Raises UserError if there is none."""
    stages = [stage for stage in STAGES if stage != JUDGE_CALIBRATION]
    stage = STAGE_NAMES.get(name, name)
    if stage not in stages:
        raise UserError(unknown_name("stage", name, [*stages, *STAGE_NAMES]))
    return stage


def dependent_stages(stage: str) -> set[str]:
    """Return a stage and those that read its files, directly or not."""
    stages = {stage}
    # The table lists every file after its sources.
    for artifact in ARTIFACTS:
        if any(stage_of(source) in stages for source in artifact.sources):
            stages.add(artifact.stage)
    return stages


def choose_iteration(run: RunFolder, stage: str, iteration: int | None) -> int:
    """Return the iteration from which a stage is made again: `iteration`, or the only one that has files of the stage.

    Raises UserError if it has none, or if `iteration` is None and several have.
    """
    existing = [number for number in _iterations(run) if any(_files(run, number, {stage}))]
    makes_rest = f"isheep run {run.path} makes what is missing"
    if not existing:
        raise UserError(f"{run.path} has no files of the stage {stage!r} that could be made again; {makes_rest}")
    if iteration is None and len(existing) > 1:
        numbers = ", ".join(map(str, existing))
        base = " (0 is the base model)" if 0 in existing else ""
        raise UserError(
            f"{run.path} has files of the stage {stage!r} in the iterations {numbers}{base}: say with --iteration "
            "which of them is made again first; those after it follow"
        )
    if iteration is not None and iteration not in existing:
        numbers = ", ".join(map(str, existing))
        raise UserError(
            f"{run.path} has no files of the stage {stage!r} in iteration {iteration}: give one of {numbers}; "
            f"{makes_rest}"
        )
    return existing[0] if iteration is None else iteration


class SetAside(NamedTuple):
    """What was set aside: the folder replaced/N, the files and folders in the order of their moves, and a text."""

    folder: Path
    moved: list[Path]
    description: str


def set_aside(run: RunFolder, stage: str, iteration: int) -> SetAside:
    """Move the files of a stage in an iteration, and all that depend on them, into a new folder in replaced/.

    Of the later iterations the whole folders are moved if their models change, else the files of the same stages. The
    folder replaced/N has the same paths as the run folder.
    """
    stages = dependent_stages(stage)
    later = [number for number in _iterations(run) if number > iteration]
    target = _new_folder(run.path / REPLACED_DIR)
    moved: list[Path] = []
    texts: list[str] = []
    # Without it, a run that takes files over from another one would take the same ones again.
    if run.has(REUSE_FILE):
        moved.append(run.path / REUSE_FILE)
        _move(moved[-1], run.path, target)
    for number in [*reversed(later), iteration]:
        if number > iteration and "training" in stages:
            paths, text = [run.path / iteration_name(number)], f"all of iteration {number}"
        else:
            # What was made last is moved first.
            paths = list(_files(run, number, stages))[::-1]
            text = _describe_files(number, paths)
        for path in paths:
            moved.append(path)
            _move(path, run.path, target)
        texts += [text] if text else []
    return SetAside(target, moved, f"set aside in {target}: {'; '.join(reversed(texts))}")


def put_back(run: RunFolder, aside: SetAside) -> None:
    """Move everything back to where it was, in the opposite order, and remove the folder replaced/N."""
    for path in reversed(aside.moved):
        (aside.folder / path.relative_to(run.path)).rename(path)
        fsync_path(path.parent)
    shutil.rmtree(aside.folder)
    with contextlib.suppress(OSError):
        aside.folder.parent.rmdir()


def _describe_files(iteration: int, paths: Sequence[Path]) -> str:
    """Return a text about files of an iteration that are moved in this order; "" if there are none."""
    names = dict.fromkeys(stage_of(_whole_name(path)) for path in reversed(paths))
    label = f"iteration {iteration}" if iteration else "the base model"
    return f"{', '.join(names)} of {label}" if names else ""


def _files(run: RunFolder, iteration: int, stages: set[str]) -> Iterator[Path]:
    """Yield the files of stages in an iteration in the order of the table, complete or not."""
    folder = run.path / iteration_name(iteration)
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    for artifact in ARTIFACTS:
        if artifact.stage in stages:
            yield from (path for path in paths if artifact_of(_whole_name(path)) is artifact)


def _whole_name(path: Path) -> str:
    """Return the name that a file has when it is complete."""
    return path.name.removesuffix(kept_replies.SUFFIX).removesuffix(".part").removesuffix(".copy")


def _iterations(run: RunFolder) -> list[int]:
    """Return the iterations that have a folder, the base model's 0 included."""
    numbers = [path.name.removeprefix("iter-") for path in run.path.glob("iter-*") if path.is_dir()]
    base = [0] if run.has(iteration_name(0)) else []
    return base + sorted(int(number) for number in numbers if number.isdecimal())


def _new_folder(parent: Path) -> Path:
    """Make the folder with the next number in `parent`. An earlier one is never written to."""
    numbers = [int(path.name) for path in parent.glob("*") if path.name.isdecimal()]
    folder = parent / str(max(numbers, default=0) + 1)
    folder.mkdir(parents=True)
    fsync_path(parent)
    return folder


def _move(path: Path, run_dir: Path, target: Path) -> None:
    """Rename a file or folder of a run to the same path in `target`, and sync both folders."""
    new_path = target / path.relative_to(run_dir)
    new_path.parent.mkdir(exist_ok=True)
    path.rename(new_path)
    for folder in (new_path.parent, target, path.parent):
        fsync_path(folder)
