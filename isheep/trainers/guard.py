"""python -m isheep.trainers.guard COMMAND...: run a command that knows nothing of us, and end it with all that it
started where standard input ends, which is when the process that asked for it is gone."""

import contextlib
import os
import subprocess
import sys
import threading

import psutil


def main() -> None:
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    status = process.wait()
    sys.exit(128 - status if status < 0 else status)


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(1)


if __name__ == "__main__":
    main()
