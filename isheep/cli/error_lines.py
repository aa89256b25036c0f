"""The one line that the command line prints for an error that the user can fix."""

import errno

from isheep.errors import UserError

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)
"""Errors of the operating system that mean: this path cannot be written to."""
DISK_FULL = ("No space left", "PytorchStreamWriter failed", "unexpected pos")
"""How safetensors (the first) and torch.save (the others) report a full disk, without an errno."""


def error_line(error: Exception) -> str | None:
    """Return the line to print for an error; None for a bug, whose traceback is to be shown."""
    if isinstance(error, UserError):
        return str(error)
    if full := _disk_full(error):
        path = getattr(full, "filename", None)
        target = f" for {path}" if path else ""
        return (
            f"no space left on the device{target}; everything finished so far is saved: "
            "free some space and run the same command again"
        )
    # The class of torch is compared by name, because loading torch only for this would be slow.
    if type(error).__name__ == "OutOfMemoryError":
        return (
            f"out of memory on the device ({str(error).splitlines()[0]}); everything finished so far is saved: run the "
            "same command with a lower machine.engine_batch_size (prompts in a batch) or machine.rows_per_process "
            "(rows that train at once)"
        )
    if isinstance(error, OSError) and error.errno in UNWRITABLE and error.filename:
        return f"{error.filename}: {error.strerror}"
    return None


def _disk_full(error: BaseException) -> BaseException | None:
    """Return the error that reports a full disk, among an error and its causes; None if there is none."""
    cause: BaseException | None = error
    while cause:
        if getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(
            text in str(cause) for text in DISK_FULL
        ):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None
