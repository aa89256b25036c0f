"""A run on a copy of lamb in a folder, which stands for a base model on this machine, for cards and uploads."""

import shutil
from pathlib import Path

import pytest

from isheep.benchmarks import lamb
from isheep.lamb import CHECKPOINT
from isheep.lamb.suite import suite
from tests.helpers.command import isheep
from tests.helpers.tracked_run import SETTINGS

BASE_NAME = "my-base"


def make_published_run(folder: Path) -> Path:
    """Run one iteration with scores on 30 tasks; return the run folder."""
    shutil.copytree(CHECKPOINT, folder / BASE_NAME)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lamb, "suite", lambda: suite()[:30])
        words = (*SETTINGS, "evaluation=[lamb]", f"model={folder / BASE_NAME}", "training.held_out=0.25")
        done = isheep("run", "lamb", *words, "--out", folder / "run")
    assert done.code == 0, done.err
    return folder / "run"
