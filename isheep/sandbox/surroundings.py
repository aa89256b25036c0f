"""What a sandboxed program finds around it: the environment, and a temporary folder of limited size."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path


def environment(folder: Path) -> dict[str, str]:
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


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
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


def exceeds_limits(folder: Path, most_bytes: int, most_entries: int) -> bool:
    """Return whether a folder holds more bytes or entries than allowed, or can't be read."""
    pending, size, entries = [str(folder)], 0, 0
    while pending:
        try:
            with os.scandir(pending.pop()) as inside:
                for entry in inside:
                    entries += 1
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                    if size > most_bytes or entries > most_entries:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
        except FileNotFoundError:
            # Deleted since it was listed.
            continue
        except OSError:
            return True
    return False
