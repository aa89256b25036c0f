"""The progress of long work: what engines, stages and trainers report, and who listens.

Engines call `report` at each decoding step or finished request, stages run inside `stage`, and a view subscribes with
`listen` and reads `snapshot` when it wants to. Without a listener nothing is shown. The counts are those of the whole
process, because an engine may work in threads that know nothing of the stage that they work for.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from isheep.records import AssessedPair, Pair, Record, Reply
from isheep.rundir.artifacts import stage_words
from isheep.rundir.events import append_event, read_events
from isheep.rundir.snapshot import PROGRESS_FILE, Snapshot, expected_tokens, write_snapshot

console = Console(stderr=True, highlight=False)

SECONDS_PER_WRITE = 1.0
"""The least time between two versions of progress.json."""
SECONDS_PER_EXAMPLE = 10.0
MEASURED_SHARE = 0.02
"""The time left is estimated once this share of the expected work is measured, or"""
MEASURED_SECONDS, MEASURED_REQUESTS = 5.0, 10
"""so many seconds, and, where the length of answers is not known beforehand, so many answers."""
EXAMPLE_CHARACTERS = 400

Listener = Callable[[bool], None]
"""Called after each change; with True if a stage has begun or ended."""
LossListener = Callable[[int | None, int, Mapping[str, float]], None]
"""Called with the iteration, the optimizer step and the losses of a training, by name."""
IsKept = Callable[[Record, int | None], bool | None]
"""Whether a row of an iteration passes the filters that read ratings; None if it has none, or if that is open."""


class StageCounts:
    """The counts of one stage since it began, or continued, in this process."""

    def __init__(self, name: str, total: int | None, num_done: int, unit: str, requests_per_row: int, now: float):
        self.iteration, self.words = stage_words(name)
        self.total, self.num_done, self.unit, self.requests_per_row = total, num_done, unit, requests_per_row
        self.total_is_estimate = False
        self.num_saved = self.num_requests = self.num_unsaved = self.num_tokens = 0
        self.limit: int | None = None
        self.begun = now
        # The time, requests and tokens at the first report. What came before it includes the loading of the model.
        self.first: tuple[float, int, int] | None = None

    def add(self, tokens: int, requests: int, now: float) -> None:
        """Count tokens and finished requests of an engine."""
        self.num_tokens += tokens
        self.num_requests += requests
        self.num_unsaved += requests
        self.first = self.first or (now, self.num_requests, self.num_tokens)

    def save(self, rows: int, now: float) -> None:
        """Count rows that are complete: saved in a file, or steps of a training."""
        self.num_saved += rows
        self.num_unsaved = max(0, self.num_unsaved - rows * self.requests_per_row)
        # The engine may have reported nothing.
        self.num_requests = max(self.num_requests, self.num_saved * self.requests_per_row)
        self.first = self.first or (now, self.num_requests, self.num_tokens)

    @property
    def rows(self) -> int:
        """The rows that are done: those saved, and those of the current batch whose requests have ended."""
        rows = self.num_done + self.num_saved + self.num_unsaved // self.requests_per_row
        return rows if self.total is None or self.total_is_estimate else min(rows, self.total)

    def tokens_per_second(self, now: float) -> float | None:
        return self._rate(self.num_tokens, 2, now) if self.num_tokens else None

    def seconds_left(self, now: float) -> float | None:
        """Return how long the stage is expected to go on, from its tokens if an engine reports them, else its rows.

        None as long as too little is measured: an estimate from the first steps would change by factors.
        """
        if self.total is None or self.first is None:
            return None
        requests = (self.total - self.num_done) * self.requests_per_row
        if self.num_requests >= requests:
            return 0.0
        amount, index, expected, num_missing = self.num_requests, 1, float(requests), 0
        if self.num_tokens:
            tokens = expected_tokens(requests, self.num_requests, self.num_tokens, self.limit)
            if tokens is None:
                return None
            amount, index, expected = self.num_tokens, 2, tokens
            num_missing = max(0, MEASURED_REQUESTS - self.num_requests)
        is_long = now - self.first[0] >= MEASURED_SECONDS and not num_missing
        if not is_long and amount - self.first[index] < MEASURED_SHARE * expected:
            return None
        rate = self._rate(amount, index, now)
        return max(0.0, expected - amount) / rate if rate else None

    def _rate(self, amount: int, index: int, now: float) -> float | None:
        """Return an amount per second since the first report, or since the beginning if there was no other report."""
        if self.first is None:
            return None
        start, before = self.first[0], self.first[index]
        if amount == before or now <= start:
            start, before = self.begun, 0
        return (amount - before) / (now - start) if now > start else None


class Tracker:
    """The stages under way in this process, and what is worth showing of them. Any thread may report."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.lock = clock, threading.RLock()
        self.stages: list[StageCounts] = []
        self.listeners: list[Listener] = []
        self.loss_listeners: list[LossListener] = []
        self.run_dirs: list[Path] = []
        # The lines of note_once that were printed (None), or are in the events of a run.
        self.notes: set[tuple[str, Path | None]] = set()
        self.num_iterations = 0
        self.is_kept: IsKept = lambda row, iteration: None
        self.facts: dict[str, str] = {}
        self.num_rated = self.num_kept = 0
        self.example: dict[str, str] = {}
        self.example_time: float | None = None
        self.iteration: int | None = None

    # --- what engines, stages and trainers call

    def report(self, tokens: int = 0, rows: int = 0) -> None:
        """Count new tokens and finished requests of an engine."""
        with self.lock:
            if not self.stages:
                return
            self.stages[-1].add(tokens, rows, self.clock())
        self._notify(False)

    def expect(self, max_tokens: int) -> None:
        """Say how many tokens a request has at most, so that the time left can be estimated before any has ended."""
        with self.lock:
            if self.stages:
                self.stages[-1].limit = max_tokens

    def expect_rows(self, total: int, exact: bool = False) -> None:
        """Say how many rows the stage will have, or, unless `exact`, will probably have."""
        with self.lock:
            if self.stages:
                self.stages[-1].total, self.stages[-1].total_is_estimate = total, not exact

    def set_fact(self, name: str, text: str) -> None:
        """Show a short text, such as a loss, until the next iteration begins."""
        with self.lock:
            self.facts[name] = text
        self._notify(False)

    def note_once(self, text: str) -> None:
        """Print a line for the user, once in this process, and keep it among the events of a run that is under way."""
        with self.lock:
            keys = [(text, run_dir) for run_dir in [None, *self.run_dirs] if (text, run_dir) not in self.notes]
            self.notes.update(keys)
        for _, run_dir in keys:
            if run_dir is None:
                console.print(text, markup=False, soft_wrap=True)
            elif all(event.get("note") != text for event in read_events(run_dir)):
                append_event(run_dir, {"note": text})

    def report_losses(self, step: int, losses: Mapping[str, float]) -> None:
        """Report the losses of a training after an optimizer step: "loss", and "held-out loss" where it is measured."""
        for name, value in losses.items():
            self.set_fact(name, f"{value:.3f}")
        for listener in list(self.loss_listeners):
            listener(self.iteration, step, losses)

    def show_example(self, **fields: str) -> None:
        """Show a fresh text of the model by field, if the last one has been shown long enough."""
        if self.wants_example():
            with self.lock:
                self.example = {name: text[:EXAMPLE_CHARACTERS] for name, text in fields.items() if text.strip()}
                self.example_time = self.clock()

    def wants_example(self) -> bool:
        """Return whether somebody listens and the last example has been shown long enough."""
        if not self.listeners:
            return False
        return self.example_time is None or self.clock() - self.example_time >= SECONDS_PER_EXAMPLE

    def show_rows(self, rows: Sequence[Record]) -> None:
        """Count the rated rows that are kept so far, and show one of the rows as an example."""
        if not self.listeners or not rows:
            return
        with self.lock:
            verdicts = [verdict for row in rows if (verdict := self.is_kept(row, self.iteration)) is not None]
            self.num_rated, self.num_kept = self.num_rated + len(verdicts), self.num_kept + sum(verdicts)
        if verdicts:
            self.set_fact("kept so far", share_text(self.num_kept, self.num_rated))
        self.show_example(**example_fields(rows[-1]))

    @contextlib.contextmanager
    def stage(
        self, name: str, total: int | None = None, num_done: int = 0, unit: str = "rows", requests_per_row: int = 1
    ) -> Iterator[Callable[[int], None]]:
        """Count the work of a stage inside the block; yields the function to call with a number of finished rows.

        `name` is the file that the stage makes ("iter-1/pairs.jsonl"). `total` is None if the number of rows is not
        known, `num_done` are those that exist. An engine is asked `requests_per_row` times for each row. A stage inside
        another one shows the words of the outer one.
        """
        stage = StageCounts(name, total, num_done, unit, requests_per_row, self.clock())
        with self.lock:
            if self.stages:
                stage.iteration, stage.words = self.stages[0].iteration, self.stages[0].words
            else:
                self.example, self.example_time = {}, None
                if stage.iteration != self.iteration:
                    self.iteration = stage.iteration
                    self.facts, self.num_rated, self.num_kept = {}, 0, 0
            self.stages.append(stage)
        self._notify(True)

        def advance(rows: int) -> None:
            with self.lock:
                stage.save(rows, self.clock())
            self._notify(False)

        try:
            yield advance
            self._notify(True)
        finally:
            with self.lock:
                self.stages.remove(stage)

    # --- the state that a view reads

    def snapshot(self) -> Snapshot | None:
        """Return the state of the innermost stage, or None if none is under way."""
        with self.lock:
            if not self.stages:
                return None
            stage, now = self.stages[-1], self.clock()
            return Snapshot(
                iteration=stage.iteration,
                iterations=self.num_iterations,
                stage=stage.words,
                rows=stage.rows,
                total=stage.total,
                unit=stage.unit,
                total_is_estimate=stage.total_is_estimate,
                tokens_per_second=stage.tokens_per_second(now),
                seconds=now - stage.begun,
                seconds_left=stage.seconds_left(now),
                facts=dict(self.facts),
                example=dict(self.example),
            )

    @contextlib.contextmanager
    def listen(self, listener: Listener) -> Iterator[None]:
        """Call `listener` after each change inside the block."""
        self.listeners.append(listener)
        try:
            yield
        finally:
            self.listeners.remove(listener)

    @contextlib.contextmanager
    def listen_to_losses(self, listener: LossListener) -> Iterator[None]:
        """Call `listener` with the losses of each training inside the block."""
        self.loss_listeners.append(listener)
        try:
            yield
        finally:
            self.loss_listeners.remove(listener)

    @contextlib.contextmanager
    def run(self, run_dir: Path, num_iterations: int, is_kept: IsKept = lambda row, iteration: None) -> Iterator[None]:
        """Keep progress.json in the folder of a run up to date inside the block, for `isheep run --watch`.

        The file is removed at the end. A block inside another one of the same folder changes nothing.
        """
        if run_dir in self.run_dirs:
            yield
            return
        self.run_dirs.append(run_dir)
        self.num_iterations, self.is_kept, self.iteration = num_iterations, is_kept, None
        self.facts, self.num_rated, self.num_kept = {}, 0, 0
        try:
            with self.listen(self._file_writer(run_dir)):
                yield
        finally:
            self.run_dirs.remove(run_dir)
            for name in (PROGRESS_FILE, f"{PROGRESS_FILE}.part"):
                (run_dir / name).unlink(missing_ok=True)

    def _file_writer(self, run_dir: Path) -> Listener:
        last_time: float | None = None

        def write(stage_changed: bool) -> None:
            nonlocal last_time
            with self.lock:
                now = self.clock()
                is_due = stage_changed or last_time is None or now - last_time >= SECONDS_PER_WRITE
                if is_due and (snapshot := self.snapshot()):
                    last_time = now
                    # The file is only for `isheep run --watch`. The run does not end because it can't be written: what
                    # the run itself writes next tells the user that the disk is full.
                    with contextlib.suppress(OSError):
                        write_snapshot(run_dir, snapshot)

        return write

    def _notify(self, stage_changed: bool) -> None:
        """Call the listeners. The lock is free meanwhile: a view may hold one of its own while it reads `snapshot`."""
        for listener in list(self.listeners):
            listener(stage_changed)


def share_text(part: int, total: int) -> str:
    """Return "18 of 24 (75%)"."""
    return f"{part} of {total} ({part / total:.0%})" if total else f"{part} of {total}"


def example_fields(row: Record) -> dict[str, str]:
    """Return the texts of a row that are worth a look."""
    if isinstance(row, Reply):
        return {"reply": row.text}
    if not isinstance(row, Pair):
        return {}
    fields = {"instruction": row.content, "output": row.output}
    if isinstance(row, AssessedPair):
        fields |= {f"{name} rating": grade.reply for name, grade in row.grades.items()}
    return fields


tracker = Tracker()
report, expect, expect_rows, set_fact = tracker.report, tracker.expect, tracker.expect_rows, tracker.set_fact
show_example, wants_example, show_rows = tracker.show_example, tracker.wants_example, tracker.show_rows
stage, run, listen, snapshot = tracker.stage, tracker.run, tracker.listen, tracker.snapshot
note_once, report_losses, listen_to_losses = tracker.note_once, tracker.report_losses, tracker.listen_to_losses
