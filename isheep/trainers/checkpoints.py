"""Checkpoints of a training: folders checkpoint-N, each whole only where its seal is."""

import shutil
from pathlib import Path

from isheep.rundir.atomic import fsync_path

SEAL = "complete"  # written last: a checkpoint without it is torn


def list_checkpoints(into: Path) -> list[Path]:
    return list(into.glob("checkpoint-*"))


def newest_step(into: Path) -> int:
    """The step of the newest sealed checkpoint, 0 where there is none."""
    sealed = [checkpoint for checkpoint in list_checkpoints(into) if (checkpoint / SEAL).exists()]
    return max((int(checkpoint.name.split("-")[1]) for checkpoint in sealed), default=0)


def remove_torn_checkpoints(into: Path) -> None:
    """Remove torn checkpoints: before a training, while nobody writes one."""
    for checkpoint in list_checkpoints(into):
        if not (checkpoint / SEAL).exists():
            shutil.rmtree(checkpoint)


def seal(checkpoint: Path) -> None:
    """Bring all files of a checkpoint to the disk, and only then say that it is whole."""
    for path in (*checkpoint.rglob("*"), checkpoint):
        fsync_path(path)
    (checkpoint / SEAL).touch()
    fsync_path(checkpoint)


def discard(checkpoint: Path) -> None:
    """Remove a checkpoint, its seal first: what a kill leaves of it is torn and known to be."""
    (checkpoint / SEAL).unlink(missing_ok=True)
    fsync_path(checkpoint)
    shutil.rmtree(checkpoint)
