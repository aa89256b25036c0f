"""Another run from which a run takes over the files that come out the same (`isheep run --reuse` and `--fork`).

The run folder keeps the path of the other run in reuse.json, so that a killed run goes on taking files over, however it
is continued.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from isheep.errors import UserError
from isheep.recipe.loading import differences
from isheep.recipe.schema import Recipe
from isheep.rundir.artifacts import COMMON_KEYS, artifact_of, split_file
from isheep.rundir.atomic import write_json
from isheep.rundir.events import read_events
from isheep.rundir.folder import RunFolder
from isheep.rundir.manifest import accepted_files
from isheep.rundir.python_objects import Names, read_python_objects
from isheep.rundir.run import open_run

REUSE_FILE = "reuse.json"

# The number of keys that a line about two recipes names.
MAX_DIFFERENCES = 6
# The number of files that a line names.
MAX_FILES = 4


class ReusedRun(NamedTuple):
    """A run whose files another run takes over: its folder, and its recipe."""

    path: Path
    recipe: Recipe


def check_reused_run(path: Path, out: Path, names: Names) -> None:
    """Raise UserError if the run in `out` can't take files over from the run in `path`. Writes nothing.

    It can't if `path` is not a run folder of this format, if it is `out`, or if a Python engine made only one of the
    two. `names` are the Python objects of the run in `out`. The run in `path` may be under way: its complete files do
    not change.
    """
    if path.exists() and out.exists() and path.samefile(out):
        raise UserError(f"run folder {path} can't take over its own files; give the new run another folder")
    open_run(path)
    engine, own_engine = read_python_objects(path).get("engine"), names.get("engine")
    if (engine or []) != (own_engine or []):
        texts = [f"the engine {' '.join(value)}" if value else "the recipe's engine" for value in (engine, own_engine)]
        raise UserError(
            f"{path} was made with {texts[0]}, and this run has {texts[1]}: its files would not come out the same; "
            "pass the same engine to isheep.align, or begin without reuse"
        )


def begin_reuse(run: RunFolder, recipe: Recipe, path: Path | None) -> ReusedRun | None:
    """Return the run in `path`, or the one that this run began with, and say what differs; None if there is none."""
    remembered = run.path / REUSE_FILE
    if path is not None:
        relative_path = os.path.relpath(path.resolve(), run.path.resolve())
        write_json(remembered, {"run": relative_path})
    elif remembered.exists():
        path = Path(os.path.normpath(run.path / _read_reuse_file(remembered)))
    else:
        return None
    try:
        saved, _ = open_run(path)
    except UserError as error:
        run.notify(f"nothing more is taken over: {error}")
        return None
    run.notify(f"what comes out the same is taken over from {path}{_describe_differences(saved, recipe)}")
    if accepted := [file for file in accepted_files(path) if artifact_of(split_file(file)[1])]:
        more = f" and {len(accepted) - MAX_FILES} more" if len(accepted) > MAX_FILES else ""
        run.notify(
            f"{', '.join(accepted[:MAX_FILES])}{more} in {path} were changed by hand and accepted: they are not taken "
            "over, nor is what was made from them"
        )
    # How a run computes does not decide what is taken over, as it does not when a run is resumed.
    return ReusedRun(path, saved.model_copy(update={"machine": recipe.machine}))


def _read_reuse_file(path: Path) -> str:
    """Return the path of the other run, from the run folder on. Raises UserError if the file is damaged."""
    try:
        other_run = json.loads(path.read_bytes())["run"]
    except (ValueError, KeyError, TypeError):
        other_run = None
    if not isinstance(other_run, str):
        raise UserError(
            f'{path} is damaged: it must hold {{"run": PATH}}, the path of the other run from this folder on; delete '
            "it to make all remaining files new"
        )
    return other_run


def _describe_differences(saved: Recipe, recipe: Recipe) -> str:
    """Return the keys in which a recipe differs from that of the other run, in parentheses."""
    lines = differences(saved, recipe)
    if not lines:
        return " (the same recipe)"
    more = f"; and {len(lines) - MAX_DIFFERENCES} more keys" if len(lines) > MAX_DIFFERENCES else ""
    common = [key for key in COMMON_KEYS if key != "machine" and getattr(saved, key) != getattr(recipe, key)]
    nothing = f"; all files depend on {' and '.join(common)}, so they are made new" if common else ""
    return f" ({'; '.join(lines[:MAX_DIFFERENCES])}{more}{nothing})"


# --- what was taken over


def report_files(run: RunFolder, iteration: int, reused: ReusedRun) -> None:
    """Say which groups of files of an iteration were taken over from another run, and which were made new."""
    groups = _file_groups(read_events(run.root), iteration)
    if not groups:
        return
    taken, new = (", ".join(group for group in groups if groups[group] is is_taken) for is_taken in (True, False))
    label = f"iteration {iteration}" if iteration else "base model"
    run.notify(f"{label}: taken over from {reused.path}: {taken or 'nothing'}; made new: {new or 'nothing'}")


def _file_groups(events: Sequence[Mapping[str, Any]], iteration: int) -> dict[str, bool]:
    """Return whether each group of files of an iteration was taken over, in the order in which they came.

    A group is a stage, or the scores on a benchmark. It counts as made new if a model made one of its files.
    """
    groups: dict[str, bool] = {}
    for file, event in {event["file"]: event for event in events if "file" in event}.items():
        folder_iteration, name = split_file(file)
        artifact = artifact_of(name)
        if folder_iteration != iteration or artifact is None:
            continue
        group = artifact.stage
        if artifact.name in ("eval", "validation"):
            # The files of eval/NAME/ belong to the scores in eval/NAME.json.
            if not name.endswith(".json"):
                continue
            benchmark = name.removeprefix(f"{artifact.name}/").removesuffix(".json")
            group = f"scores on {benchmark}" + " (validation part)" * (artifact.name == "validation")
        if "shared_from" in event:
            groups.setdefault(group, True)
        elif artifact.shared:
            groups[group] = False
        else:
            groups.setdefault(group, False)
    return groups
