"""A sandboxed process, from its start to its end: its limits, the lines that it writes, and how it ended."""

import contextlib
import json
import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from isheep.sandbox import child
from isheep.sandbox.surroundings import environment, exceeds_limits, temporary_folder

# What `Outcome.why` says where it is not the name of an exception.
PASSED, NOT_ISOLATED, TIME, MEMORY, DISK, EARLY, WRONG = (
    "passed", "not isolated", "time", "memory", "disk", "ended early", "wrong",
)  # fmt: skip
RESERVED = (PASSED, NOT_ISOLATED, TIME, MEMORY, DISK, EARLY, WRONG)
# Seconds between two checks of the folder's size.
CHECK_INTERVAL = 0.05
# Seconds in which a process that gives no answer ends by itself, if it is about to end.
GRACE = 2.0
# Bytes of one line that a process writes.
MAX_LINE = 2**26
# Bytes of a message without a value. An exception's text has at most 1000 characters (peer.error_message).
MAX_MESSAGE = 2**16


class Limits(NamedTuple):
    """Limits of a program.

    Seconds: `clock` of waiting, generous because a busy machine must make no answer wrong, and `cpu` of computing,
    which ends an endless loop. Bytes: `memory` of address space, `file` in one file, `folder` in all files. Numbers:
    `open` of open files, `entries` of files and folders.
    """

    clock: float = 120.0
    cpu: int = 15
    memory: int = 2**31
    file: int = 2**23
    open: int = 64
    folder: int = 2**26
    entries: int = 2000


class Outcome(NamedTuple):
    """How a program ended.

    `why` is "passed", the name of the exception that it raised (with its text as `message`), "time", "memory", "disk",
    "wrong", "ended early", or "killed by SIGSEGV". The name of a type is never one of these words: an exception class
    `passed` is "exception passed".
    """

    why: str
    message: str = ""

    @property
    def passed(self) -> bool:
        """Whether the program ran to its end, or passed its tests."""
        return self.why == PASSED


def failure(message: Mapping[str, Any]) -> Outcome:
    """Return the outcome of a message with an "error", the name and text of an exception."""
    try:
        name, text = map(str, message["error"])
    except (KeyError, TypeError, ValueError):
        return Outcome(EARLY)
    if name == "MemoryError":
        return Outcome(MEMORY)
    is_reserved = name in RESERVED or name.startswith("killed by ")
    return Outcome(f"exception {name}"[:80] if is_reserved else name[:80], text[:1000])


def read_message(line: bytes) -> dict[str, Any]:
    """Return a line that a process wrote as a message; {} if it is none, or too long for one."""
    if len(line) > MAX_MESSAGE:
        return {}
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


class Process:
    """A started process: child.py with a job, in a temporary folder of its own.

    `stopped` is why it had to be stopped: "time", "disk", or "ended early" for a line that is too long, or for any
    output of a process that has none. `is_silent` says that it closed its output.
    """

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, limits: Limits) -> None:
        self.process, self.folder, self.limits = process, folder, limits
        self.end_time = time.monotonic() + limits.clock
        self.is_isolated, self.is_silent, self.stopped, self.opening = False, False, "", b""
        self.usage = psutil.Process(process.pid)
        # CPU seconds of the process: when they were last read, when the present call began, and those that it may take.
        self.cpu_seconds, self.cpu_start, self.cpu_allowed = 0.0, 0.0, math.inf

    @property
    def descriptor(self) -> int:
        assert self.process.stdout
        return self.process.stdout.fileno()

    def allow(self, seconds: float) -> None:
        """Begin to measure a call that may compute for `seconds`: from the end of the one before it."""
        self.cpu_start = self._read_cpu_seconds() if math.isinf(self.cpu_allowed) else self.cpu_seconds
        self.cpu_allowed = seconds

    def spent(self) -> float:
        """Return the CPU seconds of the present call, which the kernel counts and the program can't change."""
        return self._read_cpu_seconds() - self.cpu_start

    def is_over_time(self) -> bool:
        """Return whether the present call computed for longer than it may; the process counts as stopped then."""
        if self.spent() > self.cpu_allowed:
            self.stopped = TIME
        return self.stopped == TIME

    def _read_cpu_seconds(self) -> float:
        # A process that has ended may have no times any more.
        with contextlib.suppress(psutil.Error):
            times = self.usage.cpu_times()
            self.cpu_seconds = times.user + times.system
        return self.cpu_seconds

    def send(self, pipe: FileIO, data: bytes) -> bool:
        """Write to a pipe that the process reads; return whether it took all of it before it ended or was stopped."""
        os.set_blocking(pipe.fileno(), False)
        view = memoryview(data)
        while view:
            if self._must_stop(None):
                return False
            if not select.select([], [pipe], [], CHECK_INTERVAL)[1]:
                continue
            try:
                view = view[os.write(pipe.fileno(), view) :]
            except BrokenPipeError:
                return False
        return True

    def lines(self, beside: "Process | None" = None) -> Iterator[bytes]:
        """Yield the lines that the process writes, without what child.py writes before them, until it ends or must be
        stopped. Another process `beside` it may stop it too, by what it does to its folder, or by any output."""
        pending: list[bytes] = []
        size = 0
        for chunk in self._chunks(beside):
            first, *later = chunk.split(b"\n")
            pending.append(first)
            size += len(first)
            if size > MAX_LINE:
                self.stopped = EARLY
                return
            if later:
                yield from (b"".join(pending), *later[:-1])
                pending, size = [later[-1]], len(later[-1])

    def _chunks(self, beside: "Process | None") -> Iterator[bytes]:
        while not self._must_stop(beside):
            watched = [self.descriptor, *([beside.descriptor] if beside and not beside.is_silent else [])]
            ready = select.select(watched, [], [], CHECK_INTERVAL)[0]
            if beside and beside.descriptor in ready and beside.wrote_something():
                self.stopped = EARLY
                return
            if self.descriptor not in ready:
                continue
            chunk = os.read(self.descriptor, 2**16)
            if not chunk:
                return
            if self.is_isolated:
                yield chunk
            elif after := self._isolated(chunk):
                yield after

    def wrote_something(self) -> bool:
        """Return whether a process whose output is not read wrote more than child.py does, after which it would wait
        for a reader as long as the clock allows."""
        chunk = os.read(self.descriptor, 2**16)
        self.is_silent = not chunk
        return bool(chunk if self.is_isolated else self._isolated(chunk))

    def _must_stop(self, beside: "Process | None") -> bool:
        """Return whether the process is, or has to be, stopped, for a reason that is then `stopped`."""
        if time.monotonic() > self.end_time or self.is_over_time():
            self.stopped = TIME
        elif any(process.is_too_big() for process in (self, beside) if process):
            self.stopped = DISK
        return bool(self.stopped)

    def _isolated(self, chunk: bytes) -> bytes:
        """Return what follows child.READY, with which the output begins as soon as the isolation is complete."""
        self.opening += chunk
        if not self.opening.startswith(child.READY):
            return b""
        self.is_isolated = True
        return self.opening[len(child.READY) :]

    def is_too_big(self) -> bool:
        """Return whether the folder holds more than the limits allow."""
        return exceeds_limits(self.folder, self.limits.folder, self.limits.entries)

    def outcome(self) -> Outcome:
        """Return how the process ended that gave no result, and end it if it has not."""
        if self.stopped:
            return Outcome(self.stopped)
        try:
            code = self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            return Outcome(EARLY)
        if not self.is_isolated:
            for _ in self.lines():
                break
        if not self.is_isolated:
            text = self.opening.decode(errors="replace").strip()
            return Outcome(NOT_ISOLATED, text or f"child.py ended with {code}")
        # The kernel ends a process that computes for too long by either of two signals.
        if code in (-signal.SIGXCPU, -signal.SIGKILL):
            return Outcome(TIME)
        return Outcome(f"killed by {signal.Signals(-code).name}" if code < 0 else EARLY)

    def close(self) -> None:
        """End the process."""
        # The process is killed before it is waited for, so that no other process has its number yet. macOS raises
        # PermissionError for a process that has ended.
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        if self.process.stdout:
            self.process.stdout.close()
        self.process.wait()


@contextlib.contextmanager
def start(
    job: Mapping[str, Any], isolation: str, limits: Limits, readable: Sequence[str], inherited: Sequence[int] = ()
) -> Iterator[Process]:
    """Start a process with a job, and end it on leaving. It may read `readable` and has the descriptors `inherited`."""
    with temporary_folder() as box, tempfile.TemporaryFile("w+") as file:
        folder = box / "work"
        settings = {"isolation": isolation, "folder": str(folder), "limits": limits._asdict(), "readable": readable}
        json.dump({**job, **settings}, file)
        file.seek(0)
        popen = subprocess.Popen(
            [sys.executable, "-s", "-P", str(Path(child.__file__))],
            stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder, env=environment(folder),
            start_new_session=True, pass_fds=inherited,
        )  # fmt: skip
        process = Process(popen, folder, limits)
        try:
            yield process
        finally:
            process.close()
