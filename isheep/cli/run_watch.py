"""isheep run --watch: show the progress of a run that another process executes. Writes nothing."""

import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from isheep.cli.live_view import SECONDS_PER_LINE, can_redraw, duration_text, plain_line, view
from isheep.cli.output import print_line
from isheep.errors import UserError, shell_word
from isheep.rundir.lock import is_locked
from isheep.rundir.progress import console
from isheep.rundir.run import open_run
from isheep.rundir.snapshot import PROGRESS_FILE, Snapshot, read_snapshot

SECONDS_PER_READ = 1.0
OLD_SECONDS = 10.0
"""The age of a state from which on it is shown: a long forward pass reports nothing."""


def watch_run(run_dir: Path, wait: Callable[[float], None] = time.sleep) -> None:
    """Show the progress of the run in a folder until it ends, or until Ctrl-C, which does not touch the run.

    Raises UserError if `run_dir` is not a run folder, or if progress.json is missing or damaged.
    """
    open_run(run_dir)
    if not is_locked(run_dir):
        return print_line(f"no run is under way in {run_dir}; see isheep status {shell_word(run_dir)}")
    try:
        if can_redraw():
            _watch_live(run_dir, wait)
        else:
            _watch_lines(run_dir, wait)
    except KeyboardInterrupt:
        return print_line(f"not watching any more; the run in {run_dir} goes on")
    print_line(f"the run in {run_dir} has ended; see isheep status {shell_word(run_dir)}")


def _watch_live(run_dir: Path, wait: Callable[[float], None]) -> None:
    with Live(console=console, transient=True, auto_refresh=False) as live:
        while state := _read_state(run_dir):
            live.update(_aged_view(*state), refresh=True)
            wait(SECONDS_PER_READ)


def _watch_lines(run_dir: Path, wait: Callable[[float], None]) -> None:
    while state := _read_state(run_dir):
        console.print(Text(plain_line(state[0])), soft_wrap=True)
        for _ in range(int(SECONDS_PER_LINE / SECONDS_PER_READ)):
            if not is_locked(run_dir):
                return
            wait(SECONDS_PER_READ)


def _read_state(run_dir: Path) -> tuple[Snapshot, float] | None:
    """Return the state of a run and its age in seconds; None if the run has ended."""
    state = read_snapshot(run_dir)
    if not is_locked(run_dir):
        return None
    if state is None:
        raise UserError(
            f"{run_dir} is in use by a process that reports no progress ({PROGRESS_FILE} is missing): try again, "
            f"or see isheep status {shell_word(run_dir)}"
        )
    return state


def _aged_view(snapshot: Snapshot, age: float) -> RenderableType:
    if age < OLD_SECONDS:
        return view(snapshot)
    return Group(view(snapshot), Text(f"as of {duration_text(age)} ago", "dim"))
