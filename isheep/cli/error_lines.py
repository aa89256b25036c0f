"""The one line that the command line prints for an error that the user can fix."""

import errno
from typing import Any

from typer import BadParameter

from isheep.errors import UserError, find_disk_full, is_out_of_memory, one_line

UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOENT)
"""Errors of the operating system that mean: this path cannot be written to."""

# The class of all errors of a command line that typer can't read; typer has no public name for it.
ClickException = BadParameter.__mro__[2]


def error_line(error: Exception) -> str | None:
    """Return the line to print for an error; None for a bug, whose traceback is to be shown."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, ClickException):
        return _usage_line(error)
    if full := find_disk_full(error):
        path = getattr(full, "filename", None)
        target = f" for {path}" if path else ""
        return (
            f"no space left on the device{target}; everything finished so far is saved: "
            "free some space and run the same command again"
        )
    if is_out_of_memory(error):
        reason = one_line(str(error).strip().partition("\n")[0]) or type(error).__name__
        return (
            f"out of memory on the device ({reason}); everything finished so far is saved: run the same command with "
            "a lower machine.engine_batch_size (prompts in a batch) or machine.rows_per_process (rows that train at "
            "once)"
        )
    if isinstance(error, OSError) and error.errno in UNWRITABLE and error.filename:
        return f"{error.filename}: {error.strerror}"
    return None


def _usage_line(error: Any) -> str:
    """Return typer's error, such as an unknown option, and the command whose help shows the right ones."""
    message = one_line(error.format_message()).rstrip(".")
    command = error.ctx.command_path if getattr(error, "ctx", None) else "isheep"
    return f"{message[:1].lower()}{message[1:]} (see {command} --help)"


def shows_help(error: Exception) -> bool:
    """Return whether an error stands for the help text, which typer shows for a command without arguments."""
    return type(error).__name__ == "NoArgsIsHelpError"
