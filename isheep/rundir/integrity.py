"""Checks of a run's finished files against its manifest: what has changed, what depends on it, and the way out."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from isheep.errors import UserError, shell_word
from isheep.rundir.artifacts import (
    JUDGE_CALIBRATION,
    SEEDS_FILE,
    STAGES,
    artifact_of,
    dependent_stages,
    existing_iterations,
    iteration_name,
    production_order,
    redo_command,
    split_file,
    stage_of,
)
from isheep.rundir.digests import file_sha256, sample_sha256
from isheep.rundir.entries import ROOT_FILES
from isheep.rundir.lock import is_locked
from isheep.rundir.manifest import (
    Files,
    awaits_commit,
    digest_of,
    files_made_from,
    find_stale_files,
    finished_files,
    has_manifest,
    read_manifest,
)

# The stages whose files commands other than the run make without recording them.
ADDED_LATER = (JUDGE_CALIBRATION,)
RECIPE_FILE = "recipe.yaml"


class FileProblem(NamedTuple):
    """A file of a run that is not as the run made it, and the line that says so with the way out.

    `num_files` counts the files that the line is about, which have the same cause and the same way out.
    """

    file: str
    text: str
    num_files: int = 1


def check_run_files(root: Path) -> None:
    """Raise UserError if a run can't go on with the files in its folder; nothing without a manifest."""
    if problem := next(find_problems(root), None):
        raise UserError(problem.text)


def check_root_files(root: Path) -> None:
    """Raise UserError if one of the recorded files beside the iterations has changed, the seed tasks aside."""
    files = read_manifest(root)
    for file in sorted({*ROOT_FILES} - {SEEDS_FILE}):
        if text := describe_change(root, files, file):
            raise UserError(text)


def find_problems(root: Path, all_bytes: bool = False) -> Iterator[FileProblem]:
    """Yield the files of a run that have changed, are gone, do not fit together, or were not made by the run.

    A missing file that the run makes again by itself is none. Large files are checked by sampled blocks, unless
    `all_bytes`.
    """
    yield from _find_gaps(root)
    if not has_manifest(root):
        return
    files = read_manifest(root)
    for file in sorted(files, key=production_order):
        if text := describe_change(root, files, file, all_bytes):
            yield FileProblem(file, text)
        elif not (root / file).exists() and not _is_made_again(root, file):
            yield FileProblem(file, _describe_missing(root, file))
    made_from: dict[str, list[str]] = {}
    for stale in find_stale_files(root, files):
        made_from.setdefault(stale.source, []).append(stale.file)
    for source, stale_files in made_from.items():
        yield FileProblem(stale_files[0], _describe_stale(root, source, stale_files), len(stale_files))
    for file in finished_files(root):
        # A benchmark that was stopped may leave any files in its folder. They are checked when they are read.
        if file not in files and _is_foreign(file, files) and not _is_left_by_benchmark(root, file):
            yield FileProblem(file, _describe_foreign(root, file))


def describe_absent_files(root: Path) -> Iterator[str]:
    """Yield a line for each recorded file that is gone and that the run makes again, if it needs it."""
    for file in read_manifest(root):
        if not (root / file).exists() and not (root / f"{file}.part").exists() and _is_made_again(root, file):
            yield f"{root / file} is not there: the run makes it again if it needs it"


def describe_change(root: Path, files: Files, file: str, all_bytes: bool = False) -> str | None:
    """Return the line about a file whose content is not the recorded one; None if it is, or is not recorded.

    None as well if a run that is under way is just about to give the recorded content its name.
    """
    record, path = files.get(file), root / file
    if record is None or not path.exists():
        return None
    if awaits_commit(root, file, record):
        stopped = f"{path} was about to be replaced when its run was stopped (its content is in {path.name}.part)"
        return None if is_locked(root) else f"{stopped}: isheep run {shell_word(root)} completes it"
    try:
        size = path.stat().st_size
        if size != record.size:
            difference = f"{size:,} bytes instead of {record.size:,}"
        elif record.sample and not all_bytes:
            if sample_sha256(path) == record.sample:
                return None
            difference = "other bytes in a sampled block"
        elif file_sha256(path) != record.sha256:
            difference = "other content of the same size"
        else:
            return None
    except OSError as error:
        difference = f"it can't be read: {error.strerror}"
    return f"{path} has changed since the run made it ({difference}){_dependents(root, file)}: {way_out(root, file)}"


def describe_changes(root: Path, name: str) -> Iterator[str]:
    """Yield the lines about a file, or the files of a folder, whose content is not the recorded one."""
    files = read_manifest(root)
    for file in files:
        if file == name or file.startswith(f"{name}/"):
            text = describe_change(root, files, file)
            is_part_gone = file != name and not (root / file).exists() and (root / name).exists()
            if text or is_part_gone:
                yield text or _describe_missing(root, file)


def describe_foreign(root: Path, file: str) -> str | None:
    """Return the line about a file of an evaluation that the run did not make; None for others.

    Other files are checked when a run begins (`find_problems`).
    """
    is_unrecorded = has_manifest(root) and file not in read_manifest(root) and (root / file).is_file()
    return _describe_foreign(root, file) if is_unrecorded and stage_of(split_file(file)[1]) == "evaluation" else None


def describe_missing(root: Path, file: str) -> str | None:
    """Return the line about a recorded file or folder that is gone, None if it is there, is not recorded, or is coming.

    A file is recorded just before NAME.part gets its name.
    """
    files = read_manifest(root)
    if digest_of(files, file) is None or (root / file).exists() or (root / f"{file}.part").exists():
        return None
    if files_made_from(root, files, file) and not _is_made_again(root, file):
        return _describe_missing(root, file)
    source = _dependents(root, file)
    return f"{root / file} is gone{source}: put it back as it was, or isheep run {shell_word(root)} makes it again"


def way_out(root: Path, file: str) -> str:
    """Return what to do about a file that has changed or is gone."""
    iteration, name = split_file(file)
    artifact = artifact_of(name) if iteration is not None else None
    if artifact and artifact.stage == JUDGE_CALIBRATION:
        return f"put it back, or delete {artifact.name} and run isheep judge-calibration again"
    if name == "train.json" and (root / iteration_name(iteration or 0) / "adapter").exists():
        redo = f"isheep redo {shell_word(root)} --from training --iteration {iteration}"
        return f"put it back as it was, or train on it as it is now: {redo}"
    if artifact or file == SEEDS_FILE:
        return f"put it back as it was, or make it again with all that follows: {redo_command(root, file)}"
    if file == RECIPE_FILE:
        return (
            f"put it back as it was; to run with another setting: isheep run {shell_word(root)} KEY=VALUE --fork NAME, "
            "or for a key of machine without --fork"
        )
    if file.startswith("control/"):
        return "delete it, and it is made again"
    return (
        f"put it back as it was; if the change is yours and is right: isheep verify {shell_word(root)} "
        f"--accept {shell_word(file)}"
    )


# --- parts of the messages and rules


def _describe_foreign(root: Path, file: str) -> str:
    return (
        f"{root / file} was not made by this run (manifest.json does not name it): move it away, or, to go on with it, "
        f"record it: isheep verify {shell_word(root)} --accept {shell_word(file)}"
    )


def _describe_missing(root: Path, file: str) -> str:
    return f"{root / file} is gone{_dependents(root, file)}: {way_out(root, file)}"


def _describe_stale(root: Path, source: str, files: Sequence[str]) -> str:
    """Return the line about files that were made from an earlier content of a file. The redo of the first makes all."""
    more = f" and {len(files) - 1} more files were" if len(files) > 1 else " was"
    return (
        f"{root / files[0]}{more} made from another {source} than the one that is there now: put back the one of the "
        f"two that was replaced, or make {'them' if len(files) > 1 else 'it'} again: {redo_command(root, files[0])}"
    )


def _dependents(root: Path, file: str) -> str:
    """Return ", and is the source of ratings, filtering of iteration 1 and all of iteration 2"; "" if it is of none."""
    iteration, name = split_file(file)
    later = [number for number in existing_iterations(root) if iteration is None or number > iteration]
    if file == SEEDS_FILE:
        return ", and is the source of all iterations" if later else ""
    artifact = artifact_of(name)
    if iteration is None or artifact is None:
        return ""
    stages = dependent_stages(artifact.stage)
    parts = []
    dependents = [
        stage for stage in STAGES if stage in stages - {artifact.stage} and _has_stage(root, iteration, stage)
    ]
    if dependents:
        parts.append(f"{', '.join(dependents)} of {f'iteration {iteration}' if iteration else 'the base model'}")
    if later and "training" in stages:
        parts.append("all of iteration " + ", ".join(map(str, later)))
    return f", and is the source of {' and '.join(parts)}" if parts else ""


def _has_stage(root: Path, iteration: int, stage: str) -> bool:
    folder = root / iteration_name(iteration)
    return any(stage_of(path.name) == stage for path in folder.glob("*"))


def _find_gaps(root: Path) -> Iterator[FileProblem]:
    """Yield each iteration whose adapter is missing although a later iteration was made with it."""
    for number in existing_iterations(root):
        previous = number - 1
        if previous > 0 and not (root / f"iter-{previous}" / "adapter").exists() and _has_results(root, number):
            file = f"iter-{previous}/adapter"
            stage = "training" if (root / f"iter-{previous}" / "train.json").exists() else "instructions"
            yield FileProblem(
                file,
                f"{root / file} is missing, and iteration {number} was made with it: put it back, or make it again "
                f"with all that follows: isheep redo {shell_word(root)} --from {stage} --iteration {previous}",
            )


def _has_results(root: Path, iteration: int) -> bool:
    return any(artifact_of(path.name) for path in (root / f"iter-{iteration}").glob("*"))


def _is_made_again(root: Path, file: str) -> bool:
    """Return whether a run makes a missing file again: not one inside a finished adapter or beside finished scores."""
    iteration, name = split_file(file)
    if iteration is None:
        return file == SEEDS_FILE or file.startswith("control/")
    folder = root / iteration_name(iteration)
    if name.startswith("adapter/"):
        return not (folder / "adapter").exists()
    return stage_of(name) != "evaluation" or not _has_scores(folder, name)


def _is_left_by_benchmark(root: Path, file: str) -> bool:
    """Return whether a benchmark that was stopped may have left a file in its folder, such as eval/NAME/FILE."""
    iteration, name = split_file(file)
    is_in_folder = stage_of(name) == "evaluation" and len(Path(name).parts) > 2
    return iteration is not None and is_in_folder and not _has_scores(root / iteration_name(iteration), name)


def _has_scores(folder: Path, name: str) -> bool:
    """Return whether a file in the folder eval/NAME has the scores eval/NAME.json beside it, with which it is made."""
    return any((folder / f"{parent}.json").exists() for parent in Path(name).parents[:-1])


def _is_foreign(file: str, files: Files) -> bool:
    """Return whether a run would take a file that is not recorded for its own."""
    iteration, name = split_file(file)
    artifact = artifact_of(name)
    if iteration is None or artifact is None or artifact.stage in ADDED_LATER:
        return False
    folder, artifact_name, *rest = Path(file).parts
    # A file that was added to a finished adapter is no part of it.
    return not rest or not any(recorded.startswith(f"{folder}/{artifact_name}/") for recorded in files)
