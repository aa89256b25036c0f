"""What a person sees of a run that is under way: a live view on a terminal, and plain lines elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from isheep.evaluation.formatting import escape_unprintable
from isheep.rundir import progress
from isheep.rundir.progress import console
from isheep.rundir.snapshot import Snapshot

SECONDS_PER_LINE = 30.0
"""The least time between two plain lines."""
REFRESHES_PER_SECOND = 4
BAR_WIDTH = 30


@contextlib.contextmanager
def live_view() -> Iterator[None]:
    """Show the progress of the work inside the block on standard error."""
    if can_redraw():
        with Live(
            console=console, get_renderable=_current_view, transient=True, refresh_per_second=REFRESHES_PER_SECOND
        ) as live:

            def redraw(stage_changed: bool) -> None:
                # Between the stages the view redraws itself.
                if stage_changed:
                    live.refresh()

            with progress.listen(redraw):
                yield
        return
    with progress.listen(PlainLines().show):
        yield


def can_redraw() -> bool:
    """Return whether standard error is a terminal on which lines can be drawn again."""
    return console.is_interactive


class PlainLines:
    """Prints the progress as lines, one in SECONDS_PER_LINE at most. The run itself prints a line for each file."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.last_time = clock()

    def show(self, stage_changed: bool = False) -> None:
        """Print where the work stands, if the last line is old enough."""
        if self.clock() - self.last_time >= SECONDS_PER_LINE and (snapshot := progress.snapshot()):
            self.print(snapshot)

    def print(self, snapshot: Snapshot) -> None:
        """Print a line, whenever the last one was."""
        self.last_time = self.clock()
        console.print(Text(plain_line(snapshot)), soft_wrap=True)


def _current_view() -> RenderableType:
    snapshot = progress.snapshot()
    return view(snapshot) if snapshot else Text("")


def view(snapshot: Snapshot) -> RenderableType:
    """Return the live view: where the run is, a bar with its counts, the shares and losses, and an example."""
    heading = Text(" · ".join(filter(None, (iteration_text(snapshot), snapshot.stage))), "bold")
    counts = Text("   ".join(count_texts(snapshot)))
    row = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=snapshot.total, completed=snapshot.rows, width=BAR_WIDTH, pulse=snapshot.total is None)
    row.add_row(bar, counts)
    parts: list[RenderableType] = [heading, row]
    if snapshot.facts:
        parts.append(Text("   ".join(f"{name}: {text}" for name, text in snapshot.facts.items())))
    if snapshot.example:
        parts.append(_example_table(snapshot))
    return Group(*parts)


def _example_table(snapshot: Snapshot) -> Table:
    """Return the fields of the example, a line each. A Text reads no markup, and control characters are escaped."""
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(style="dim", no_wrap=True, overflow="ellipsis", ratio=1)
    for name, text in snapshot.example.items():
        table.add_row(Text(f"  {escape_unprintable(name)}:"), Text(escape_unprintable(" ".join(text.split()))))
    return table


def plain_line(snapshot: Snapshot) -> str:
    """Return the state as one line without an example."""
    heading = ", ".join(filter(None, (iteration_text(snapshot), snapshot.stage)))
    facts = [f"{name} {text}" for name, text in snapshot.facts.items()]
    return escape_unprintable(f"{heading}: {', '.join([*count_texts(snapshot), *facts])}")


def iteration_text(snapshot: Snapshot) -> str:
    """Return "Iteration 1 of 3", "Base model", or "" for work that belongs to no iteration."""
    if snapshot.iteration is None:
        return ""
    return f"Iteration {snapshot.iteration} of {snapshot.iterations}" if snapshot.iteration else "Base model"


def count_texts(snapshot: Snapshot) -> list[str]:
    """Return the rows, the tokens per second and the time left, as far as they are known."""
    about = "about " if snapshot.total_is_estimate else ""
    total = "" if snapshot.total is None else f" of {about}{snapshot.total}"
    texts = [f"{snapshot.rows}{total} {snapshot.unit}"] if snapshot.total or snapshot.rows else []
    if snapshot.tokens_per_second:
        texts.append(f"{snapshot.tokens_per_second:.0f} tokens/s")
    if snapshot.seconds_left:
        texts.append(f"about {duration_text(snapshot.seconds_left)} left")
    else:
        is_open = snapshot.total is not None and snapshot.seconds_left is None
        texts.append(f"{duration_text(snapshot.seconds)} so far{', estimating the time left' if is_open else ''}")
    return texts


def duration_text(seconds: float) -> str:
    """Return "45 s", "12 min" or "3 h 20 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
