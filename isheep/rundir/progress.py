"""The progress of long work for the user: plain lines, and a bar on a terminal."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False)


@contextlib.contextmanager
def progress(label: str, total: int | None, num_done: int) -> Iterator[Callable[[int], None]]:
    """Show a bar with rate and remaining time on a terminal, and nothing elsewhere.

    Yields the function that advances it by a number of rows. `total` is None if the number of rows is not known.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    start_time, num_new = time.monotonic(), 0
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task(label, total=total, completed=num_done, rate="")

        def advance(rows: int) -> None:
            nonlocal num_new
            num_new += rows
            bars.update(bar, advance=rows, rate=f"{num_new / max(time.monotonic() - start_time, 1e-9):.1f}/s")

        yield advance
