"""Run code that a model wrote in an isolated, limited process, without access to the network, files or other processes.

The program runs in one process with one thread, which is always ended. It cannot start another process. It has no
network, an empty environment, and one folder to write in; it can read Python's libraries and the system's (child.py).
Replacing Python functions by None, as other benchmarks do, is no protection.

The process that runs the model's code never decides whether it passed. Tests run in a second process, which calls the
program's functions and gets plain values (peer.py), or the values are compared in the parent (`call`).
"""

import json
import os
import secrets
import select
import socket
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

from isheep.errors import UserError
from isheep.sandbox import child, values
from isheep.sandbox.process import NOT_ISOLATED, PASSED, WRONG, Limits, Outcome, Process, failure, read_message, start

__all__ = [
    "CALL_LIMITS",
    "DEFAULT_LIMITS",
    "Limits",
    "Outcome",
    "Program",
    "CallReply",
    "call",
    "child",
    "find_breach",
    "find_isolation",
    "num_cores",
    "read_value",
    "run",
    "run_all",
]

DEFAULT_LIMITS = Limits()
# Of all calls of one program together.
CALL_LIMITS = Limits(clock=300.0, cpu=60)
SYSTEM_PATHS = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/dev/urandom")


class Program(NamedTuple):
    """Code that a model wrote, and tests that run in a process of their own.

    `setup` is code that the tests need and that runs before them, such as imports. `names` are the names of the
    program that the tests use; every other name in the tests refers to the tests' own definitions.
    """

    code: str
    setup: str
    names: tuple[str, ...]
    tests: str


class CallReply(NamedTuple):
    """What a program's function returned, as a line of JSON (values.to_line), and the CPU seconds that it took, as they
    were measured here."""

    line: bytes
    seconds: float

    @property
    def text(self) -> bytes:
        """The value as JSON. Equal texts are equal values, but for NaN."""
        return self.line.partition(b'"value": ')[2][:-1]

    def value(self) -> Any:
        """Return the value. Raises what values.decode raises if the program wrote something else."""
        return read_value(self.text)


def read_value(text: bytes) -> Any:
    """Return the value of a reply's text."""
    return values.decode(json.loads(text))


def run_all(programs: Sequence[str | Program], isolation: str, limits: Limits = DEFAULT_LIMITS) -> list[Outcome]:
    """Run programs, as many at a time as there are cores, and return their outcomes in order."""
    with ThreadPoolExecutor(num_cores()) as pool:
        return list(pool.map(lambda program: run(program, isolation, limits), programs))


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(program: str | Program, isolation: str, limits: Limits = DEFAULT_LIMITS) -> Outcome:
    """Run one program with an isolation from `find_isolation`. Raises UserError if the isolation fails after all.

    A program without tests passes if it says that it came to its end, by a token. It can find the token in its own
    process and lie; code that is judged therefore has tests, which run in another process, or it is called.
    """
    if isinstance(program, str):
        return _checked(_run(program, isolation, limits))
    return _checked(_run_tests(program, isolation, limits))


def call(
    code: str,
    name: str,
    inputs: Sequence[Sequence[Any]],
    isolation: str,
    accept: Callable[[int, CallReply], bool],
    seconds: float,
    limits: Limits = CALL_LIMITS,
) -> tuple[int, Outcome]:
    """Call a program's function with each of `inputs` (lists of arguments, as JSON has them), in order.

    Each reply goes to `accept` with its index, here and not in the program's process, until one is not accepted: the
    outcome is then "wrong". Returns how many were accepted, and the outcome. A call may take `seconds` of CPU time,
    which are measured here. Raises UserError if the isolation fails after all.
    """
    with ExitStack() as stack:
        get_request, put_request = _pipe(stack)
        number = get_request.fileno()
        job = {"role": "calls", "program": code, "name": name, "requests": number}
        process = stack.enter_context(start(job, isolation, limits, _library_paths(), (number,)))
        get_request.close()
        accepted, outcome = _answer_all(process, put_request, inputs, accept, seconds)
        return accepted, _checked(outcome)


def _answer_all(
    process: Process,
    requests: FileIO,
    inputs: Sequence[Sequence[Any]],
    accept: Callable[[int, CallReply], bool],
    seconds: float,
) -> tuple[int, Outcome]:
    """Return how many replies of a started program were accepted, and the outcome."""
    lines = process.lines()
    loaded = next(lines, None)
    if loaded is None or (message := read_message(loaded)).get("loaded") is not True:
        return 0, process.outcome() if loaded is None else failure(message)
    for index, arguments in enumerate(inputs):
        process.allow(seconds)
        if not process.send(requests, json.dumps(arguments).encode() + b"\n"):
            return index, process.outcome()
        line = next(lines, None)
        if line is None or process.is_over_time():
            return index, process.outcome()
        if line.startswith(b'{"error"'):
            return index, failure(read_message(line))
        if not accept(index, CallReply(line, process.spent())):
            return index, Outcome(WRONG)
    return len(inputs), Outcome(PASSED)


def _checked(outcome: Outcome) -> Outcome:
    if outcome.why == NOT_ISOLATED:
        raise UserError(f"no sandbox for code that a model wrote: {outcome.message}; --unsafe-code runs it without one")
    return outcome


def _run(program: str, isolation: str, limits: Limits = DEFAULT_LIMITS, readable: Sequence[str] = ()) -> Outcome:
    """Run a program alone."""
    token = secrets.token_hex(16)
    job = {"role": "alone", "program": program, "token": token}
    with start(job, isolation, limits, [*_library_paths(), *readable]) as process:
        line = next(process.lines(), None)
        if line is None:
            return process.outcome()
        message = read_message(line)
        return Outcome(PASSED) if message.get("token") == token else failure(message or {"error": None})


def _run_tests(program: Program, isolation: str, limits: Limits) -> Outcome:
    """Run the tests of a program in one process and the program in another one, with two pipes between them."""
    with ExitStack() as stack:
        (get_request, put_request), (get_reply, put_reply) = _pipe(stack), _pipe(stack)

        def started(job: dict[str, Any], requests: FileIO, replies: FileIO) -> Process:
            ends = {"requests": requests.fileno(), "replies": replies.fileno()}
            return stack.enter_context(start(job | ends, isolation, limits, _library_paths(), tuple(ends.values())))

        job = {"program": program.code, "setup": program.setup, "names": program.names, "tests": program.tests}
        server = started({"role": "serve"}, get_request, put_reply)
        tester = started({"role": "test", **job}, put_request, get_reply)
        # The last copies are those of the two processes, so that either sees the end of the other.
        for end in (get_request, put_request, get_reply, put_reply):
            end.close()
        return _verdict(tester, server)


def _verdict(tester: Process, server: Process) -> Outcome:
    line = next(tester.lines(beside=server), None)
    if line is None:
        return tester.outcome()
    message = read_message(line)
    if "lost" in message:
        return server.outcome()
    return Outcome(PASSED) if message.get("passed") is True else failure(message)


def _pipe(stack: ExitStack) -> tuple[FileIO, FileIO]:
    """Return the ends of a pipe, to read and to write, which are closed with the stack at the latest."""
    read, write = os.pipe()
    return stack.enter_context(FileIO(read, "rb")), stack.enter_context(FileIO(write, "wb"))


@cache
def _library_paths() -> tuple[str, ...]:
    """Return the paths that a program may read: the libraries of this Python and of the system."""
    python = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    prefixes = [str(Path(prefix) / name) for prefix in (sys.base_prefix, sys.prefix) for name in ("lib", "lib64")]
    paths = dict.fromkeys([*SYSTEM_PATHS, *prefixes, *python])
    return tuple(path for path in paths if os.path.exists(path))


# --- probing


@cache
def find_isolation(unsafe: bool = False) -> str:
    """Return the isolation of files that works on this machine; "none" if none does and `unsafe` allows that.

    Each kind is tested with a program that tries to break out. Raises UserError if none works.
    """
    reasons = []
    for isolation in child.ISOLATIONS:
        breach = find_breach(isolation)
        if not breach:
            return isolation
        reasons.append(f"{isolation}: {breach}")
    if unsafe:
        return "none"
    raise UserError(
        f"no sandbox holds on this machine for code that a model wrote ({'; '.join(reasons)}): take Linux 6.2 or newer,"
        " or one with user namespaces, or run the code unguarded with --unsafe-code"
    )


# Each attempt that does not raise is a hole. `secret` and `port` lie outside the sandbox.
ATTEMPTS = """
import ctypes, os, socket
secret, parent, port, libc = {secret!r}, os.getppid(), {port}, ctypes.CDLL(None)
def is_zero(result):
    if result != 0: raise OSError
attempts = dict(
    write=lambda: open(secret, 'a'), truncate=lambda: os.close(os.open(secret, os.O_RDONLY | os.O_TRUNC)),
    cut=lambda: os.truncate(secret, 0), create=lambda: open(secret + '.new', 'w'), mode=lambda: os.chmod(secret, 0o777),
    times=lambda: os.utime(secret), delete=lambda: os.unlink(secret), move=lambda: os.rename(secret, 'here'),
    link=lambda: os.link(secret, 'linked'), network=lambda: socket.create_connection(('127.0.0.1', port), 2),
    socket=lambda: socket.socket(socket.AF_UNIX), process=lambda: os.fork() or os._exit(0),
    command=lambda: os.posix_spawn('/bin/true', ['true'], {{}}), signal=lambda: os.kill(parent, 0),
    trace=lambda: is_zero(libc.ptrace(16, parent, 0, 0)), environment=lambda: open(f'/proc/{{parent}}/environ').read(1),
)
if {hidden}: attempts['read'] = lambda: open(secret).read(1)
open('own', 'w').write('x'); os.mkdir('folder'); os.rename('own', 'folder/own')
holes = []
for name, attempt in attempts.items():
    try: attempt()
    except Exception: continue
    holes.append(name)
if holes: raise RuntimeError('it lets through: ' + ', '.join(holes))
"""


def find_breach(isolation: str) -> str:
    """Return what is wrong with an isolation in one line, "" if it holds: a program really tries to break out."""
    with tempfile.TemporaryDirectory(prefix="isheep-") as outside, socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        # One file that the program may not read, and one that it may read, such as a library in the user's own folder.
        for name in ("hidden", "readable"):
            folder = Path(outside).resolve() / name
            folder.mkdir()
            secret = folder / "secret"
            secret.write_text("as it was")
            attempts = ATTEMPTS.format(secret=str(secret), port=port, hidden=name == "hidden")
            outcome = _run(attempts, isolation, readable=[str(folder)] if name == "readable" else ())
            if not outcome.passed:
                return outcome.message or outcome.why
            if [file.name for file in folder.iterdir()] != ["secret"] or secret.read_text() != "as it was":
                return "a file outside was changed"
        if select.select([server], [], [], 0)[0]:
            return "a connection came through"
    return ""
