"""Where a run stands: what is made, what is being made, and how long each stage took. Nothing is written or locked."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Column, Table
from rich.text import Text

from isheep.batching import chunks
from isheep.diagnostics.diversity import METRICS, read_diversity
from isheep.evaluation.evaluate import is_last_iteration
from isheep.evaluation.tables import run_table
from isheep.recipe.schema import Recipe
from isheep.rundir.artifacts import OTHER_STAGE, STAGES, artifact_of, stage_of
from isheep.rundir.folder import RunFolder, open_run, read_events
from isheep.rundir.iterations import iteration_dir, newest_iteration

COLUMNS = 4  # iterations side by side on a screen of 80 columns


def status(path: Path) -> Iterator[RenderableType]:
    """What `isheep status` prints. Raises UserError where `path` is no run folder or a finished file is corrupt."""
    recipe, run = open_run(path)
    yield run_table(recipe, run)
    yield from times(recipe, run)
    yield from variety(recipe, run)
    yield from (
        Text(note) for note in dict.fromkeys(e["note"] for e in read_events(path) if isinstance(e.get("note"), str))
    )
    yield from (Text(line) for line in in_progress(run))
    done = newest_iteration(recipe, run)
    way_on = (
        "" if is_last_iteration(recipe, run, done) else f"; to go on: isheep run {path / 'recipe.yaml'} --out {path}"
    )
    yield Text(f"{done} of {recipe.iterations} iterations are trained{way_on}")


def times(recipe: Recipe, run: RunFolder) -> Iterator[RenderableType]:
    """Seconds by stage and iteration, from run.jsonl: of the last try, where a stage was interrupted (marked >)."""
    taken, resumed = seconds(run)
    homes = ["base", *(f"iter-{t}" for t in range(1, recipe.iterations + 1) if iteration_dir(run, t).path.exists())]
    shown = Table("", *("base" if name == "base" else f"iteration {name[5:]}" for name in homes), title="seconds")
    for stage in (*STAGES, OTHER_STAGE):
        if any(stage == at for _, at in taken):
            shown.add_row(stage, *(_seconds(taken.get((name, stage)), (name, stage) in resumed) for name in homes))
    shown.add_section()
    shown.add_row("all", *(_seconds(sum(s for (at, _), s in taken.items() if at == name), False) for name in homes))
    if taken:
        yield shown
    if resumed:
        yield Text("> an interrupted stage: its last try alone was timed")


def variety(recipe: Recipe, run: RunFolder) -> Iterator[RenderableType]:
    """What each iteration wrote, in the figures of collapse.py, and a line for each that is narrower than before."""
    known = {t: found for t in range(1, recipe.iterations + 1) if (found := read_diversity(run, t))}
    for some in chunks(list(known), COLUMNS):
        columns = (Column(f"iteration {t}", justify="right") for t in some)
        shown = Table("what was written", *columns, box=SIMPLE_HEAD, pad_edge=False)
        of = ""
        for name, metric in METRICS.items():
            if metric.text != of:
                of = metric.text
                shown.add_row(of, style="bold")
            values = (known[t].get(name) for t in some)
            shown.add_row(f"  {metric.label}", *("-" if v is None else metric.number_format.format(v) for v in values))
        yield shown
    for t, found in known.items():
        yield from (Text(f"iteration {t} is narrower: {line}", style="yellow") for line in found["narrower"])


def seconds(run: RunFolder) -> tuple[dict[tuple[str, str], float], set[tuple[str, str]]]:
    """Seconds by (folder, stage), and the stages that went on with rows of an earlier try. Later events win.

    Those of a benchmark's answers are among those of its result, unless an earlier try made them.
    """
    files = {str(event["file"]): event for event in read_events(run.root) if "file" in event and "seconds" in event}
    taken: dict[tuple[str, str], float] = {}
    resumed = set()
    for name, event in files.items():
        folder, _, file = name.partition("/")
        key = (folder, stage_of(file))
        whole = files.get(f"{name.rpartition('/')[0]}.json")
        if whole is None or event.get("time", 0) < whole.get("time", 0) - whole["seconds"]:
            taken[key] = taken.get(key, 0.0) + float(event["seconds"])
        if event.get("made", 0) < event.get("rows", 0):
            resumed.add(key)
    return taken, resumed


def in_progress(run: RunFolder) -> Iterator[str]:
    """A line for everything that is begun and not complete: its rows or training steps, and when it last grew."""
    for part in sorted([*run.path.glob("*/*.part"), *run.path.glob("*/eval/*/*.part")]):
        with contextlib.suppress(FileNotFoundError):  # finished while we looked
            name = part.relative_to(run.path).with_suffix("")
            inside = part.rglob("*") if part.is_dir() else [part]
            age = time.time() - max((path.stat().st_mtime for path in inside), default=part.stat().st_mtime)
            yield f"in progress: {name}, {_amount(part)}, last written {max(age, 0):.0f} s ago"


def _amount(part: Path) -> str:
    if part.is_dir():
        steps = [int(path.name.split("-")[1]) for path in part.glob("checkpoint-*")]
        return f"saved at step {max(steps)}" if steps else "no checkpoint yet"
    artifact = artifact_of(part.stem)
    total = part.with_name(artifact.rows_of) if artifact and artifact.rows_of else None
    of = f" of {_lines(total)}" if total and total.is_file() else ""
    return f"{_lines(part)}{of} rows"


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def _seconds(value: float | None, resumed: bool) -> str:
    return "-" if not value else f"{'> ' if resumed else ''}{value:.1f}"
