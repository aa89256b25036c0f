"""Code that a model wrote, run where it can do no harm: a process of its own, limited, walled in, and always ended.

The program runs in one process with one thread: it can make no other, so none outlives it. It has no network, an empty
environment, and one folder to write in; it reads Python's libraries and the system's, nothing else. child.py has how.
The walls guard the machine, not the score: tests run beside the code that they test, and code that wants to can fake
"passed". "The usual guard", Python functions replaced by None, is no wall.
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

NO_WALL = "no wall"
TICK = 0.05  # seconds between two looks at the folder
SYSTEM = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/dev/urandom")


class Limits(NamedTuple):
    """Seconds and bytes."""

    wall: float = 120.0  # by the clock; generous, since a busy machine must make nobody's answer wrong
    cpu: int = 15  # of computing: what ends an endless loop
    memory: int = 2**31  # of addresses
    file: int = 2**23  # in one file
    open: int = 64  # files at a time
    folder: int = 2**26  # in all files, looked at every `TICK`
    entries: int = 2000  # files and folders, likewise


USUAL = Limits()


class Outcome(NamedTuple):
    """How a program ended: "passed", or why it did not; for one that raised an exception `message` is its text."""

    why: str  # "passed", the exception's name, "time", "memory", "disk", "ended early", "killed by SIGSEGV"
    message: str = ""

    @property
    def passed(self) -> bool:
        return self.why == "passed"


def run_all(programs: Sequence[str], wall: str, limits: Limits = USUAL) -> list[Outcome]:
    """How each program ended, in order; as many run at a time as there are cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(cores) as pool:
        return list(pool.map(lambda program: run(program, wall, limits), programs))


def run(program: str, wall: str, limits: Limits = USUAL) -> Outcome:
    """Run one program behind a wall of `find_wall`. Raises UserError where the wall can't be put up after all."""
    outcome = _run(program, wall, limits)
    if outcome.why == NO_WALL:
        raise UserError(f"no sandbox for code that a model wrote: {outcome.message}; --unsafe-code runs it without one")
    return outcome


def _run(program: str, wall: str, limits: Limits = USUAL, readable: Sequence[str] = ()) -> Outcome:
    with _folder() as box, tempfile.TemporaryFile("w+") as job:
        folder = box / "work"
        what = {"program": program, "wall": wall, "folder": str(folder), "limits": limits._asdict()}
        json.dump({**what, "readable": [*_libraries(), *readable]}, job)
        job.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-s", "-P", str(Path(__file__).with_name("child.py"))],
            stdin=job, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder, env=_environment(folder),
            start_new_session=True,
        )  # fmt: skip
        assert process.stdout
        try:
            ended, said = _wait(process.stdout, folder, limits)
        finally:  # not waited for yet, so that nobody else has its number
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a dead one
                os.killpg(process.pid, signal.SIGKILL)
            process.stdout.close()
            code = process.wait()
    return Outcome(ended) if ended else _outcome(said, code)


def _wait(pipe: IO[bytes], folder: Path, limits: Limits) -> tuple[str, bytes]:
    """Why we stop waiting ("time" or "disk", "" where it is done), and what was said until then."""
    end, said = time.monotonic() + limits.wall, b""
    while not said.endswith(b"\n") and len(said) < 2**16:
        if time.monotonic() > end:
            return "time", b""
        if _too_much(folder, limits):
            return "disk", b""
        if select.select([pipe], [], [], TICK)[0]:
            more = os.read(pipe.fileno(), 2**16)
            if not more:
                break
            said += more
    return "", said


def _outcome(said: bytes, code: int) -> Outcome:
    """What child.py says at the end, or how it ended without a word. Its first byte is there once the walls are up."""
    if not said.startswith(child.UP):
        return Outcome(NO_WALL, said.decode(errors="replace").strip() or f"walls.py ended with {code}")
    try:
        why, message = json.loads(said[len(child.UP) :])
        return Outcome(str(why), str(message))
    except (ValueError, TypeError):  # nothing was said, or it was the program that spoke
        if said.endswith(b"\n"):
            return Outcome("ended early")
        if code in (-signal.SIGXCPU, -signal.SIGKILL):  # the kernel's two ways to end who computes for too long
            return Outcome("time")
        return Outcome(f"killed by {signal.Signals(-code).name}" if code < 0 else "ended early")


# --- what a program gets


def _environment(folder: Path) -> dict[str, str]:
    """Nothing of ours: no keys, no paths. The same hashes in every run, and no threads, which it could not make."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    libraries = {
        name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ
    }  # Python's own, at times
    return {
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        **threads,
        **libraries,
    }


@cache
def _libraries() -> tuple[str, ...]:
    """What can be read: the libraries of this Python and of the system."""
    ours = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    base = [str(Path(prefix) / name) for prefix in (sys.base_prefix, sys.prefix) for name in ("lib", "lib64")]
    return tuple(path for path in dict.fromkeys([*SYSTEM, *base, *ours]) if os.path.exists(path))


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A temporary folder with "work" and "root" in it. It goes in the end, whatever was done to it."""
    box = Path(tempfile.mkdtemp(prefix="isheep-")).resolve()
    try:
        for name in ("work", "root"):
            (box / name).mkdir()
        yield box
    finally:
        try:
            shutil.rmtree(box)
        except (OSError, RecursionError):  # folders that can't be read, or thousands of them in each other
            for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
                subprocess.run([*command, "--", str(box)], stderr=subprocess.DEVNULL, check=False)


def _too_much(folder: Path, limits: Limits) -> bool:
    """Whether a folder holds more than it may. One that hides what it holds does."""
    left, size, entries = [str(folder)], 0, 0
    while left:
        try:
            with os.scandir(left.pop()) as inside:
                for entry in inside:
                    entries += 1
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                    if size > limits.folder or entries > limits.entries:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        left.append(entry.path)
        except FileNotFoundError:  # deleted while we looked
            continue
        except OSError:
            return True
    return False


# --- probing


@cache
def find_wall(unsafe: bool = False) -> str:
    """The wall around files that holds on this machine, "none" where none does and `unsafe` allows it.

    Each is tried by a program that tries to break out. Raises UserError where none holds.
    """
    reasons = []
    for wall in child.WALLS:
        if not (wrong := breach(wall)):
            return wall
        reasons.append(f"{wall}: {wrong}")
    if unsafe:
        return "none"
    raise UserError(
        f"no sandbox holds on this machine for code that a model wrote ({'; '.join(reasons)}): take Linux 6.2 or newer,"
        " or one with user namespaces, or run the code unguarded with --unsafe-code"
    )


# Each line that does not raise is a hole. Formatted with what lies outside, for the program to reach at.
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


def breach(wall: str) -> str:
    """What is wrong with a wall in one line, "" where it holds: a program really tries to break out."""
    with tempfile.TemporaryDirectory(prefix="isheep-") as outside, socket.create_server(("127.0.0.1", 0)) as server:
        # One file that nobody may read, and one that may be read: a library's, in our user's own folder.
        for name in ("hidden", "readable"):
            place = Path(outside).resolve() / name
            place.mkdir()
            secret = place / "secret"
            secret.write_text("as it was")
            port = server.getsockname()[1]
            attempts = ATTEMPTS.format(secret=str(secret), port=port, hidden=name == "hidden")
            found = _run(attempts, wall, readable=[str(place)] if name == "readable" else ())
            if not found.passed:
                return found.message or found.why
            if [file.name for file in place.iterdir()] != ["secret"] or secret.read_text() != "as it was":
                return "a file outside was changed"
        if select.select([server], [], [], 0)[0]:
            return "a connection came through"
    return ""
