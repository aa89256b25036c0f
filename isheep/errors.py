"""Errors whose message is written for the user."""

import contextlib
import difflib
import errno
import shlex
import sys
import unicodedata
from collections.abc import Iterable, Iterator

KeyPath = tuple[str | int, ...]
"""The path of a key in a recipe: ("filters", 0, "criteria")."""

Conflicts = Iterator[tuple[KeyPath, str]]
"""Settings that can't work together: (the path of the key to change, what is wrong with it in this recipe)."""


MAX_REASON_LENGTH = 300
"""The number of characters of another library's message that a line of ours quotes."""
MAX_EXCERPT_LENGTH = 80
MAX_PATH_LENGTH = 200
"""The number of characters of the path of a file that a line of ours quotes."""

DISK_FULL = ("No space left", "PytorchStreamWriter failed", "unexpected pos")
"""How safetensors (the first) and torch.save (the others) report a full disk, without an errno."""

OUT_OF_MEMORY = (
    "OutOfMemoryError", "MemoryError", "out of memory", "can't allocate memory", "not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)  # fmt: skip
"""How torch reports that memory is too small, on CUDA, on a CPU, and from the libraries that it calls."""

_in_command = False


class UserError(Exception):
    """An error that the user can correct. The message is one line: the thing, the value found, the way out."""

    def __init__(self, message: str) -> None:
        # Messages quote values and other libraries, which may have line ends, and names that control a terminal.
        line = message if len(message.splitlines()) < 2 else " ".join(message.split())
        super().__init__(escape_controls(line))


class TooLong(UserError):
    """A text that does not fit into a model's context."""


def unknown_name(kind: str, name: str, known_names: Iterable[str]) -> str:
    """Return the sentence that a name is not known, with the nearest known one."""
    known_names = list(known_names)
    nearest = difflib.get_close_matches(name, known_names, n=1)
    way_out = f"did you mean {nearest[0]!r}?" if nearest else f"take one of {', '.join(known_names)}"
    return f"{kind} {name!r} is not known: {way_out}"


# --- what other code says


def one_line(text: object, max_length: int = MAX_REASON_LENGTH) -> str:
    """Return a text, such as the message of another library's error, in one line of at most `max_length` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= max_length else f"{line[: max_length - 3]}..."


def describe_exception(error: BaseException) -> str:
    """Return the type of an exception and its message, in one line; of pydantic's errors the first wrong value."""
    if type(error).__name__ == "ValidationError" and (list_errors := getattr(error, "errors", None)):
        first, title = list_errors(include_url=False)[0], getattr(error, "title", "")
        key = ".".join(map(str, (title, *first["loc"])))
        return one_line(f"ValidationError: {key}: {first['msg']}; found {excerpt(first['input'])}")
    return one_line(f"{type(error).__name__}: {error}".removesuffix(": "))


def excerpt(value: object) -> str:
    """Return the beginning of a value as a line; the name of its type if it can't be shown."""
    return one_line(_repr_of(value), MAX_EXCERPT_LENGTH)


def quote_path(value: object) -> str:
    """Return a value that should name a file as a line. A long path loses its middle: its end tells it apart."""
    line = one_line(_repr_of(value), sys.maxsize)
    return line if len(line) <= MAX_PATH_LENGTH else f"{line[:20]}...{line[23 - MAX_PATH_LENGTH :]}"


def shell_word(value: object) -> str:
    """Return a value as a word of a shell command that a message proposes: quoted, and in one line.

    Bash, zsh and ksh read control characters in the form $'...'.
    """
    text = str(value)
    if not any(map(_is_control, text)):
        return shlex.quote(text)
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + "".join(f"\\u{ord(char):04x}" if _is_control(char) else char for char in escaped) + "'"


def escape_controls(text: str) -> str:
    """Return a text with escapes such as \\x1b in place of what controls a terminal or ends a line."""
    return "".join(char.encode("unicode_escape").decode() if _is_control(char) else char for char in text)


def _is_control(character: str) -> bool:
    """Return whether a character controls a terminal, or ends a line for some program."""
    return unicodedata.category(character) in ("Cc", "Zl", "Zp")


def is_utf8(text: str) -> bool:
    """Return whether a text can be written as UTF-8. The name of a file that is none has lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _repr_of(value: object) -> str:
    try:
        return repr(value)
    # The repr of a user's object may raise any exception.
    except Exception:
        return f"<{type(value).__name__}>"


def find_disk_full(error: BaseException) -> BaseException | None:
    """Return the error that reports a full disk, among an error and its causes; None if there is none."""
    cause: BaseException | None = error
    while cause:
        if getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(
            text in str(cause) for text in DISK_FULL
        ):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether Python or torch has run out of memory, on a GPU or a CPU.

    torch's class is compared by name, because loading torch is slow.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and says_out_of_memory(str(error))


def says_out_of_memory(text: str) -> bool:
    """Return whether a message, such as the last line of another program, says that memory was too small."""
    return any(part in text for part in OUT_OF_MEMORY)


# --- the command line and Python


@contextlib.contextmanager
def command_line() -> Iterator[None]:
    """Within the block, `option` names the options of the command line."""
    global _in_command
    before, _in_command = _in_command, True
    try:
        yield
    finally:
        _in_command = before


def in_command_line() -> bool:
    """Return whether the user has written a command, and not a call in Python."""
    return _in_command


def option(name: str, python: str = "") -> str:
    """Return what a user writes to give an argument: "--allow-code" in a command, "allow_code" in Python.

    `python` is the form in Python if it is not the name.
    """
    return f"--{name.replace('_', '-')}" if _in_command else python or name


def override_place() -> str:
    """Return where a user writes a text such as "training.epochs=1"."""
    return "on the command line" if _in_command else "in the overrides"
