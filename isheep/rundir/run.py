"""A run folder as a whole: begin or continue a run, open it for reading, lock it, and check what is in it."""

import contextlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from isheep import prompts
from isheep.errors import UserError, in_command_line, option, quote_path, shell_word
from isheep.files.reading import MAX_BYTES, read_small_text
from isheep.files.yaml_files import dump_yaml, read_yaml
from isheep.recipe import loading
from isheep.recipe.schema import Recipe
from isheep.rundir.artifacts import SEEDS_FILE, redo_command, split_file
from isheep.rundir.atomic import write_json
from isheep.rundir.entries import check_entries
from isheep.rundir.events import damaged_events, remove_torn_event
from isheep.rundir.folder import RunFolder, refuse
from isheep.rundir.integrity import check_root_files, check_run_files
from isheep.rundir.jsonl import read_rows
from isheep.rundir.lock import LOCK_FILE, hold_lock
from isheep.rundir.manifest import (
    MANIFEST_FILE,
    begin_manifest,
    complete_commits,
    files_awaiting_commit,
    has_manifest,
)
from isheep.seeds import SeedTask, load_seed_file

# The packages whose versions are recorded when a run begins or continues.
PACKAGES = ("isheep", "torch", "transformers", "peft", "trl", "datasets", "numpy", "rapidfuzz")

# The format of the run folder, in version.json. Run folders of isheep 0.1 have no such file.
FORMAT = 2
VERSION_FILE = "version.json"

# The number of bytes of the name of a run that the name of its fork begins with.
MAX_FORK_NAME = 200

# The longest path of a run folder in bytes: Linux has paths of up to 4096, and the files of a run are below its folder.
MAX_PATH_BYTES = 4096 - 256

# The number of characters of a command that an error message proposes.
MAX_COMMAND_LENGTH = 300


# --- opening


@contextlib.contextmanager
def open_run_for_writing(path: Path, recipe: Recipe) -> Iterator[RunFolder]:
    """Begin the run of a recipe in the folder `path`, or continue it, and hold its lock.

    Raises UserError if another process writes the folder, if a finished file has changed, and as `check_run_dir` does.
    """
    complete_replacements(path)
    check_run_dir(path, recipe)
    _make_run_dir(path)
    with lock_run(path) as folder:
        # Another process may have begun a run since the first check.
        check_run_dir(path, recipe)
        remove_torn_event(path)
        # The version is written before the recipe: a folder with a recipe and without a version is one of isheep 0.1.
        if not (path / VERSION_FILE).exists():
            write_json(path / VERSION_FILE, {"format": FORMAT})
        _begin_manifest(folder)
        folder = replace(folder, is_recorded=True)
        check_finished_files(path, recipe)
        _write_recipe(folder, recipe)
        if own_prompts := _own_prompts(recipe):
            _write_if_changed(folder, "prompts.yaml", dump_yaml(own_prompts, allow_unicode=True))
        if not folder.has("seeds.jsonl"):
            seed_file = load_seed_file(recipe.seeds, language=recipe.language)
            folder.write_text("seeds.jsonl", "".join(task.model_dump_json() + "\n" for task in seed_file.tasks))
            for notice in seed_file.notices:
                folder.notify(notice)
        if text := damaged_events(path):
            folder.notify(text)
        folder.event(started=_versions(), machine=recipe.machine.model_dump())
        yield folder


def complete_replacements(path: Path) -> None:
    """Complete what a kill has stopped between the record of a file and its name, before anything is checked."""
    # A kill may have struck before recipe.yaml, the first recorded file, got its name.
    if any(os.path.isfile(path / name) for name in ("recipe.yaml", MANIFEST_FILE)):
        check_entries(path)
        if files_awaiting_commit(path):
            with lock_run(path):
                complete_commits(path)


def _make_run_dir(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"run folder {path} can't be made: {error.strerror} ({error.filename})") from None


def open_run(path: Path, on_problem: Callable[[str], None] = refuse) -> tuple[Recipe, RunFolder]:
    """Return the recipe and the folder of a run, to be read only: takes no lock and writes nothing.

    Every file that is read through the folder is compared with the manifest; `on_problem` as in RunFolder.
    Raises UserError if the folder is not a run folder, or one of another version of isheep, or if its recipe or its
    manifest is damaged.
    """
    check_is_run(path)
    run = RunFolder(path, path, on_problem=on_problem, is_read_only=True)
    return loading.load_saved_recipe(run.checked("recipe.yaml")), run


def check_is_run(path: Path) -> None:
    """Raise UserError if the folder is not a run folder, one of another version of isheep, or has odd entries."""
    # Unlike Path.is_file, it returns False for a path that is too long or may not be read.
    if not os.path.isfile(path / "recipe.yaml"):
        raise UserError(f"{path} is not a run folder: it has no recipe.yaml; give the folder of a run")
    check_entries(path)
    check_format(path)


def list_runs(path: Path) -> list[Path]:
    """Return the run folders of this version's format in a folder, such as those of a sweep, in the order of names."""
    return [file.parent for file in sorted(path.glob("*/recipe.yaml")) if has_current_format(file.parent)]


def find_runs(path: Path) -> list[Path]:
    """Return the run folders that a path stands for: itself, or those in it, or else those in its folders.

    Folders of runs in a folder are, for example, a sweep for each random seed. Folders of another version's format are
    left out unless the path itself is one. Raises UserError if there is none.
    """
    if os.path.isfile(path / "recipe.yaml"):
        return [path]
    if not os.path.isdir(path):
        raise UserError(f"{path}: no such folder; give the folder of a run, or of runs")
    run_dirs = list_runs(path) or [run_dir for folder in sorted(path.glob("*/")) for run_dir in list_runs(folder)]
    if not run_dirs:
        raise UserError(
            f"{path} is not a run folder: it has no recipe.yaml, and neither has a folder in it; give the folder of a "
            "run, or of runs"
        )
    return run_dirs


def saved_prompts(run_dir: Path) -> dict[str, str]:
    """Return the texts of the user's own prompt files that a run began with, by their names in the recipe."""
    path = run_dir / "prompts.yaml"
    texts = read_yaml(path, MAX_BYTES) if path.exists() else {}
    if not isinstance(texts, dict) or not all(isinstance(text, str) for item in texts.items() for text in item):
        raise UserError(f"{path} is damaged: it must hold the texts of prompt files by their names; put it back")
    return texts


# --- locking


@contextlib.contextmanager
def lock_run(path: Path) -> Iterator[RunFolder]:
    """Return a run folder that only this process writes. Raises UserError if another process writes it.

    An error inside the block becomes a UserError if the folder has been removed meanwhile.

    Within a process, the lock can be taken more than once: a caller may evaluate a model of a run while the generator
    of isheep.align, which made the model, still holds the lock.
    """
    with hold_lock(path):
        try:
            yield RunFolder(path, path, is_recorded=has_manifest(path))
        except Exception as error:
            if not os.path.lexists(path / LOCK_FILE) and not os.path.lexists(path / "recipe.yaml"):
                raise UserError(
                    f"run folder {path} was removed while a command was at work in it: what it held is lost; put it "
                    "back, or begin again with the same command"
                ) from error
            raise


# --- checks


def check_run_dir(path: Path, recipe: Recipe) -> None:
    """Raise UserError if a run of this recipe can't begin, or continue, in the folder `path`. Writes nothing.

    It can't if the folder holds the run of another recipe (the message names the keys that differ; `machine` may
    differ and `iterations` may grow), other prompts, a run of another version of isheep, or anything else; or if the
    seed tasks can't be read or are too few.
    """
    _check_is_run_dir(path)
    if not (path / "seeds.jsonl").exists():
        num_examples = max(variant.synthesis.examples for variant in recipe.variants)
        of_each = max(variant.response.num_instance_examples for variant in recipe.variants)
        load_seed_file(recipe.seeds, num_examples, of_each, recipe.language)
    if (path / "recipe.yaml").exists():
        check_format(path)
        check_root_files(path)
        _check_same_recipe(path / "recipe.yaml", recipe)
    if (path / "prompts.yaml").exists():
        _check_same_prompts(path, recipe)


def check_finished_files(path: Path, recipe: Recipe) -> None:
    """Raise UserError if a run can't go on from the files in its folder: one has changed, is gone or is not the run's.

    The message says what depends on the file. Files above 1 GiB are checked by sampled blocks.
    """
    check_run_files(path)
    saved = path / SEEDS_FILE
    num_examples = max(variant.synthesis.examples for variant in recipe.variants)
    if saved.exists() and (num_tasks := len(read_rows(saved, SeedTask))) < num_examples:
        raise UserError(
            f"{saved}: {num_tasks} seed tasks found, and a prompt shows {num_examples}: put it back as it was, or "
            f"make the run again from there: {redo_command(path, SEEDS_FILE)}"
        )


def has_current_format(path: Path) -> bool:
    """Return whether a run folder has the format of this version of isheep."""
    try:
        check_format(path)
    except UserError:
        return False
    return True


def check_format(path: Path) -> None:
    """Raise UserError if a run folder was written by a version of isheep that had another format."""
    version = path / VERSION_FILE
    if not version.exists():
        raise UserError(
            f"run folder {path} was made by isheep 0.1, whose files this version can't read: begin a new run with "
            f"another {option('out', 'run_dir')}, or install isheep 0.1"
        )
    try:
        number = json.loads(version.read_text(encoding="utf-8"))["format"]
    except (ValueError, KeyError, TypeError, RecursionError, OSError):
        raise UserError(f'{version} is damaged: it must hold {{"format": {FORMAT}}}') from None
    if number != FORMAT:
        raise UserError(f"run folder {path} has format {number}, and this version of isheep reads {FORMAT}")


def _check_is_run_dir(path: Path) -> None:
    try:
        exists = path.exists()
    # The path is too long, or a folder on the way may not be read.
    except OSError as error:
        raise UserError(f"run folder {path} can't be used: {error.strerror}") from None
    if len(os.fsencode(path.absolute())) > MAX_PATH_BYTES:
        shorter = f"give a shorter {option('out', 'run_dir')}"
        raise UserError(
            f"the path of run folder {quote_path(str(path))} is longer than {MAX_PATH_BYTES} bytes: {shorter}"
        )
    nearest = next((folder for folder in (path, *path.parents) if folder.exists()), path)
    if not exists and not nearest.is_dir():
        raise UserError(f"run folder {path} lies below {nearest}, which is a file; give a folder below a folder")
    if exists and not path.is_dir():
        raise UserError(f"{path} is a file; give a folder as {option('out', 'run_dir')}")
    check_entries(path)
    # The files that a run writes before its recipe.
    names = (VERSION_FILE, MANIFEST_FILE)
    first_files = {"lock", "recipe.yaml.part", *names, *(f"{name}.part" for name in names)}
    if path.is_dir() and not (path / "recipe.yaml").exists() and {file.name for file in path.iterdir()} - first_files:
        another = f"give another {option('out', 'run_dir')}"
        raise UserError(f"{path} holds files and no recipe.yaml: it is not a run folder; {another}")


def _check_same_recipe(path: Path, recipe: Recipe) -> None:
    """Raise UserError if the recipe that the run began with, at `path`, has other settings."""
    saved = loading.load_saved_recipe(path)
    iterations = max(recipe.iterations, saved.iterations)
    expected = recipe.model_copy(update={"machine": saved.machine, "iterations": iterations})
    grown = saved.model_copy(update={"iterations": iterations})
    differences = loading.differences(grown, expected) or loading.differences(expected, recipe)
    differences = [line for line in differences if not line.startswith("machine.")]
    if differences:
        raise UserError(
            f"run folder {path.parent} was made with another recipe ({'; '.join(differences)}); only machine may "
            f"change, and iterations grow; {fork_advice(path.parent, loading.changed_settings(saved, recipe))}"
        )


def _check_same_prompts(path: Path, recipe: Recipe) -> None:
    """Raise UserError if a prompt file of the user's own has another text than when the run began."""
    saved = saved_prompts(path)
    for name, text in _own_prompts(recipe).items():
        if saved.get(name) != text:
            raise UserError(
                f"prompt file {name} is not what run folder {path} was made with (prompts.yaml in it); "
                f"put it back; {fork_advice(path, [])}"
            )


def fork_advice(path: Path, settings: Sequence[str]) -> str:
    """Return how to begin another run that takes over what the run in `path` has and these settings do not change."""
    # The path "." has no name.
    siblings = path.parent if path.name else path.resolve().parent
    # With its number, a long name could be longer than a file system allows.
    name = os.fsencode(path.resolve().name)[:MAX_FORK_NAME].decode(errors="ignore")
    folder = next(folder for n in itertools.count(2) if not os.path.exists(folder := siblings / f"{name}-{n}"))
    if in_command_line():
        command = " ".join(map(shell_word, ["isheep", "run", path, *settings, "--fork", folder.name]))
        if len(command) > MAX_COMMAND_LENGTH:
            command = f"the same command with --fork {shell_word(folder.name)}"
    else:
        command = f"isheep.align(recipe, {str(folder)!r}, reuse={str(path)!r})"
    return f"for a new run that takes over what stays the same: {command}"


def _own_prompts(recipe: Recipe) -> dict[str, str]:
    """Return the texts of the user's own prompt files by their names in the recipe; the run folder keeps them."""
    names = [name for variant in recipe.variants for name in variant.own_prompts()]
    return {name: read_small_text(prompts.find_prompt_file(name)) for name in names}


# --- files of the run


def _begin_manifest(run: RunFolder) -> None:
    """Begin the manifest of a run that has none: a new run, or one of an earlier version, of which it says so."""
    recorded = begin_manifest(run.path)
    if any(split_file(name)[0] is not None for name in recorded):
        run.notify(
            f"{run.path} has no {MANIFEST_FILE}, as runs of earlier versions: its {len(recorded)} finished files are "
            "recorded as they are now, and checked from now on"
        )


def _write_recipe(run: RunFolder, recipe: Recipe) -> None:
    """Write the recipe of a run that begins; of one that continues, replace `machine` and `iterations` if they differ.

    The other keys stay as they are in the file. A key that isheep did not have when the run began is not added with its
    default, because the file is the record of the settings that the run was made with.
    """
    path = run.path / "recipe.yaml"
    if not path.exists():
        return run.write_text("recipe.yaml", loading.dump_recipe(recipe))
    saved = loading.load_saved_recipe(path)
    changes = {
        key: value
        for key, value in recipe.model_dump(mode="json", include={"machine", "iterations"}).items()
        if value != saved.model_dump(mode="json", include={key})[key]
    }
    if changes:
        run.write_text("recipe.yaml", loading.dump_settings({**loading.load_saved_settings(path), **changes}))


def _write_if_changed(run: RunFolder, name: str, text: str) -> None:
    path = run.path / name
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        run.write_text(name, text)


def _versions() -> dict[str, str]:
    versions = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions
