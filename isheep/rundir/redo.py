"""Set files of a run aside from a stage on, so that the run makes them again (`isheep redo`).

Files are renamed one by one, those that are made last first. So at any moment the folder is that of a run which was
stopped: no file in it is made from one that is set aside.
"""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from isheep.errors import UserError, shell_word, unknown_name
from isheep.rundir import kept_replies
from isheep.rundir.artifacts import (
    ARTIFACTS,
    JUDGE_CALIBRATION,
    SEEDS_FILE,
    SEEDS_STAGE,
    STAGES,
    artifact_of,
    dependent_stages,
    existing_iterations,
    iteration_name,
    split_file,
    stage_of,
)
from isheep.rundir.atomic import fsync_path
from isheep.rundir.folder import RunFolder
from isheep.rundir.integrity import describe_change
from isheep.rundir.manifest import Files, accept_files, find_stale_files, forget_files, read_manifest, restore_manifest
from isheep.rundir.reuse import REUSE_FILE

REPLACED_DIR = "replaced"

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
    stages = [SEEDS_STAGE, *(stage for stage in STAGES if stage != JUDGE_CALIBRATION)]
    stage = STAGE_NAMES.get(name, name)
    if stage not in stages:
        raise UserError(unknown_name("stage", name, [*stages, *STAGE_NAMES]))
    return stage


def choose_iteration(run: RunFolder, stage: str, iteration: int | None) -> int:
    """Return the iteration from which a stage is made again: `iteration`, or the only one that has files of the stage.

    An iteration whose files of the stage are gone may be named, too, if files that were made from them are there; 0
    stands for the seed tasks. Raises UserError if there are none, or if `iteration` is None and several have some.
    """
    if stage == SEEDS_STAGE:
        if iteration is not None:
            raise UserError("the seed tasks belong to all iterations: leave out --iteration")
        return 0
    existing = [number for number in existing_iterations(run.path) if any(_files(run, number, {stage}))]
    if iteration and iteration not in existing and _has_dependents(run, stage, iteration):
        return iteration
    makes_rest = f"isheep run {shell_word(run.path)} makes what is missing"
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


def _has_dependents(run: RunFolder, stage: str, iteration: int) -> bool:
    """Return whether files that depend on a stage of an iteration exist."""
    stages = dependent_stages(stage)
    later = [number for number in existing_iterations(run.path) if number > iteration]
    return any(_files(run, iteration, stages)) or bool(later) and "training" in stages


class SetAside(NamedTuple):
    """What was set aside: the folder replaced/N, the files and folders in the order of their moves, and a text.

    `edited` are the files, as paths in the run folder, that have changed since the run made them, and from which the
    run now goes on. `records` is the manifest as it was before.
    """

    folder: Path
    moved: list[Path]
    description: str
    edited: list[str]
    records: Files


def set_aside(run: RunFolder, stage: str, iteration: int) -> SetAside:
    """Move the files of a stage in an iteration, and all that depend on them, into a new folder in replaced/.

    Of the later iterations the whole folders are moved if their models change, else the files of the same stages. The
    folder replaced/N has the same paths as the run folder. Files that the stage reads and that have changed are
    recorded as they are: `redo` is the way to go on from an edited file. Whatever else was made from an earlier content
    of a file, in these iterations, is moved, too.
    """
    records = read_manifest(run.path)
    stages, edited = _stages_made_again(run, stage, iteration)
    # Before anything is moved: a kill leaves a run that says what does not fit together.
    if edited:
        accept_files(run.path, edited)
    stages_of = _stages_by_iteration(run, iteration, stages)
    target = _new_folder(run.path / REPLACED_DIR)
    moved: list[Path] = []
    texts: list[str] = []
    # Without it, a run that takes files over from another one would take the same ones again.
    if run.has(REUSE_FILE):
        moved.append(run.path / REUSE_FILE)
        _move(moved[-1], run.path, target)
    for number in reversed(stages_of):
        if stages_of[number] is None:
            paths, text = [run.path / iteration_name(number)], f"all of iteration {number}"
        elif stage == SEEDS_STAGE:
            paths, text = [run.path / SEEDS_FILE] if run.has(SEEDS_FILE) else [], "the seed tasks"
        else:
            # What was made last is moved first.
            paths = list(_files(run, number, stages_of[number] or set()))[::-1]
            text = _describe_files(number, paths)
        for path in paths:
            moved.append(path)
            _move(path, run.path, target)
            forget_files(run.path, [str(path.relative_to(run.path))])
        texts += [text] if text else []
    return SetAside(target, moved, f"set aside in {target}: {'; '.join(reversed(texts))}", edited, records)


def _stages_made_again(run: RunFolder, stage: str, iteration: int) -> tuple[set[str], list[str]]:
    """Return the stages of an iteration that are made again from a stage on, and the edited files that they read.

    All that reads an edited file is made again, too.
    """
    if stage == SEEDS_STAGE:
        return dependent_stages(STAGES[0]), []
    stages, files, edited = dependent_stages(stage), read_manifest(run.path), dict[str, None]()
    for artifact in ARTIFACTS:
        # An adapter is a folder that nobody edits: a damaged one is made again by its own stage.
        for source in artifact.sources if artifact.stage in stages else ():
            file = f"{iteration_name(iteration)}/{source}"
            is_made_again = stage_of(source) in stages
            if source != "adapter" and not is_made_again and describe_change(run.path, files, file):
                edited[file] = None
                for reader in ARTIFACTS:
                    stages |= dependent_stages(reader.stage) if source in reader.sources else set()
    return stages, list(edited)


def _stages_by_iteration(run: RunFolder, iteration: int, stages: set[str]) -> dict[int, set[str] | None]:
    """Return the stages that are made again in an iteration and in the later ones; None for all that is in one."""
    stages_of: dict[int, set[str] | None] = {}
    stale_files = [split_file(stale.file) for stale in find_stale_files(run.path, read_manifest(run.path))]
    for number in [iteration, *(number for number in existing_iterations(run.path) if number > iteration)]:
        if number > iteration and "training" in stages:
            stages_of[number] = None
        else:
            stale_stages = {stage_of(name) for stale_iteration, name in stale_files if stale_iteration == number}
            stages = stages.union(*map(dependent_stages, stale_stages))
            stages_of[number] = stages
    return stages_of


def put_back(run: RunFolder, aside: SetAside) -> None:
    """Move everything back to where it was, in the opposite order, and remove the folder replaced/N."""
    for path in reversed(aside.moved):
        (aside.folder / path.relative_to(run.path)).rename(path)
        fsync_path(path.parent)
    shutil.rmtree(aside.folder)
    with contextlib.suppress(OSError):
        aside.folder.parent.rmdir()
    restore_manifest(run.path, aside.records)


def describe_redo(run: RunFolder, aside: SetAside) -> Iterator[str]:
    """Yield notes on what was set aside, and on the edited files that the run goes on from."""
    for file in aside.edited:
        yield f"{run.path / file} has changed since the run made it: the run goes on from it as it is now"
    yield aside.description


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
