"""Copies of folders that may be written to, although the checkout of an ordinary user may only be read."""

import shutil
from pathlib import Path


def copy_writable(source: Path, target: Path) -> Path:
    """Copy a folder without Python's caches; everything in the copy may be written to. Return its path."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (target, *target.rglob("*")):
        path.chmod(path.stat().st_mode | 0o200)
    return target
