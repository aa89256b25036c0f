"""Python code of the user's own: load the objects that a recipe names, once the user allows it, and call them.

An exception in such code becomes one line that names the code; the exception itself is the line's cause.
"""

import contextlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from isheep.errors import UserError, describe_exception, excerpt, find_disk_full, is_out_of_memory, option

_REFERENCE = re.compile(r"(?P<module>.+\.py|[A-Za-z_][\w.]*):(?P<name>[A-Za-z_]\w*)")
_allowed = False


class Reference(NamedTuple):
    """The parts of "file.py:name" or "package.module:name"."""

    module: str
    name: str

    @property
    def is_file(self) -> bool:
        """Whether the module is a file rather than an importable name."""
        return self.module.endswith(".py")


def allow_code(allowed: bool = True) -> None:
    """Allow (or forbid again) this process to execute code that recipes name. It is forbidden at the start."""
    global _allowed
    _allowed = allowed


def is_code_allowed() -> bool:
    """Return whether this process may execute code that recipes name."""
    return _allowed


def parse_reference(text: str) -> Reference | None:
    """Return the parts of a text of the form "file.py:name" or "package.module:name"; None if it has another form."""
    match = _REFERENCE.fullmatch(text)
    return Reference(match["module"], match["name"]) if match else None


def refusal(reference: str, use: str) -> str:
    """Return the sentence that says why a reference is not loaded. `use` says what it names, such as "filter"."""
    return f"{use} {reference} is Python code of your own: pass {option('allow_code', 'allow_code=True')} to execute it"


def load_object(reference: str, use: str) -> Any:
    """Return the object that "file.py:name" or "package.module:name" names. `use` says what for, such as "filter".

    A relative file is looked for in the working directory; loading a recipe has already replaced the name of a file
    beside the recipe by its path. Raises UserError if code is not allowed, or the object can't be loaded.
    """
    parts = parse_reference(reference)
    if parts is None:
        raise UserError(f"{use} {reference!r}: write file.py:name or package.module:name")
    if not _allowed:
        raise UserError(refusal(reference, use))
    try:
        module = _load_file(Path(parts.module).resolve()) if parts.is_file else _import_module(parts.module)
    except FileNotFoundError:
        raise UserError(f"{use} {reference}: there is no file {parts.module}") from None
    # A script may end with sys.exit.
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{use} {reference}: {parts.module} can't be loaded: {describe_exception(error)}{_line_in(parts, error)}"
        ) from error
    if not hasattr(module, parts.name):
        raise UserError(f"{use} {reference}: {parts.module} has no {parts.name!r}")
    return getattr(module, parts.name)


@cache
def _load_file(path: Path) -> ModuleType:
    """Execute a Python file as a module, once for each path."""
    if not path.is_file():
        raise FileNotFoundError(path)
    name = f"isheep_extension_{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickle look a class up in its module by name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_module(name: str) -> ModuleType:
    """Import a module, which may also lie in the working directory."""
    folder = str(Path.cwd())
    if folder in sys.path:
        return importlib.import_module(name)
    # At the end, so that a file of the working directory does not replace an installed module.
    sys.path.append(folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


def import_registered(name: str, entry: str) -> ModuleType:
    """Import a module that a table of the package names, such as an engine. `entry` says which entry in messages.

    Raises UserError if there is no such module, or it can't be loaded.
    """
    try:
        return importlib.import_module(name)
    except UserError:
        raise
    except Exception as error:
        spec = None if isinstance(error, ModuleNotFoundError) else importlib.util.find_spec(name)
        line = _last_line(error, spec.origin) if spec and spec.origin else ""
        raise UserError(f"{entry}: {name} can't be loaded: {describe_exception(error)}{line}") from error


def _line_in(reference: Reference, error: BaseException) -> str:
    """Return " (FILE line N)" for the innermost line of the user's file that an exception passed through, or ""."""
    if not reference.is_file:
        return ""
    return _last_line(error, str(Path(reference.module).resolve()))


# --- calling


@contextlib.contextmanager
def user_code(name: str, function: object, case: str = "") -> Iterator[None]:
    """Turn an exception in the block, which calls code of the user's, into a UserError that begins with `name`.

    `name` says what the code is, such as "filter too_short", and `case` what for, such as "on pair t1-0". The line has
    the exception's type and message, and the innermost line in the file of `function`. A full disk and full memory are
    not the code's fault and pass.
    """
    try:
        yield
    except UserError:
        raise
    # A script may end with sys.exit.
    except (Exception, SystemExit) as error:
        if find_disk_full(error) or is_out_of_memory(error):
            raise
        code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
        line = _last_line(error, code.co_filename) if code else ""
        raise UserError(f"{' '.join([name, 'failed', case]).rstrip()}: {describe_exception(error)}{line}") from error


def check_callable(function: object, name: str, arguments: tuple[str, ...], way_out: str = "") -> None:
    """Raise UserError if an object can't be called with as many arguments as `arguments` has names.

    `way_out` replaces Python's own description of the wrong arguments in the message.
    """
    call = f"function({', '.join(arguments)})"
    if not callable(function):
        raise UserError(f"{name} is {excerpt(function)} of type {type(function).__name__}: give a {call}")
    try:
        signature = inspect.signature(function)
    # Some functions of C libraries have no signature.
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise UserError(f"{name} can't be called as {call}: {way_out or describe_exception(error)}") from None


def name_of(function: object) -> str:
    """Return the name of a function, or the name of the class of a callable object."""
    return str(getattr(function, "__qualname__", None) or type(function).__name__)


def _last_line(error: BaseException, file: str) -> str:
    """Return " (FILE line N)" for the innermost line of a file that an exception passed through, or ""."""
    numbers = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f" ({Path(file).name} line {numbers[-1]})" if numbers else ""
