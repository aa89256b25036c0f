"""python -m isheep.sandbox.process_guard COMMAND...: run a command, and end it with the process that started it.

The command knows nothing of isheep. The guard watches its standard input, which ends when the process at the other end
of the pipe is gone, and then kills the command and all processes that it started.
"""

import contextlib
import os
import subprocess
import sys
import threading

import psutil


def main() -> None:
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    status = process.wait()
    sys.exit(128 - status if status < 0 else status)


def _exit_with_parent() -> None:
    """Wait for the end of standard input, then kill all child processes and exit."""
    while os.read(0, 1024):
        pass
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(1)


if __name__ == "__main__":
    main()
