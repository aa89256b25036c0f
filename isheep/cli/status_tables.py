"""What `isheep status` prints: finished and unfinished work of a run, and the seconds of each stage. Writes nothing."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Column, Table
from rich.text import Text

from isheep.batching import chunks
from isheep.diagnostics.diversity import METRICS, read_diversity
from isheep.errors import shell_word
from isheep.evaluation.json_views import scores_json
from isheep.evaluation.stopping import is_last_iteration
from isheep.evaluation.tables import run_table
from isheep.plan.reality import StageReality, compare_with_plan
from isheep.plan.tables import clock, si
from isheep.recipe.schema import Recipe
from isheep.rundir import kept_replies
from isheep.rundir.artifacts import OTHER_STAGE, STAGES, artifact_of
from isheep.rundir.events import damaged_events, read_events
from isheep.rundir.findings import find_stop, read_findings
from isheep.rundir.folder import RunFolder
from isheep.rundir.integrity import describe_absent_files
from isheep.rundir.iterations import find_run_result, iteration_dir, newest_iteration
from isheep.rundir.run import open_run
from isheep.rundir.stage_times import stage_seconds

ITERATIONS_PER_TABLE = 4
"""The number of iterations that fit side by side on a screen of 80 columns."""


def status_tables(run_dir: Path, full: bool) -> Iterator[RenderableType]:
    """Yield what `isheep status` prints; with `full` all scores, the seconds of each stage and the diversity too.

    Raises UserError if `run_dir` is not a run folder, or a finished file is corrupt.
    """
    problems: list[str] = []
    recipe, run = open_run(run_dir, problems.append)
    yield run_table(recipe, run, full=full)
    diversity = {t: values for t in range(1, recipe.iterations + 1) if (values := read_diversity(run, t))}
    yield from reality_table(reality_of(recipe, run))
    if full:
        yield from seconds_table(recipe, run)
        yield from diversity_tables(diversity)
    for t, values in diversity.items():
        yield from (Text(f"iteration {t} is narrower: {line}", style="yellow") for line in values["narrower"])
    yield from map(Text, notes(run))
    yield from map(Text, in_progress(run))
    yield from (Text(line, style="red") for line in _described_problems(run, problems))
    yield Text(progress_line(recipe, run))
    if recipe.stop_rule:
        yield Text(f"result: {find_run_result(recipe, run)}")


def progress_line(recipe: Recipe, run: RunFolder) -> str:
    """Return how many iterations of a run are trained, and how to continue it."""
    iteration = newest_iteration(recipe, run)
    way_on = "" if is_last_iteration(recipe, run, iteration) else f"; to continue: isheep run {shell_word(run.path)}"
    if stop := find_stop(recipe, run):
        way_on = f"; stopped by stop.on: {stop}"
    return f"{iteration} of {recipe.iterations} iterations are trained{way_on}"


def status_values(run_dir: Path) -> dict[str, Any]:
    """Return what `isheep status --json` prints: rows and scores, diversity, seconds, notes and work in progress."""
    problems: list[str] = []
    recipe, run = open_run(run_dir, problems.append)
    iteration = newest_iteration(recipe, run)
    seconds = stage_seconds(run).seconds
    values = {
        **scores_json(recipe, run),
        "num_trained_iterations": iteration,
        "num_iterations": recipe.iterations,
        "result": find_run_result(recipe, run)._asdict(),
        "is_finished": is_last_iteration(recipe, run, iteration),
        "diversity": {t: values for t in range(1, recipe.iterations + 1) if (values := read_diversity(run, t))},
        "seconds": [{"folder": folder, "stage": stage, "seconds": value} for (folder, stage), value in seconds.items()],
        "plan_and_reality": [row._asdict() for row in compare_with_plan(recipe, run, seconds)],
        "notes": notes(run),
        "findings": [{"iteration": t, "name": name, "text": text} for (t, name), text in read_findings(run).items()],
        "in_progress": list(in_progress(run)),
    }
    return {**values, "problems": _described_problems(run, problems)}


def _described_problems(run: RunFolder, problems: Sequence[str]) -> list[str]:
    """Return the lines about files that are not as the run made them, each once, and about damaged events."""
    events = damaged_events(run.root)
    # A file that was already named as gone is not named again.
    absent = [line for line in describe_absent_files(run.root) if not any(line.split()[0] in text for text in problems)]
    return [*dict.fromkeys(problems), *absent, *([events] if events else [])]


def notes(run: RunFolder) -> list[str]:
    """Return the notes in run.jsonl, each once and where it was written last, so that new ones follow a redo."""
    texts = [event["note"] for event in read_events(run.root) if isinstance(event.get("note"), str)]
    return list(dict.fromkeys(reversed(texts)))[::-1]


# --- seconds


def seconds_table(recipe: Recipe, run: RunFolder) -> Iterator[RenderableType]:
    """Yield the seconds of each stage and iteration; for an interrupted stage those of its last try, marked ">"."""
    timing = stage_seconds(run)
    folders = ["base", *(f"iter-{t}" for t in range(1, recipe.iterations + 1) if iteration_dir(run, t).path.exists())]
    headings = ("base" if name == "base" else f"iteration {name.removeprefix('iter-')}" for name in folders)
    table = Table("", *headings, title="seconds")
    for stage in (*STAGES, OTHER_STAGE):
        keys = [(name, stage) for name in folders]
        if any(stage == timed_stage for _, timed_stage in timing.seconds):
            table.add_row(stage, *(_format_seconds(timing.seconds.get(key), key in timing.resumed) for key in keys))
    totals = (sum(value for (folder, _), value in timing.seconds.items() if folder == name) for name in folders)
    table.add_section()
    table.add_row("all", *(_format_seconds(total, False) for total in totals))
    if timing.seconds:
        yield table
    if timing.resumed:
        yield Text("> an interrupted stage: only its last try is counted")


def reality_of(recipe: Recipe, run: RunFolder) -> list[StageReality]:
    """Return the stages of a run beside its plan; nothing if it has not ended, or has no plan."""
    return compare_with_plan(recipe, run, stage_seconds(run).seconds)


def reality_table(compared: Sequence[StageReality], title: str = "plan and reality") -> Iterator[RenderableType]:
    """Yield the rows, tokens and seconds of each stage beside those planned, if there is a plan."""
    if not compared:
        return
    columns = [Column(name, justify="right") for name in ("rows", "planned", "tokens", "planned", "time", "planned")]
    table = Table(title, *columns, box=SIMPLE_HEAD, pad_edge=False)
    for row in compared:
        # A training writes no tokens.
        counts = (row.rows, row.planned_rows, row.tokens, row.planned_tokens or None)
        table.add_row(row.label, *map(_format_count, counts), clock(row.seconds), clock(row.planned_seconds))
    table.add_section()
    seconds, planned_seconds = sum(row.seconds for row in compared), sum(row.planned_seconds for row in compared)
    table.add_row("all", *[""] * 4, clock(seconds), clock(planned_seconds))
    yield table


def _format_count(value: float | None) -> str:
    if value is None:
        return "-"
    return si(value) if value >= 1000 else f"{value:.0f}"


def _format_seconds(value: float | None, resumed: bool) -> str:
    if not value:
        return "-"
    return f"> {value:.1f}" if resumed else f"{value:.1f}"


# --- diversity


def diversity_tables(by_iteration: Mapping[int, Mapping[str, Any]]) -> Iterator[RenderableType]:
    """Yield the diversity of each iteration's data."""
    for iterations in chunks(list(by_iteration), ITERATIONS_PER_TABLE):
        columns = (Column(f"iteration {t}", justify="right") for t in iterations)
        table = Table("generated data", *columns, box=SIMPLE_HEAD, pad_edge=False)
        group = ""
        for name, metric in METRICS.items():
            if metric.text != group:
                group = metric.text
                table.add_row(group, style="bold")
            row = (by_iteration[t].get(name) for t in iterations)
            table.add_row(
                f"  {metric.label}", *("-" if value is None else metric.number_format.format(value) for value in row)
            )
        yield table


def _format_metric(value: float | None, number_format: str) -> str:
    return "-" if value is None else number_format.format(value)


# --- work in progress


def in_progress(run: RunFolder) -> Iterator[str]:
    """Yield a line for every unfinished file or training: its rows or steps, and when it was last written."""
    for part in sorted([*run.path.glob("*/*.part"), *run.path.glob("*/eval/*/*.part")]):
        if part.name.endswith(kept_replies.SUFFIX):
            continue
        # It may be finished, and renamed, at any moment.
        with contextlib.suppress(FileNotFoundError):
            name = part.relative_to(run.path).with_suffix("")
            paths = part.rglob("*") if part.is_dir() else [part]
            age = time.time() - max((path.stat().st_mtime for path in paths), default=part.stat().st_mtime)
            yield f"in progress: {name}, {_amount(part)}, last written {max(age, 0):.0f} s ago"


def _amount(part: Path) -> str:
    """Return how much of an unfinished file or training exists."""
    if part.is_dir():
        steps = [int(path.name.split("-")[1]) for path in part.glob("checkpoint-*")]
        return f"saved at step {max(steps)}" if steps else "no checkpoint yet"
    artifact = artifact_of(part.stem)
    source = part.with_name(artifact.rows_of) if artifact and artifact.rows_of else None
    total = f" of {_num_lines(source)}" if source and source.is_file() else ""
    return f"{_num_lines(part)}{total} rows"


def _num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")
