"""Render docs/api.md from the docstrings of the public names: python -m isheep.api.reference > docs/api.md."""

import inspect
import re
import typing
from collections.abc import Iterator

import isheep

HEAD = """# Python API

This page is made from the docstrings by `python -m isheep.api.reference > docs/api.md`, and a test compares the two.
`import isheep` is fast and loads neither torch nor transformers; each name loads what it needs at its first use.
[extending.md](extending.md) and [prompts.md](prompts.md) show how to bring filters, engines, benchmarks and
prompts of your own.
"""


def render_api() -> str:
    """Return the page: a section for each public name, functions first."""
    objects = {name: getattr(isheep, name) for name in isheep.__all__ if not name.startswith("_")}
    functions = {name: value for name, value in objects.items() if inspect.isfunction(value)}
    classes = {name: value for name, value in objects.items() if inspect.isclass(value)}
    parts = [HEAD, "## Functions\n", *(_function(name, value) for name, value in sorted(functions.items()))]
    parts += ["## Classes\n", *(_class(name, value) for name, value in sorted(classes.items()))]
    return "\n".join(parts)


def _function(name: str, function: object) -> str:
    return f"### `isheep.{name}`\n\n```\n{name}{_signature(function)}\n```\n\n{_text(function)}\n"


def _class(name: str, kind: type) -> str:
    lines = [f"### `isheep.{name}`\n\n{_text(kind)}\n"]
    lines += [f"- `{member}`: {text}" for member, text in _members(kind)]
    return "\n".join(lines) + "\n"


def _members(kind: type) -> Iterator[tuple[str, str]]:
    """Yield the public methods and properties of a class, with the first paragraph of their text.

    They are those that it defines itself, and those of its bases that are not public.
    """
    hidden_bases = [
        base for base in kind.__mro__ if base.__module__.startswith("isheep.") and base.__name__ not in isheep.__all__
    ]
    inherited = {name: member for base in reversed(hidden_bases) for name, member in vars(base).items()}
    for name, member in (vars(kind) | {name: inherited[name] for name in inherited if name not in vars(kind)}).items():
        function = member.fget if isinstance(member, property) else member
        if name.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
            continue
        label = name if isinstance(member, property) else f"{name}{_signature(function)}"
        yield label, " ".join(inspect.cleandoc(function.__doc__).split("\n\n")[0].split())


class _Default:
    """The default of a parameter whose own form would be long: it is shown as a call of its class."""

    def __init__(self, value: object) -> None:
        self.text = f"{type(value).__name__}()"

    def __repr__(self) -> str:
        return self.text


def _signature(function: object) -> str:
    """Return a function's signature with type names instead of their modules."""
    signature = inspect.signature(typing.cast(typing.Any, function))
    parameters = [
        parameter.replace(default=_Default(parameter.default)) if _is_long(parameter.default) else parameter
        for name, parameter in signature.parameters.items()
        if name != "self"
    ]
    return re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Z])", "", str(signature.replace(parameters=parameters)))


def _is_long(value: object) -> bool:
    return value is not inspect.Parameter.empty and not isinstance(value, str | int | float | tuple | None)


def _text(value: object) -> str:
    return inspect.cleandoc(value.__doc__ or "")


if __name__ == "__main__":
    print(render_api(), end="")
