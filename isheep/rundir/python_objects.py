"""The names of the Python objects that a run was begun with (python.json), such as an engine that is a function.

A recipe does not hold such objects. A run is continued only with objects of the same names, so that no part of it is
made without a filter that another part was made with.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from isheep.errors import UserError
from isheep.rundir.folder import RunFolder

FILE = "python.json"

Names = Mapping[str, Sequence[str]]
"""The names of the objects by their role: {"engine": ["my_engine"], "filters": ["too_short"]}."""


def check_python_objects(run_dir: Path, names: Names) -> None:
    """Raise UserError if a run in `run_dir` was begun with other objects than those of these names."""
    if not (run_dir / "recipe.yaml").exists():
        return
    saved = read_python_objects(run_dir)
    if {role: list(saved[role]) for role in saved} != {role: list(names[role]) for role in names}:
        raise UserError(
            f"run folder {run_dir} was begun with {_describe(saved)}, not with {_describe(names)}: "
            "pass the same objects to isheep.align, or give another run folder"
        )


def read_python_objects(run_dir: Path) -> Names:
    """Return the names of the objects that a run was begun with. Raises UserError if the file is damaged."""
    path = run_dir / FILE
    try:
        names = json.loads(path.read_bytes()) if path.exists() else {}
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, dict) or not all(isinstance(values, list) for values in names.values()):
        raise UserError(f"{path} is damaged: it must hold the names of Python objects by their roles; put it back")
    return {role: [str(value) for value in values] for role, values in names.items()}


def save_python_objects(run: RunFolder, names: Names) -> None:
    """Write the names of a run's objects; nothing if there are none."""
    if names:
        run.write_json(FILE, {role: list(values) for role, values in names.items()})


def _describe(names: Names) -> str:
    return ", ".join(f"{role} {' '.join(values)}" for role, values in names.items()) or "no objects from Python"
