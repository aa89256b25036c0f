"""Run code that a model wrote where it can do no harm: in an isolated, limited process that is always ended.

The program runs in one process with one thread. It can start no other, so none outlives it. It has no network, an empty
environment, and one folder to write in; it reads Python's libraries and the system's, nothing else (child.py). This
protects the machine, not the score: tests run beside the code that they test, and code that wants to can fake "passed".
Replacing Python functions by None, as other benchmarks do, is no protection.
"""

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import IO, NamedTuple

from isheep.errors import UserError
from isheep.sandbox import child

NOT_ISOLATED = "not isolated"
# Seconds between two checks of the folder's size.
CHECK_INTERVAL = 0.05
SYSTEM_PATHS = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/dev/urandom")


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


DEFAULT_LIMITS = Limits()


class Outcome(NamedTuple):
    """How a program ended.

    `why` is "passed", the name of the exception that it raised (with its text as `message`), "time", "memory", "disk",
    "ended early", or "killed by SIGSEGV".
    """

    why: str
    message: str = ""

    @property
    def passed(self) -> bool:
        """Whether the program ran to its end."""
        return self.why == "passed"


def run_all(programs: Sequence[str], isolation: str, limits: Limits = DEFAULT_LIMITS) -> list[Outcome]:
    """Run programs, as many at a time as there are cores, and return their outcomes in order."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        return list(pool.map(lambda program: run(program, isolation, limits), programs))


def run(program: str, isolation: str, limits: Limits = DEFAULT_LIMITS) -> Outcome:
    """Run one program with an isolation from `find_isolation`. Raises UserError if the isolation fails after all."""
    outcome = _run(program, isolation, limits)
    if outcome.why == NOT_ISOLATED:
        raise UserError(f"no sandbox for code that a model wrote: {outcome.message}; --unsafe-code runs it without one")
    return outcome


def _run(program: str, isolation: str, limits: Limits = DEFAULT_LIMITS, readable: Sequence[str] = ()) -> Outcome:
    with _temporary_folder() as box, tempfile.TemporaryFile("w+") as job:
        folder = box / "work"
        settings = {"program": program, "isolation": isolation, "folder": str(folder), "limits": limits._asdict()}
        json.dump({**settings, "readable": [*_library_paths(), *readable]}, job)
        job.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-s", "-P", str(Path(__file__).with_name("child.py"))],
            stdin=job, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder, env=_environment(folder),
            start_new_session=True,
        )  # fmt: skip
        assert process.stdout
        try:
            stopped, output = _wait(process.stdout, folder, limits)
        finally:
            # The process is killed before it is waited for, so that no other process has its number yet. macOS raises
            # PermissionError for a process that has ended.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.stdout.close()
            code = process.wait()
    return Outcome(stopped) if stopped else _outcome(output, code)


def _wait(pipe: IO[bytes], folder: Path, limits: Limits) -> tuple[str, bytes]:
    """Return why the program must be stopped ("time" or "disk"; "" if it ended), and its output until then."""
    end, output = time.monotonic() + limits.clock, b""
    while not output.endswith(b"\n") and len(output) < 2**16:
        if time.monotonic() > end:
            return "time", b""
        if _exceeds_limits(folder, limits):
            return "disk", b""
        if select.select([pipe], [], [], CHECK_INTERVAL)[0]:
            chunk = os.read(pipe.fileno(), 2**16)
            if not chunk:
                break
            output += chunk
    return "", output


def _outcome(output: bytes, code: int) -> Outcome:
    """Return the outcome that child.py reports, or that its exit code means if it reports none.

    Its output begins with child.READY as soon as the isolation is complete.
    """
    if not output.startswith(child.READY):
        return Outcome(NOT_ISOLATED, output.decode(errors="replace").strip() or f"child.py ended with {code}")
    try:
        why, message = json.loads(output[len(child.READY) :])
        return Outcome(str(why), str(message))
    except (ValueError, TypeError):
        # There is no report, or the program wrote one of its own.
        if output.endswith(b"\n"):
            return Outcome("ended early")
        # The kernel ends a process that computes for too long by either signal.
        if code in (-signal.SIGXCPU, -signal.SIGKILL):
            return Outcome("time")
        return Outcome(f"killed by {signal.Signals(-code).name}" if code < 0 else "ended early")


# --- what a program gets


def _environment(folder: Path) -> dict[str, str]:
    """Return an environment without keys or paths of the user's; hashes are the same in every run.

    Libraries must use one thread, because the program can start no other. Python itself may need LD_LIBRARY_PATH.
    """
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    libraries = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return {
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        **threads,
        **libraries,
    }


@cache
def _library_paths() -> tuple[str, ...]:
    """Return the paths that a program may read: the libraries of this Python and of the system."""
    python = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    prefixes = [str(Path(prefix) / name) for prefix in (sys.base_prefix, sys.prefix) for name in ("lib", "lib64")]
    paths = dict.fromkeys([*SYSTEM_PATHS, *prefixes, *python])
    return tuple(path for path in paths if os.path.exists(path))


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Yield a temporary folder with "work" and "root" in it, and delete it whatever the program did to it."""
    box = Path(tempfile.mkdtemp(prefix="isheep-")).resolve()
    try:
        for name in ("work", "root"):
            (box / name).mkdir()
        yield box
    finally:
        try:
            shutil.rmtree(box)
        except (OSError, RecursionError):
            # Folders that can't be read, or thousands of them inside each other.
            for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
                subprocess.run([*command, "--", str(box)], stderr=subprocess.DEVNULL, check=False)


def _exceeds_limits(folder: Path, limits: Limits) -> bool:
    """Return whether a folder holds more than the limits allow, or can't be read."""
    pending, size, entries = [str(folder)], 0, 0
    while pending:
        try:
            with os.scandir(pending.pop()) as inside:
                for entry in inside:
                    entries += 1
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                    if size > limits.folder or entries > limits.entries:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
        except FileNotFoundError:
            # Deleted since it was listed.
            continue
        except OSError:
            return True
    return False


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
