"""The lock of a run folder, on the file `lock` in it: only one process writes the folder."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from isheep.errors import UserError, option
from isheep.rundir.progress import console

LOCK_FILE = "lock"

# How a file system answers that has no locks, such as some network file systems.
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)

Inode = tuple[int, int]
"""The device and the inode of a file. They tell it apart from another file of the same name."""


@dataclass
class Lock:
    """A lock that this process holds on a run folder, and the number of callers that hold it."""

    folder: Path
    file: IO[str]
    num_holders: int = 0


# The locks of this process by the inode of the lock file.
_locks: dict[Inode, Lock] = {}


@contextlib.contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock of a run folder inside the block. Raises UserError if another process holds it.

    Within a process, the lock can be taken more than once.
    """
    lock = _take_lock(path)
    lock.num_holders += 1
    try:
        yield
    finally:
        lock.num_holders -= 1
        if lock.num_holders == 0:
            _locks.pop(_inode(os.fstat(lock.file.fileno())))
            lock.file.close()


def _take_lock(path: Path) -> Lock:
    try:
        file = (path / LOCK_FILE).open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(f"run folder {path} can't be written to: {error.strerror}") from None
    inode = _inode(os.fstat(file.fileno()))
    if lock := _locks.get(inode):
        file.close()
        return lock
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        another = f"give another {option('out', 'run_dir')}"
        raise UserError(f"run folder {path} is in use by another process; wait for it or {another}") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        line = f"run folder {path} is on a file system without locks: see to it that no other process writes it"
        console.print(line, markup=False, soft_wrap=True)
    return _locks.setdefault(inode, Lock(path.resolve(), file))


def check_lock(path: Path) -> None:
    """Raise UserError if the lock file that this process has locked in a run folder is no longer there.

    Another process can then lock a new file of this name, and write the folder.
    """
    folder = path.resolve() if _locks else path
    for inode, lock in list(_locks.items()):
        if lock.folder == folder and not _has_inode(path / LOCK_FILE, inode):
            raise UserError(
                f"{path / LOCK_FILE} was removed or replaced while this process was writing the folder, so that another"
                " one may write it, too: this process writes nothing more; when no process is at work in the folder,"
                " run the same command again"
            )


def is_locked(path: Path) -> bool:
    """Return whether a process, this one included, holds the lock of a run folder. Leaves the folder as it is."""
    try:
        file = (path / LOCK_FILE).open(encoding="utf-8")
    except FileNotFoundError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
    return False


def _has_inode(path: Path, inode: Inode) -> bool:
    try:
        return _inode(path.stat()) == inode
    except OSError:
        return False


def _inode(status: os.stat_result) -> Inode:
    return status.st_dev, status.st_ino
