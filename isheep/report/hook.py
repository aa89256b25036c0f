"""The report while a run goes on: report.html is written again after stages, and once more when the run ends."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from isheep.report import REPORT_FILE, write_report
from isheep.rundir import progress
from isheep.rundir.folder import RunFolder

# The least time between the end of a report and the next one, in seconds, and in durations of the last report: so at
# most a thirtieth of a run's time goes into its report.
LEAST_SECONDS = 5.0
LEAST_DURATIONS = 30

# What the data of a page has if it was written when no process worked on the run.
FINISHED = '"underWay": false'

# The report itself, and files to which every start of a run writes, whether it adds to the run or not.
UNREPORTED_FILES = (REPORT_FILE, "lock", "progress.json", "python.json", "run.jsonl")


@contextlib.contextmanager
def live_report(run: RunFolder, is_wanted: bool, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Write the report of a run after stages inside the block, and at its end, also if the block fails.

    An error in the report never ends the run: it is printed as one line and noted in run.jsonl, once. `clock` returns
    seconds.
    """
    if not is_wanted:
        yield
        return
    reporter = _Reporter(run, clock)
    try:
        with progress.listen(reporter.write_if_due):
            yield
    finally:
        # A complete run that was started again has nothing new to report.
        if not _is_current(run.root / REPORT_FILE):
            reporter.write(is_under_way=False)


class _Reporter:
    """Writes the report of a run, and remembers when it did so."""

    def __init__(self, run: RunFolder, clock: Callable[[], float]) -> None:
        self.run, self.clock = run, clock
        self.next_time = clock() + LEAST_SECONDS
        self.is_writing = self.has_failed = False

    def write_if_due(self, stage_changed: bool) -> None:
        if stage_changed and not self.is_writing and self.clock() >= self.next_time:
            self.write(is_under_way=True)

    def write(self, is_under_way: bool) -> None:
        start = self.clock()
        self.is_writing = True
        try:
            write_report(self.run.root, is_under_way=is_under_way)
        # Whatever it is: the run is worth more than its report.
        except Exception as error:
            if not self.has_failed:
                self.has_failed = True
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                # The disk may be full.
                with contextlib.suppress(OSError):
                    self.run.notify(f"{REPORT_FILE} can't be written ({reason}); the run is not affected")
        finally:
            self.is_writing = False
        now = self.clock()
        self.next_time = now + max(LEAST_SECONDS, LEAST_DURATIONS * (now - start))


def _is_current(report: Path) -> bool:
    """Return whether a report of a run that was not under way is the newest file of its run folder."""
    if not report.is_file() or FINISHED not in report.read_text(encoding="utf-8"):
        return False
    run_files = (path for path in report.parent.rglob("*") if path.is_file() and path.name not in UNREPORTED_FILES)
    written_at = report.stat().st_mtime_ns
    return all(path.stat().st_mtime_ns < written_at for path in run_files)


def refresh_report(run_dir: Path) -> None:
    """Write the report of a run again if it has one, after a command that added something to the run."""
    if (run_dir / REPORT_FILE).exists():
        _Reporter(RunFolder(run_dir, run_dir), time.monotonic).write(is_under_way=False)
