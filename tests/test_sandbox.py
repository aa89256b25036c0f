"""Programs that try to break out of the sandbox, behind each wall that this machine has."""

import os
import platform
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from isheep import sandbox
from isheep.errors import UserError
from isheep.sandbox import Limits, Outcome, child

QUICK = Limits(clock=60, cpu=1, memory=2**29, file=2**20, folder=2**22, entries=500)


@pytest.fixture(scope="session", params=list(child.ISOLATIONS))
def wall(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if wrong := sandbox.find_breach(name):
        pytest.skip(f"{name} does not hold here: {wrong}")
    return name


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file of ours that the program must neither read nor change."""
    (tmp_path / "secret").write_text("as it was")
    return tmp_path / "secret"


# --- what may be done


def test_plain_programs_pass(wall: str) -> None:
    program = """
from dataclasses import dataclass
import json, os, random, tempfile, decimal, zoneinfo
import numpy as np
@dataclass
class Point:
    x: "int"
assert Point(1).x == 1 and np.allclose(np.linalg.inv(np.eye(8) * 2), np.eye(8) / 2)
with open("own.txt", "w") as file: print("text", file=file)
with tempfile.TemporaryFile() as file: file.write(b"1")
os.makedirs("a/b"); os.rename("own.txt", "a/b/c"); assert open("a/b/c").read() == "text\\n"
assert __name__ != "__main__" and input is not None
"""
    assert sandbox.run(program, wall, Limits()) == Outcome("passed")


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("assert 1 == 2", "AssertionError"),
        ("def f(:", "SyntaxError"),
        ("input()", "EOFError"),
        ("exit(0)", "SystemExit"),
        ("import os; os._exit(0)", "ended early"),
        ("import ctypes; ctypes.string_at(0)", "killed by SIGSEGV"),
        ("def f(): return f()\nf()", "RecursionError"),
        ("'\ud800'", "UnicodeEncodeError"),
        ("import os\nfor n in range(3, 64):\n try: os.write(n, b'no wall\\n')\n except OSError: pass", "ended early"),
        ("import os\nfor n in range(3, 64):\n try: os.write(n, b'[1]\\n')\n except OSError: pass", "ended early"),
    ],
)
def test_what_does_not_pass_says_why(program: str, why: str) -> None:
    assert sandbox.run(program, sandbox.find_isolation(unsafe=True), QUICK).why == why


def test_a_batch_keeps_its_order(wall: str) -> None:
    result = sandbox.run_all([f"assert {n} % 3" for n in range(7)], wall, QUICK)
    assert [entry.passed for entry in result] == [False, True, True, False, True, True, False]


# --- what must be stopped


def succeed(attempts: Sequence[str], wall: str, setting: str = "") -> list[str]:
    """Those of the attempts that did not raise an OSError."""
    program = f"""
import fcntl, multiprocessing, os, resource, shutil, signal, subprocess, time
{setting}
through = []
for attempt in {list(attempts)!r}:
    try: eval(attempt)
    except OSError: continue
    through.append(attempt)
if through: raise ValueError("\\n".join(through))
"""
    result = sandbox.run(program, wall, QUICK)
    assert result.why in ("passed", "ValueError"), result
    return result.message.split("\n") if result.message else []


OUTSIDE = [
    "open(secret, 'w')", "open(secret, 'a')", "open(secret, 'r+')", "open(secret + '.new', 'w')",
    "os.truncate(secret, 0)", "os.open(secret, os.O_RDONLY | os.O_TRUNC)", "os.unlink(secret)",
    "os.rename(secret, 'mine')", "os.rename('own', secret)", "os.link(secret, 'mine')", "os.chmod(secret, 0o777)",
    "os.utime(secret)", "os.chown(secret, 1, 1)", "os.setxattr(secret, 'user.x', b'1')", "shutil.rmtree(folder)",
    "os.mkdir(folder + '/new')", "os.symlink('own', folder + '/new')", "os.mkfifo(folder + '/new')",
    "(os.symlink(folder, 'away'), open('away/secret', 'a'))", "open('/tmp/isheep-escaped', 'w')",
    "open('/dev/shm/isheep-escaped', 'w')", "os.chroot('.')", "os.mknod('device', 0o20666, os.makedev(1, 1))",
    "open(secret).read()", "os.listdir(folder)", "open('/etc/passwd').read()", "os.listdir('/var')",
    "open('/proc/self/environ').read()", "open(f'/proc/{os.getppid()}/environ').read()", "os.listdir('/proc')",
    "open('/etc/shadow').read()", "open('/dev/mem')", "open('/dev/kmsg')", "open('/dev/tty')", "open(os.__file__, 'a')",
]  # fmt: skip


def test_no_file_outside(wall: str, outside: Path) -> None:
    setting = f"secret, folder = {str(outside)!r}, {str(outside.parent)!r}\nopen('own', 'w').close()"
    assert succeed(OUTSIDE, wall, setting) == []
    assert [path.name for path in outside.parent.iterdir()] == ["secret"]
    assert outside.read_text() == "as it was" and outside.stat().st_mode & 0o777 == 0o644
    assert not any(Path(folder, "isheep-escaped").exists() for folder in ("/tmp", "/dev/shm"))


def test_the_environment_holds_no_key(wall: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    program = "import os; assert 'secret' not in str(dict(os.environ)); assert os.environ['HOME'] == os.getcwd()"
    assert sandbox.run(program, wall, QUICK).passed


def test_no_network(wall: str, tmp_path: Path) -> None:
    program = """
import ctypes, socket
for family, kind, place in (
    (socket.AF_INET, socket.SOCK_STREAM, {tcp!r}), (socket.AF_INET, socket.SOCK_DGRAM, {tcp!r}),
    (socket.AF_UNIX, socket.SOCK_STREAM, {unix!r}), (socket.AF_NETLINK, socket.SOCK_RAW, (0, 0)),
):
    try: socket.socket(family, kind).connect(place)
    except OSError: continue
    raise ValueError(f"{{family}} {{kind}}")
try: socket.socketpair()
except OSError: pass
else: raise ValueError("a pair of sockets, one of which could be sent elsewhere")
assert ctypes.CDLL(None).syscall(425, 8, ctypes.create_string_buffer(120)) < 0, "io_uring makes sockets too"
"""
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "socket"))
        unix.listen()
        result = sandbox.run(program.format(tcp=tcp.getsockname(), unix=str(tmp_path / "socket")), wall, QUICK)
        assert result.passed, result
        for server in (tcp, unix):
            server.setblocking(False)
            with pytest.raises(BlockingIOError):
                server.accept()


PROCESSES = [
    "[os.fork() for _ in iter(int, 1)]",
    "os.fork() or (os.setsid(), os.fork(), time.sleep(98765))",
    "os.posix_spawn('/bin/sleep', ['sleep', '98765'], {})",
    "subprocess.Popen(['/bin/sleep', '98765'], start_new_session=True)",
    "os.execv('/bin/sleep', ['sleep', '98765'])",
    "multiprocessing.Process(target=time.sleep, args=(98765,)).start()",
]


def test_no_other_process(wall: str) -> None:
    earlier = set(psutil.Process().children(recursive=True))
    assert succeed(PROCESSES, wall) == []
    assert set(psutil.Process().children(recursive=True)) <= earlier
    assert ["sleep", "98765"] not in [entry.info["cmdline"] for entry in psutil.process_iter(["cmdline"])]


def test_no_thread(wall: str) -> None:
    assert sandbox.run("import threading; threading.Thread(target=print).start()", wall, QUICK).why == "RuntimeError"


# fork, vfork and clone, also by the numbers of x32; clone3, setsid, unshare, setns, mount, ptrace, prlimit64, kill,
# tkill, tgkill, process_vm_readv, pidfd_open, pidfd_getfd, bpf, perf_event_open, userfaultfd, keyctl, memfd_create,
# shmget, setrlimit, capset, prctl, seccomp, name_to_handle_at, open_by_handle_at, personality, sched_setaffinity
RAW = [57, 58, 56, 57 | 1 << 30, 435, 112, 272, 308, 165, 101, 302, 62, 200, 234, 310, 434, 438, 321, 298, 323, 250]
RAW += [319, 29, 160, 126, 157, 317, 303, 304, 135, 203]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers are those of x86_64")
def test_system_calls_that_are_not_there(wall: str) -> None:
    program = f"""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
open_ones = [n for n in {RAW} if libc.syscall(n, os.getppid(), 0, 0, 0, 0) != -1 or ctypes.get_errno() != 38]
assert not open_ones, open_ones
"""
    assert sandbox.run(program, wall, QUICK) == Outcome("passed")


PARENT = [
    "os.kill(os.getppid(), 9)", "os.killpg(os.getppid(), 9)", "signal.pidfd_send_signal(3, 9)",
    "resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))", "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
    "os.sched_setaffinity(os.getppid(), [0])", "fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
    "fcntl.fcntl(0, fcntl.F_SETSIG, 9)", "fcntl.ioctl(0, 0x8901, os.getppid())",
    "resource.setrlimit(resource.RLIMIT_CPU, (9, 9))",
]  # fmt: skip


def test_no_reaching_the_parent(wall: str) -> None:
    assert succeed(PARENT, wall) == []


@pytest.mark.parametrize(
    ("program", "limits", "why"),
    [
        ("while True: pass", QUICK, "time"),
        ("import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", QUICK, "time"),
        ("try:\n while True: pass\nexcept BaseException: pass", QUICK, "time"),
        ("10**10**9", QUICK, "time"),
        ("import time; time.sleep(10**6)", QUICK._replace(clock=1), "time"),
        ("bytearray(10**10)", QUICK, "memory"),
        ("found = []\nwhile True: found.append(bytearray(10**6))", QUICK, "memory"),
        ("import mmap; mmap.mmap(-1, 10**10)", QUICK, "OSError"),
        ("open('big', 'wb').write(bytes(10**8))", QUICK, "OSError"),
        ("open('sparse', 'wb').truncate(10**12)", QUICK, "OSError"),
        ("n = 0\nwhile True:\n open(str(n), 'wb').write(bytes(10**5)); n += 1", QUICK, "disk"),
        ("import os\nwhile True: os.mkdir('d'); os.chdir('d')", QUICK, "disk"),
        ("import os\nwhile True: os.mkdir('d', 0o300); os.chdir('d')", QUICK, "disk"),
        ("found = []\nwhile True: found.append(open('own', 'w'))", QUICK, "OSError"),
        ("import sys\nfor _ in range(30): print('x' * 10**6); print('x' * 10**6, file=sys.stderr)", QUICK, "passed"),
        ("raise ValueError('x' * 10**8)", QUICK, "ValueError"),
        ("raise type('x' * 10**7, (Exception,), {})", QUICK, "x" * 80),
    ],
)
def test_limits(program: str, limits: Limits, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = sandbox.run(program, sandbox.find_isolation(unsafe=True), limits)
    assert result.why == why and len(result.message) <= 1000
    assert not list(tmp_path.iterdir())


def test_a_program_ends_with_who_started_it(tmp_path: Path) -> None:
    wall = sandbox.find_isolation(unsafe=True)
    program = "import time; open('begun', 'w').close(); time.sleep(10**6)"
    starter = f"from isheep import sandbox; sandbox.run({program!r}, {wall!r})"
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", starter], env=environment) as parent:
        while not list(tmp_path.glob("*/work/begun")):
            assert parent.poll() is None
        children = psutil.Process(parent.pid).children()
        parent.kill()
        assert len(children) == 1
        assert not psutil.wait_procs(children, timeout=60)[1]


# --- probing


def test_a_leaking_wall_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = sandbox.find_breach("none")
    assert wrong.startswith("it lets through: ") and {"write", "create", "delete"} <= set(wrong[17:].split(", "))
    monkeypatch.setattr(sandbox.child, "ISOLATIONS", {"none": None})
    with pytest.raises(UserError) as refused:
        sandbox.find_isolation.__wrapped__()
    assert "--unsafe-code" in str(refused.value) and "\n" not in str(refused.value)
    assert sandbox.find_isolation.__wrapped__(unsafe=True) == "none"


def test_a_wall_that_can_not_be_put_up_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_library_paths", lambda: ("/nowhere/at/all",))
    assert "/nowhere/at/all" in sandbox.find_breach("landlock")
    with pytest.raises(UserError, match="--unsafe-code"):
        sandbox.run("1", "landlock")


def test_without_a_wall_limits_still_hold() -> None:
    assert sandbox.run("while True: pass", "none", QUICK).why == "time"
    assert sandbox.run("bytearray(10**10)", "none", QUICK).why == "memory"
