"""Runs one program behind the kernel's walls, in this process: a script that sandbox.py starts.

The job comes as JSON on standard input, the outcome goes as one line of JSON to standard output. Limits first, then the
wall around files, then the filter of system calls, and the program last: nothing of this can be undone from inside.
"""

import contextlib
import ctypes
import json
import os
import platform
import resource
import struct
import sys
from types import ModuleType
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
UP = b"walls up:"  # said before the program runs

# --- system calls

# What Python, numpy and plain file work need, and nothing that makes a process or a thread, a socket or a signal for
# another process, changes the mode, owner or times of a file (Landlock lets those through), mounts, traces or sets
# limits. Whatever is not here is answered "not implemented", as is all that kernels will invent.
# The call's name: (its number on x86_64, on aarch64); None where it has none.
CALLS: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "pwrite64": (18, 68),
    "lseek": (8, 62), "open": (2, None), "openat": (257, 56), "creat": (85, None), "close": (3, 57), "stat": (4, None),
    "fstat": (5, 80), "lstat": (6, None), "newfstatat": (262, 79), "statx": (332, 291), "access": (21, None),
    "faccessat": (269, 48), "statfs": (137, 43), "fstatfs": (138, 44), "poll": (7, None), "ppoll": (271, 73),
    "select": (23, None), "pselect6": (270, 72), "pipe": (22, None), "pipe2": (293, 59), "dup": (32, 23),
    "dup2": (33, None), "dup3": (292, 24), "getdents": (78, None), "getdents64": (217, 61), "getcwd": (79, 17),
    "chdir": (80, 49), "fchdir": (81, 50), "readlink": (89, None), "readlinkat": (267, 78), "mkdir": (83, None),
    "mkdirat": (258, 34), "rmdir": (84, None), "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276),
    "link": (86, None), "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36), "unlink": (87, None),
    "unlinkat": (263, 35), "ftruncate": (77, 46), "umask": (95, 166), "mmap": (9, 222), "mprotect": (10, 226),
    "munmap": (11, 215), "mremap": (25, 216), "madvise": (28, 233), "brk": (12, 214), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132), "restart_syscall": (219, 128),
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "uname": (63, 160), "sysinfo": (99, 179), "times": (100, 153),
    "time": (201, None), "getrusage": (98, 165), "gettimeofday": (96, 169), "clock_gettime": (228, 113),
    "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "nanosleep": (35, 101), "alarm": (37, None),
    "getitimer": (36, 102), "setitimer": (38, 103), "pause": (34, None), "futex": (202, 98), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "getrandom": (318, 278), "rseq": (334, 293), "exit": (60, 93),
    "exit_group": (231, 94),
}  # fmt: skip
# Calls with one of these as the second argument: fcntl could have a signal sent (F_SETOWN), ioctl do anything at all.
WITH_COMMAND = {
    ("fcntl", (72, 25)): (0, 1, 2, 3, 4, 1030),  # duplicate; flags of the descriptor and of the file
    ("ioctl", (16, 29)): (0x5401, 0x5413, 0x5450, 0x5451),  # is it a terminal, how wide; close on exec
}
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, the kernel's name for it
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, MISSING, KILL = 0x7FFF0000, 0x00050000 | 38, 0x80000000  # 38 is ENOSYS


def filter_calls() -> None:
    """Only `CALLS` from here on, for good. Raises OSError where the kernel or the machine can't."""
    if platform.machine() not in MACHINES:
        raise OSError(f"no table of system calls for {platform.machine()}")
    column, machine = MACHINES[platform.machine()]
    steps = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, machine), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    for (_, numbers), commands in WITH_COMMAND.items():
        steps.append((EQUAL, 0, 2 * len(commands) + 2, numbers[column]))
        steps.append((LOAD, 0, 0, 24))
        steps += [step for command in commands for step in ((EQUAL, 0, 1, command), (RETURN, 0, 0, ALLOW))]
        steps.append((RETURN, 0, 0, MISSING))
    known = [numbers[column] for numbers in CALLS.values()]
    steps += [step for n in known if n is not None for step in ((EQUAL, 0, 1, n), (RETURN, 0, 0, ALLOW))]
    steps.append((RETURN, 0, 0, MISSING))
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    pointer = struct.pack("@HP", len(steps), ctypes.addressof(program))
    checked("seccomp", libc.prctl(22, 2, pointer, 0, 0))  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


# --- files


def landlock(folder: str, readable: list[str]) -> None:
    """Landlock: `folder` can be written, `readable` can be read. Raises OSError where the kernel has none."""
    version = checked("landlock", syscall(444, None, 0, 1))
    files = (1 << 13) - 1 | (version >= 2) << 13 | (version >= 3) << 14 | (version >= 5) << 15  # all there are
    read, write, of_files = 1 << 2 | 1 << 3, 1 << 1 | 1 << 14, 1 << 1 | 1 << 2 | 1 << 14
    special = 1 << 0 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 15  # to execute; devices, sockets, fifos
    # From version 4 on also TCP, from 6 on signals and abstract sockets.
    rules = struct.pack("=QQQ", files, 3, 3)[: 8 if version < 4 else 16 if version < 6 else 24]
    handle = checked("landlock", syscall(444, rules, len(rules), 0))

    def allow(path: str, access: int) -> None:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        access &= files if os.path.isdir(path) else files & of_files
        checked("landlock", syscall(445, handle, 1, struct.pack("=Qi", access, place), 0))
        os.close(place)

    for path in readable:
        allow(path, read)
    allow("/dev/null", read | write)
    allow(folder, ~special)
    checked("landlock", syscall(446, handle, 0))
    os.close(handle)


PRIVATE, BIND = 1 << 14 | 1 << 18, 1 << 14 | 1 << 12  # mount(2), recursively
READ_ONLY = 1 << 5 | 1 << 12 | 1  # of what is mounted already
KEPT = {"nosuid": 1, "nodev": 2, "noexec": 3, "noatime": 10, "nodiratime": 11, "relatime": 21}  # bits of such flags


def namespaces(folder: str, readable: list[str]) -> None:
    """A root of our own in a mount namespace: `readable` read-only, `folder`, and nothing else at all.

    For kernels without Landlock. The folder "root" beside `folder` is the place for it. Raises OSError where an
    unprivileged process may not have namespaces.
    """
    user, group = os.getuid(), os.getgid()
    checked("user namespace", libc.unshare(0x10000000 | 0x00020000 | 0x40000000 | 0x08000000))  # user, mount, net, ipc
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    root = os.path.join(os.path.dirname(folder), "root")
    mount(None, "/", PRIVATE)
    mount("tmpfs", root, 0, kind="tmpfs")
    for path in [*readable, "/dev/null", folder]:
        target = root + path
        if not os.path.exists(target):  # a folder in one that is there already comes with it
            os.makedirs(target if os.path.isdir(path) else os.path.dirname(target), exist_ok=True)
            if not os.path.isdir(path):
                open(target, "x").close()
            mount(path, target, BIND)
    with open("/proc/self/mountinfo") as file:
        mounts = [line.split()[4:6] for line in file]
    for escaped, options in mounts:
        target = escaped.encode().decode("unicode_escape").encode("latin-1").decode()
        if (target + "/").startswith(root + "/") and target != root + folder:
            kept = sum(1 << bit for name, bit in KEPT.items() if name in options.split(","))
            mount(None, target, READ_ONLY | kept)
    os.chdir(root)
    checked("pivot_root", syscall(41 if platform.machine() == "aarch64" else 155, b".", b"."))
    checked("umount", libc.umount2(b".", 2))  # MNT_DETACH: the old root


def mount(source: str | None, target: str, flags: int, kind: str | None = None) -> None:
    words = [os.fsencode(word) if word else None for word in (source, target, kind)]
    checked(f"mount {target}", libc.mount(*words, ctypes.c_ulong(flags), None))


WALLS = {"landlock": landlock, "namespaces": namespaces}


# --- the rest


def limit(limits: dict[str, int]) -> None:
    """Hard limits of this process; without capabilities none can be raised again."""
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu"], limits["cpu"] + 1))  # a signal, a second later the end
    none = dict.fromkeys(("NPROC", "CORE", "MEMLOCK", "MSGQUEUE"), 0)
    for name, most in {"AS": limits["memory"], "FSIZE": limits["file"], "NOFILE": limits["open"], **none}.items():
        if hasattr(resource, f"RLIMIT_{name}"):  # not every system knows all
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))


def give_up_rights() -> None:
    """What root may, and what the owner of a user namespace may in it; and we end with who started us."""
    checked("capset", libc.capset(struct.pack("=Ii", 0x20080522, 0), bytes(24)))
    checked("prctl", libc.prctl(1, 9, 0, 0, 0))  # PR_SET_PDEATHSIG, SIGKILL
    checked("prctl", libc.prctl(4, 0, 0, 0, 0))  # PR_SET_DUMPABLE: no core dumps, not even those that go into a pipe


def shut(job: dict[str, Any]) -> None:
    """All walls up. Raises OSError where one can't be. For "none", the limits and what else can be."""
    if job["wall"] in WALLS:
        checked("prctl", libc.prctl(38, 1, 0, 0, 0))  # PR_SET_NO_NEW_PRIVS, which Landlock and seccomp ask for
        WALLS[job["wall"]](job["folder"], job["readable"])
    os.chdir(job["folder"])
    limit(job["limits"])
    with contextlib.nullcontext() if job["wall"] in WALLS else contextlib.suppress(OSError, AttributeError):
        give_up_rights()
        checked("prctl", libc.prctl(38, 1, 0, 0, 0))
        filter_calls()


def run(program: str) -> tuple[str, str]:
    """How a program ended: "passed", or the name and text of what it raised. It is a module with the name "program"."""
    module = sys.modules["program"] = ModuleType("program")  # dataclasses look theirs up
    try:
        exec(compile(program, "program", "exec"), module.__dict__)
    except MemoryError:
        return "memory", ""
    except BaseException as error:
        return type(error).__name__[:80], str(error)[:1000]
    return "passed", ""


def main() -> None:
    job = json.load(sys.stdin)
    out, empty = os.dup(1), os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(empty, stream)
    try:
        shut(job)
    except OSError as error:
        os.write(out, str(error).encode())
        return
    write, leave, text = os.write, os._exit, json.dumps  # a program may put others in their place
    write(out, UP)
    write(out, text(run(job["program"])).encode() + b"\n")
    leave(0)


def syscall(number: int, *arguments: Any) -> int:
    given = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return int(libc.syscall(ctypes.c_long(number), *given))


def checked(what: str, result: int) -> int:
    """The result of a C function. Raises OSError where it is an error."""
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


if __name__ == "__main__":
    main()
