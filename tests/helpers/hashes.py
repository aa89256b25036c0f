"""The hashes of the files of a folder, to compare two runs, or a run before and after a command."""

import hashlib
from collections.abc import Container
from pathlib import Path

NOT_COMPARED = ("run.jsonl", "lock", "manifest.json")


def hash_files(folder: Path, ignored: Container[str] = ()) -> dict[str, str]:
    """Return the hash of every file by its path in the folder, except for events, lock and manifest, which may differ.

    Files whose name is in `ignored` are left out too, such as recipe.yaml if two runs have other machine settings.
    """
    hashes = {}
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in NOT_COMPARED and path.name not in ignored:
            hashes[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return hashes
