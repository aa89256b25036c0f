"""Load objects from Python code of the user's own, which a recipe names; only after the user has allowed it."""

import importlib
import importlib.util
import re
import sys
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from isheep.errors import UserError

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
    return f"{use} {reference} is Python code of your own: pass --allow-code to execute it"


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
    except Exception as error:
        raise UserError(f"{use} {reference}: {parts.module} can't be loaded: {_summary(error)}") from error
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


def _summary(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
