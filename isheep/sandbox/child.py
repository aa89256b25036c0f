"""Isolate this process by means of the kernel, then run one program in it: a script that isheep.sandbox starts.

The job is JSON on standard input, the outcome lines of JSON on standard output. The limits come first, then the
isolation of files, then the filter of system calls, and the program last (peer.py): it can undo none of them.
"""

import contextlib
import ctypes
import importlib.util
import json
import os
import platform
import resource
import struct
import sys
from types import ModuleType
from typing import Any

libc = ctypes.CDLL(None, use_errno=True)
# Written before the program runs.
READY = b"isolated:"

# --- system calls

# The calls that Python, numpy and plain file work need. None of them starts a process or a thread, opens a socket,
# signals another process, changes the mode, owner or times of a file (which Landlock allows), mounts, traces or sets
# limits. All other calls, also those of future kernels, fail with "not implemented".
# The call's name: (its number on x86_64, on aarch64); None if the machine has no such call.
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
# Calls that are allowed with these second arguments alone: fcntl could send signals (F_SETOWN), ioctl do anything.
WITH_COMMAND = {
    # Duplicate a descriptor; the flags of a descriptor and of a file.
    ("fcntl", (72, 25)): (0, 1, 2, 3, 4, 1030),
    # Whether it is a terminal, and how wide; close on exec.
    ("ioctl", (16, 29)): (0x5401, 0x5413, 0x5450, 0x5451),
}
# (column of CALLS, the kernel's number of the machine)
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
# 38 is ENOSYS.
ALLOW, MISSING, KILL = 0x7FFF0000, 0x00050000 | 38, 0x80000000


def filter_calls() -> None:
    """Allow this process only `CALLS` from here on, with seccomp. Raises OSError if the kernel or the machine can't."""
    if platform.machine() not in MACHINES:
        raise OSError(f"no table of system calls for {platform.machine()}")
    column, machine = MACHINES[platform.machine()]
    steps = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, machine), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    for (_, numbers), commands in WITH_COMMAND.items():
        steps.append((EQUAL, 0, 2 * len(commands) + 2, numbers[column]))
        steps.append((LOAD, 0, 0, 24))
        steps += [step for command in commands for step in ((EQUAL, 0, 1, command), (RETURN, 0, 0, ALLOW))]
        steps.append((RETURN, 0, 0, MISSING))
    allowed = [numbers[column] for numbers in CALLS.values()]
    steps += [step for n in allowed if n is not None for step in ((EQUAL, 0, 1, n), (RETURN, 0, 0, ALLOW))]
    steps.append((RETURN, 0, 0, MISSING))
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    pointer = struct.pack("@HP", len(steps), ctypes.addressof(program))
    # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
    checked("seccomp", libc.prctl(22, 2, pointer, 0, 0))


# --- files


def landlock(folder: str, readable: list[str]) -> None:
    """Restrict this process with Landlock: it can write `folder` and read `readable`.

    Raises OSError if the kernel has no Landlock.
    """
    version = checked("landlock", syscall(444, None, 0, 1))
    all_rights = (1 << 13) - 1 | (version >= 2) << 13 | (version >= 3) << 14 | (version >= 5) << 15
    read, write, of_files = 1 << 2 | 1 << 3, 1 << 1 | 1 << 14, 1 << 1 | 1 << 2 | 1 << 14
    # To execute a file; to make devices, sockets and fifos; device control.
    special = 1 << 0 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 15
    # Version 4 added rules for TCP, version 6 those for signals and abstract sockets.
    rules = struct.pack("=QQQ", all_rights, 3, 3)[: 8 if version < 4 else 16 if version < 6 else 24]
    handle = checked("landlock", syscall(444, rules, len(rules), 0))

    def allow(path: str, access: int) -> None:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        access &= all_rights if os.path.isdir(path) else all_rights & of_files
        checked("landlock", syscall(445, handle, 1, struct.pack("=Qi", access, descriptor), 0))
        os.close(descriptor)

    for path in readable:
        allow(path, read)
    allow("/dev/null", read | write)
    allow(folder, ~special)
    checked("landlock", syscall(446, handle, 0))
    os.close(handle)


# Flags of mount(2): private or bind mounts, recursively; read-only for a mount that exists already.
PRIVATE, BIND = 1 << 14 | 1 << 18, 1 << 14 | 1 << 12
READ_ONLY = 1 << 5 | 1 << 12 | 1
# The bits of mount options that a remount must repeat.
MOUNT_OPTIONS = {"nosuid": 1, "nodev": 2, "noexec": 3, "noatime": 10, "nodiratime": 11, "relatime": 21}


def namespaces(folder: str, readable: list[str]) -> None:
    """Give this process a root of its own in a mount namespace: only `readable` (read-only) and `folder` (writable).

    For kernels without Landlock. The root is mounted on the folder "root" beside `folder`. Raises OSError if an
    unprivileged process may not have namespaces.
    """
    user, group = os.getuid(), os.getgid()
    # New user, mount, network and IPC namespaces.
    checked("user namespace", libc.unshare(0x10000000 | 0x00020000 | 0x40000000 | 0x08000000))
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    root = os.path.join(os.path.dirname(folder), "root")
    mount(None, "/", PRIVATE)
    mount("tmpfs", root, 0, kind="tmpfs")
    for path in [*readable, "/dev/null", folder]:
        bind(path, root + path)
    make_read_only(root, except_for=root + folder)
    os.chdir(root)
    checked("pivot_root", syscall(41 if platform.machine() == "aarch64" else 155, b".", b"."))
    # MNT_DETACH: the old root.
    checked("umount", libc.umount2(b".", 2))


def bind(path: str, target: str) -> None:
    """Mount a file or folder at `target`, unless it is there already because a folder around it is mounted."""
    if os.path.exists(target):
        return
    os.makedirs(target if os.path.isdir(path) else os.path.dirname(target), exist_ok=True)
    if not os.path.isdir(path):
        open(target, "x").close()
    mount(path, target, BIND)


def make_read_only(root: str, except_for: str) -> None:
    """Remount everything below `root` read-only, but for one folder."""
    with open("/proc/self/mountinfo") as file:
        mounts = [line.split()[4:6] for line in file]
    for escaped, options in mounts:
        target = escaped.encode().decode("unicode_escape").encode("latin-1").decode()
        if (target + "/").startswith(root + "/") and target != except_for:
            repeated = sum(1 << bit for name, bit in MOUNT_OPTIONS.items() if name in options.split(","))
            mount(None, target, READ_ONLY | repeated)


def mount(source: str | None, target: str, flags: int, kind: str | None = None) -> None:
    words = [os.fsencode(word) if word else None for word in (source, target, kind)]
    checked(f"mount {target}", libc.mount(*words, ctypes.c_ulong(flags), None))


ISOLATIONS = {"landlock": landlock, "namespaces": namespaces}


# --- the rest


def set_limits(limits: dict[str, int]) -> None:
    """Set hard limits of this process, which it can't raise again without capabilities."""
    # The first limit sends a signal, the second ends the process a second later.
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu"], limits["cpu"] + 1))
    none = dict.fromkeys(("NPROC", "CORE", "MEMLOCK", "MSGQUEUE"), 0)
    for name, value in {"AS": limits["memory"], "FSIZE": limits["file"], "NOFILE": limits["open"], **none}.items():
        # Not every system has all limits.
        if hasattr(resource, f"RLIMIT_{name}"):
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def drop_privileges() -> None:
    """Give up all capabilities, end together with the parent process, and write no core dumps."""
    checked("capset", libc.capset(struct.pack("=Ii", 0x20080522, 0), bytes(24)))
    # PR_SET_PDEATHSIG, SIGKILL
    checked("prctl", libc.prctl(1, 9, 0, 0, 0))
    # PR_SET_DUMPABLE: no core dumps, not even those that go into a pipe.
    checked("prctl", libc.prctl(4, 0, 0, 0, 0))


def isolate(job: dict[str, Any]) -> None:
    """Isolate this process as the job says. Raises OSError if a part fails.

    For "none" it sets the limits, and whatever else works.
    """
    is_isolated = job["isolation"] in ISOLATIONS
    if is_isolated:
        # PR_SET_NO_NEW_PRIVS, which Landlock and seccomp require.
        checked("prctl", libc.prctl(38, 1, 0, 0, 0))
        ISOLATIONS[job["isolation"]](job["folder"], job["readable"])
    os.chdir(job["folder"])
    set_limits(job["limits"])
    with contextlib.nullcontext() if is_isolated else contextlib.suppress(OSError, AttributeError):
        drop_privileges()
        checked("prctl", libc.prctl(38, 1, 0, 0, 0))
        filter_calls()


def load_beside(name: str) -> ModuleType:
    """Return a module of this folder, under its full name. The package is not on the path of this process."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py")
    full_name = f"isheep.sandbox.{name}"
    spec = importlib.util.spec_from_file_location(full_name, path)
    if spec is None or spec.loader is None:
        raise ImportError(path)
    module = sys.modules[full_name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def work(peer: ModuleType, job: dict[str, Any], out: int) -> None:
    """Do what the job asks for, and write the outcome.

    A program that is run alone reports its end with the job's token. One that is tested, or called, has no way to say
    that it passed: its tests run in another process, and its values are compared in the parent.
    """
    match job["role"]:
        case "alone":
            module, failure = peer.run(job["program"])
            peer.write_all(out, peer.to_line(failure if module is None else {"token": job["token"]}))
        case "calls":
            peer.answer_calls(job["program"], job["name"], job["requests"], out)
        case "serve":
            peer.serve(job["requests"], job["replies"])
        case "test":
            names = ("program", "setup", "names", "tests", "requests", "replies")
            peer.write_all(out, peer.to_line(peer.test(*(job[name] for name in names))))


def main() -> None:
    job = json.load(sys.stdin)
    load_beside("values")
    peer = load_beside("peer")
    out, empty = os.dup(1), os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(empty, stream)
    try:
        isolate(job)
    except OSError as error:
        os.write(out, str(error).encode())
        return
    # A program may replace these functions in their modules.
    do, leave = work, os._exit
    os.write(out, READY)
    do(peer, job, out)
    leave(0)


def syscall(number: int, *arguments: Any) -> int:
    values = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return int(libc.syscall(ctypes.c_long(number), *values))


def checked(call: str, result: int) -> int:
    """Return the result of a C function. Raises OSError if it is an error."""
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{call}: {os.strerror(ctypes.get_errno())}")
    return result


if __name__ == "__main__":
    main()
