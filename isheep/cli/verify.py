"""isheep verify: compare all bytes of a run's finished files with its manifest."""

from pathlib import Path
from typing import Annotated

import typer

from isheep.cli.options import RunDir
from isheep.cli.output import print_line
from isheep.errors import UserError, shell_word

Accepted = Annotated[
    list[str] | None,
    typer.Option(
        "--accept",
        metavar="FILE",
        help="Record this file or folder of DIR as it is now, such as iter-1/train.json after an edit of yours, or "
        "forget it if it is gone; may be repeated.",
        show_default=False,
    ),
]


def verify(run_dir: RunDir, accept: Accepted = None) -> None:
    """Check all bytes of a run's finished files.

    Compares them with DIR/manifest.json, in which the run has recorded every file before it finished it. Each file that
    has changed, is gone or does not fit the others is named, with what depends on it and the way out; then the exit
    code is 2. Other commands check what they read, files above 1 GiB by sampled blocks.
    """
    from isheep.rundir.events import damaged_events
    from isheep.rundir.integrity import describe_absent_files, find_problems
    from isheep.rundir.manifest import MANIFEST_FILE, has_manifest, read_manifest
    from isheep.rundir.run import check_is_run

    check_is_run(run_dir)
    if not has_manifest(run_dir):
        raise UserError(
            f"{run_dir} has no {MANIFEST_FILE}, as runs of earlier versions, so that there is nothing to compare with: "
            f"isheep run {shell_word(run_dir)} records its files as they are"
        )
    if accept:
        _accept(run_dir, accept)
    problems = list(find_problems(run_dir, all_bytes=True))
    if line := damaged_events(run_dir):
        print_line(line)
    files = read_manifest(run_dir)
    for line in describe_absent_files(run_dir):
        print_line(line)
    if len(problems) == 1:
        raise UserError(problems[0].text)
    for problem in problems:
        print_line(problem.text)
    if problems:
        num_files = sum(problem.num_files for problem in problems)
        raise UserError(f"{num_files} files of {run_dir} are not as the run made them: the lines above say what helps")
    existing = [name for name in files if (run_dir / name).exists()]
    size = sum((run_dir / name).stat().st_size for name in existing)
    print_line(f"all bytes of {len(existing)} files ({size:,} bytes) are as the run made them")


def _accept(run_dir: Path, names: list[str]) -> None:
    """Record the named files, and those in the named folders, as they are now."""
    from isheep.rundir.integrity import RECIPE_FILE, way_out
    from isheep.rundir.manifest import accept_files, finished_files, read_manifest
    from isheep.rundir.run import lock_run

    with lock_run(run_dir) as run:
        files = sorted({*finished_files(run_dir), *read_manifest(run_dir)})
        for name in names:
            path = str(Path(name))
            if path in (".", RECIPE_FILE):
                # All files follow from its settings, and none would be made again.
                raise UserError(f"--accept {name}: {RECIPE_FILE} can't be accepted: {way_out(run_dir, RECIPE_FILE)}")
            accepted = [file for file in files if path == file or file.startswith(f"{path}/")]
            if not accepted:
                raise UserError(
                    f"--accept {name}: no such file among those of {run_dir} that are recorded; give its path in the "
                    "run folder, such as iter-1/train.json"
                )
            accept_files(run_dir, accepted)
            run.notify(f"recorded as it is now: {path}" + (f" ({len(accepted)} files)" if accepted != [path] else ""))
