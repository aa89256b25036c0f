"""A folder of a run: a file or folder whose name has no `.part` is complete.

Rows are appended, synced, recorded in the run's manifest and renamed; a file that is read is compared with its record.
Events are written beside them, and nothing reads them to decide anything.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from isheep.batching import batched, ordered_map
from isheep.errors import UserError, one_line
from isheep.records import Record
from isheep.rundir import atomic, integrity, jsonl, kept_replies, manifest, progress
from isheep.rundir.atomic import commit_file, commit_folder, copy_atomically, fsync
from isheep.rundir.entries import walk
from isheep.rundir.events import append_event
from isheep.rundir.jsonl import JsonlRows
from isheep.rundir.lock import check_lock
from isheep.rundir.memory import take_peak_memory
from isheep.rundir.progress import console

R = TypeVar("R", bound=Record)
Batches = Callable[[Sequence[R]], Iterator[Sequence[R]]]
"""A function from the existing rows (whole batches) of a file to its missing batches, in order."""

# The number of computed rows between two fsyncs.
ROWS_PER_SYNC = 1000


def refuse(problem: str) -> None:
    """Raise UserError with the line about a file that is not as the run made it."""
    raise UserError(problem)


@dataclass(frozen=True)
class RunFolder:
    """A folder of a run, such as iter-1. `root` is the run folder, which has the events (run.jsonl).

    `reuse_from` returns the path of a file ("iter-1/pairs.jsonl") in another run, of the same sweep or one whose files
    are taken over, if this run would make the same file again; None otherwise. `on_problem` gets the line about a file
    to be read that is not as the run made it. `is_read_only` says that nothing is made: then a recorded file that is
    gone is such a problem, too. `is_recorded` says that the run has a manifest, in which finished files are recorded.
    """

    path: Path
    root: Path
    reuse_from: Callable[[str], Path | None] = lambda file: None
    on_problem: Callable[[str], None] = refuse
    is_read_only: bool = False
    is_recorded: bool = False

    def __truediv__(self, name: str) -> "RunFolder":
        """Return the folder `name` in this one."""
        return replace(self, path=self.path / name)

    def has(self, name: str) -> bool:
        """Return whether a file or folder exists, which means that it is complete."""
        exists = (self.path / name).exists()
        if (
            not exists
            and self.is_read_only
            and (text := integrity.describe_missing(self.root, self._relative_path(name)))
        ):
            self.on_problem(text)
        return exists

    def checked(self, name: str) -> Path:
        """Return the path of a file or folder that is about to be read, after comparing it with the run's manifest."""
        for text in integrity.describe_changes(self.root, self._relative_path(name)):
            self.on_problem(text)
        # A run takes the rows of an existing file for its own.
        if not self.is_read_only and (foreign := integrity.describe_foreign(self.root, self._relative_path(name))):
            self.on_problem(foreign)
        return self.path / name

    def ensure(self, name: str, check: Callable[[Path], object] = lambda path: None) -> bool:
        """Return whether a file or folder exists, after copying it from another run if one has it.

        `check` gets the path in the other run before it is copied, and raises UserError if the file is damaged.
        """
        if not self.has(name) and (source := self.reuse_from(self._relative_path(name))):
            # The folder eval/NAME belongs to the file eval/NAME.json.
            source_folder, folder_name = source.with_suffix(""), str(Path(name).with_suffix(""))
            other_root = source.parents[len(Path(self._relative_path(name)).parts) - 1]
            other_run = RunFolder(source.parent, other_root, is_read_only=True)
            other_run.checked(source.name)
            check(source)
            if source_folder != source and source_folder.is_dir():
                other_run.checked(source_folder.name)
                copy_atomically(source_folder, self.path / folder_name, self._recorder(folder_name))
            copy_atomically(source, self.path / name, self._recorder(name))
            kept_replies.kept_for(self.path / name).clear()
            self.event(file=self._relative_path(name), shared_from=os.path.relpath(source, self.root))
            source_label = os.path.relpath(source, self.root.parent)
            console.print(f"{self._relative_path(name)}: shared from {source_label}", markup=False)
        return self.has(name)

    def read(self, name: str, row_type: type[R]) -> JsonlRows[R]:
        """Return the rows of a complete file. Raises UserError, naming the line, if one is not a row of this type."""
        return jsonl.read_rows(self.checked(name), row_type)

    def map_batches(
        self,
        name: str,
        row_type: type[R],
        make_batch: Callable[[int], Sequence[R]],
        num_rows: int,
        batch_size: int,
        max_in_flight: int = 1,
        check: Callable[[Sequence[R]], None] = lambda existing: None,
        requests_per_row: int = 1,
    ) -> JsonlRows[R]:
        """Return the rows of `name`; if the file is not complete, make its missing batches in order first.

        `make_batch(start)` returns the rows from index `start` to `start + batch_size` (fewer at the end). Its result
        must depend on `start` alone, because a killed run resumes after the whole batches that exist. Up to
        `max_in_flight` calls run at a time, in threads. `check` gets the rows that exist before any is made, and raises
        UserError if they do not belong to this call. An engine is asked `requests_per_row` times for a row, so that the
        progress counts rows. Raises UserError if a finished file has not `num_rows` rows.
        """

        def missing_batches(existing: Sequence[R]) -> Iterator[Sequence[R]]:
            check(existing)
            return ordered_map(make_batch, range(len(existing), num_rows, batch_size), max_in_flight)

        rows = self.records(
            name, row_type, missing_batches, batch_size, num_rows, check=check, requests_per_row=requests_per_row
        )
        check(rows)
        return rows

    def records(
        self,
        name: str,
        row_type: type[R],
        make_batches: Batches[R],
        batch_size: int,
        num_rows: int | None = None,
        by_model: bool = True,
        check: Callable[[Sequence[R]], None] = lambda rows: None,
        requests_per_row: int = 1,
    ) -> JsonlRows[R]:
        """Return the rows of `name`; if the file is not complete, make its missing batches first.

        Each batch is appended to NAME.part, which is renamed at the end. The whole batches of an existing NAME.part are
        kept and the rows after them are made again, with what a server has answered to them (kept_replies), so that a
        run that was killed at any moment gives the same file as one that was not. `num_rows` is the number of rows, if
        it is known: raises UserError if a complete file has another one. `by_model` says that a model wrote the rows,
        so that the event counts their tokens. `check` gets the rows of another run's file before it is copied.
        `requests_per_row` is that of `map_batches`.
        """

        read_complete = partial(_read_complete, row_type=row_type, num_rows=num_rows)
        if self.ensure(name, lambda source: check(read_complete(source))):
            return read_complete(self.checked(name))
        part = self.path / f"{name}.part"
        # The name may have a folder, as in standard/nq.jsonl.
        part.parent.mkdir(parents=True, exist_ok=True)
        existing, length = jsonl.whole_batches(part, row_type, batch_size)
        if num_rows is not None and len(existing) > num_rows:
            # Rows that this run has not written.
            existing, length = JsonlRows(part, row_type), 0
        start_time, num_existing, num_tokens = time.monotonic(), len(existing), 0
        rows = JsonlRows(self.path / name, row_type, existing.starts[:])
        with (
            part.open("ab") as file,
            kept_replies.keep_replies(self.path / name) as kept,
            self.stage(name, num_rows, num_existing, "rows", requests_per_row) as advance,
        ):
            file.truncate(length)
            for batch in make_batches(existing):
                check_lock(self.root)
                for row in batch:
                    line = row.model_dump_json().encode() + b"\n"
                    file.write(line)
                    rows.starts.append(length)
                    length += len(line)
                    num_tokens += getattr(row, "tokens", 0)
                file.flush()
                fsync(file.fileno())
                kept.clear()
                advance(len(batch))
                progress.show_rows(batch)
            fsync(file.fileno())
        self._recorder(name)(part)
        commit_file(part)
        cost = {"tokens": num_tokens} if by_model and "tokens" in row_type.__annotations__ else {}
        self._report_file(name, start_time, rows=len(rows), made=len(rows) - num_existing, **cost)
        return rows

    def write(self, name: str, row_type: type[R], rows: Iterable[R]) -> JsonlRows[R]:
        """Write rows that are computed without a model, unless the file exists; return the rows of the file."""

        def missing_batches(existing: Sequence[R]) -> Iterator[Sequence[R]]:
            return batched(islice(rows, len(existing), None), ROWS_PER_SYNC)

        return self.records(name, row_type, missing_batches, batch_size=1, by_model=False)

    def write_json_list(self, name: str, values: Iterable[Any]) -> None:
        """Write values as a JSON list, one after the other, unless the file exists."""
        if not self.ensure(name):
            start_time = time.monotonic()
            atomic.write_json_list(self.path / name, values, self._recorder(name))
            self._report_file(name, start_time)

    def json(self, name: str, make: Callable[[], Any]) -> Any:
        """Return the content of a JSON file (its name may have a folder: eval/lamb.json), made first if it is missing.

        Raises UserError if the file is not JSON.
        """
        path = self.path / name
        if not self.ensure(name, _read_json):
            start_time = time.monotonic()
            with self.stage(name):
                atomic.write_json(path, make(), self._recorder(name))
            self._report_file(name, start_time)
        return _read_json(self.checked(name))

    def write_text(self, name: str, text: str) -> None:
        """Write a file, in place of an existing one."""
        atomic.write_text(self.path / name, text, self._recorder(name))

    def write_json(self, name: str, value: Any) -> None:
        """Write a value as JSON, in place of an existing file."""
        atomic.write_json(self.path / name, value, self._recorder(name))

    def artifact(
        self, name: str, make: Callable[[Path], None], check: Callable[[Path], object] = lambda path: None
    ) -> Path:
        """Return the path of a folder of files, made first if it is missing.

        `make` writes into NAME.part, which may hold the checkpoints of a run that was killed. The folder is synced and
        renamed when `make` returns. `check` gets the folder of another run before it is copied.
        """
        if not self.ensure(name, check):
            start_time = time.monotonic()
            part = self.path / f"{name}.part"
            part.mkdir(parents=True, exist_ok=True)
            with self.stage(name):
                make(part)
            self._recorder(name)(part)
            commit_folder(part)
            self._report_file(name, start_time)
        return self.checked(name)

    def stage(self, name: str, *counts: Any) -> AbstractContextManager[Callable[[int], None]]:
        """Return a block inside which the progress shows that the file `name` is made; `counts` as progress.stage."""
        return progress.stage(self._relative_path(name), *counts)

    def event(self, **fields: Any) -> None:
        """Append a line to run.jsonl that says what happened, when, and at what cost."""
        check_lock(self.root)
        append_event(self.root, fields)

    def notify(self, text: str, **fields: Any) -> None:
        """Print a line for the user, and write it as an event, with more fields if any are given."""
        self.event(note=text, **fields)
        console.print(text, markup=False, soft_wrap=True)

    def _recorder(self, name: str) -> atomic.BeforeCommit:
        """Return the function that records a file or folder in the manifest before it gets its name.

        With the scores in eval/NAME.json, the files are recorded that the benchmark has written into eval/NAME/.
        """

        def record(part: Path) -> None:
            check_lock(self.root)
            if not self.is_recorded:
                return
            contents = {self.path / name: part}
            if (folder := (self.path / name).with_suffix("")) != self.path / name and folder.is_dir():
                contents[folder] = folder
            files: dict[str, Path] = {}
            for path, content in contents.items():
                paths = [file for file in walk(content) if file.is_file()] if content.is_dir() else [content]
                files |= {str((path / file.relative_to(content)).relative_to(self.root)): file for file in paths}
            manifest.record_files(self.root, files)

        return record

    def _relative_path(self, name: str) -> str:
        return str((self.path / name).relative_to(self.root))

    def _report_file(self, name: str, start_time: float, **fields: Any) -> None:
        """Write an event and print a line about a file that was made since `start_time`."""
        seconds = round(time.monotonic() - start_time, 3)
        self.event(file=self._relative_path(name), seconds=seconds, **fields, peak_memory=take_peak_memory())
        num_rows = f"{fields['rows']} rows, " if "rows" in fields else ""
        rate = f", {fields['made'] / seconds:.1f} rows/s" if fields.get("made") and seconds > 1 else ""
        console.print(f"{self._relative_path(name)}: {num_rows}{seconds:.1f} s{rate}", markup=False)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        # A file in an adapter's folder is made with the adapter.
        target = f"the folder {path.parent}" if path.parent.name == "adapter" else "the file"
        raise UserError(f"{path}: not JSON ({one_line(error)}); delete {target} to have it made again") from None


def _read_complete(path: Path, row_type: type[R], num_rows: int | None) -> JsonlRows[R]:
    """Return the rows of a complete file. Raises UserError if it has another number of rows than `num_rows`."""
    rows = jsonl.read_rows(path, row_type)
    if num_rows is not None and len(rows) != num_rows:
        raise UserError(
            f"{path}: {len(rows)} rows found, {num_rows} expected; "
            "put it back as it was, or delete the file to have it made again"
        )
    return rows
