"""Checkpoints of a training: folders checkpoint-N (N: optimizer steps), each complete only if it holds a seal."""

import shutil
from pathlib import Path

from isheep.rundir.atomic import fsync_path

SEAL = "complete"
"""The name of the file that is written last: a checkpoint without it is torn."""


def checkpoint_dir(output_dir: Path, step: int) -> Path:
    return output_dir / f"checkpoint-{step}"


def list_checkpoints(output_dir: Path) -> list[Path]:
    return list(output_dir.glob("checkpoint-*"))


def newest_step(output_dir: Path) -> int:
    """Return the step of the newest sealed checkpoint, 0 if there is none."""
    sealed = [checkpoint for checkpoint in list_checkpoints(output_dir) if (checkpoint / SEAL).exists()]
    return max((int(checkpoint.name.split("-")[1]) for checkpoint in sealed), default=0)


def remove_torn_checkpoints(output_dir: Path) -> None:
    """Remove checkpoints without a seal. Call it only before a training, while no process writes one."""
    for checkpoint in list_checkpoints(output_dir):
        if not (checkpoint / SEAL).exists():
            shutil.rmtree(checkpoint)


def seal(checkpoint: Path) -> None:
    """Sync all files of a checkpoint to the disk, and only then mark it as complete."""
    for path in (*checkpoint.rglob("*"), checkpoint):
        fsync_path(path)
    (checkpoint / SEAL).touch()
    fsync_path(checkpoint)


def discard(checkpoint: Path) -> None:
    """Remove a checkpoint, its seal first: if the process is killed meanwhile, the rest is recognized as torn."""
    (checkpoint / SEAL).unlink(missing_ok=True)
    fsync_path(checkpoint)
    shutil.rmtree(checkpoint)
