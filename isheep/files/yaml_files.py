"""YAML within limits: every YAML text of this package is read here, plain values as in YAML 1.2.

YAML 1.1, which PyYAML reads, takes no, on and yes for truth values, 1:30 for 90, 0200 for 128, 1_0 for 10 and 5e-5 for
a text. Here only true and false are truth values, and a number is written in plain digits; all else is a text.

A few hundred bytes of aliases can stand for billions of values. They are counted before any value is made, each anchor
once, with the values that it stands for.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from isheep.errors import UserError, one_line
from isheep.files.reading import MAX_TEXT_BYTES, read_small_text

MAX_DEPTH = 64
"""The most mappings and lists inside one another."""

MAX_VALUES = 50_000
"""The most keys and values, with those that aliases stand for."""

MAX_CHARACTERS = 2**24
"""The most characters of all keys and values, with those that aliases stand for."""

MAX_NUMBER_LENGTH = 400
"""The most characters of a number. The time to read a longer one grows with the square of its length."""

WITH_ALIASES = ", with those that aliases stand for; give a smaller text with fewer aliases"
NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")

PLAIN_VALUES = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))"
        r"|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),
)
"""The plain values that are no texts: the tag, the form, and the first characters."""

T = TypeVar("T")


class BeyondLimits(yaml.MarkedYAMLError):
    """What of a YAML text is beyond a limit, and where."""

    def __init__(self, problem: str, mark: yaml.Mark | None) -> None:
        super().__init__(problem=problem, problem_mark=mark)


class _Size(NamedTuple):
    """What a node stands for, with all aliases written out."""

    values: int
    characters: int
    depth: int


class BoundedLoader(yaml.SafeLoader):
    """A loader of plain values that refuses a text as too deep or too large before it makes a value of it."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.depth = self.num_nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth, self.num_nodes = self.depth + 1, self.num_nodes + 1
        # yaml does not annotate it.
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self.depth > MAX_DEPTH:
            raise _too_deep(mark)
        if self.num_nodes > MAX_VALUES:
            raise _too_many(mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _measure(node, {})
        return node


class _Dumper(yaml.SafeDumper):
    """A dumper that quotes a text which either version of YAML would read as another value."""


# Without the forms of YAML 1.1.
BoundedLoader.yaml_implicit_resolvers = {}
for _tag, _form, _characters in PLAIN_VALUES:
    for _class in (BoundedLoader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_form})\Z"), _characters)


def dump_yaml(value: Any, **options: Any) -> str:
    """Return plain values as YAML that is read here, and by PyYAML, as the same values; `options` are PyYAML's."""
    text: str = yaml.dump(value, Dumper=_Dumper, **options)
    return text


def _measure(node: yaml.Node, sizes: dict[int, _Size | None]) -> _Size:
    """Return what a node stands for. `sizes` holds that of nodes seen before, and None for those that hold this one.

    Raises BeyondLimits.
    """
    if id(node) in sizes:
        size = sizes[id(node)]
        if size is None:
            raise BeyondLimits("an alias that contains itself", node.start_mark)
        return size
    sizes[id(node)] = None
    inner = [_measure(child, sizes) for child in _children(node)]
    length = len(node.value) if isinstance(node, yaml.ScalarNode) else 0
    size = _Size(
        1 + sum(child.values for child in inner),
        length + sum(child.characters for child in inner),
        1 + max((child.depth for child in inner), default=0),
    )
    if size.depth > MAX_DEPTH:
        raise _too_deep(node.start_mark)
    if size.values > MAX_VALUES:
        raise _too_many(node.start_mark)
    if size.characters > MAX_CHARACTERS:
        raise BeyondLimits(f"more than {MAX_CHARACTERS} characters{WITH_ALIASES}", node.start_mark)
    if node.tag in NUMBER_TAGS and length > MAX_NUMBER_LENGTH:
        raise BeyondLimits(f"a number of {length} characters; at most {MAX_NUMBER_LENGTH} are read", node.start_mark)
    sizes[id(node)] = size
    return size


def _too_deep(mark: yaml.Mark | None) -> BeyondLimits:
    return BeyondLimits(f"nested too deeply: more than {MAX_DEPTH} mappings and lists inside one another", mark)


def _too_many(mark: yaml.Mark | None) -> BeyondLimits:
    return BeyondLimits(f"more than {MAX_VALUES} values{WITH_ALIASES}", mark)


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


# --- reading


def read_yaml(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> Any:
    """Return the value of a YAML file. Raises UserError if it can't be read, is not YAML, or is beyond the limits."""
    return parse_yaml(read_small_text(path, max_bytes), str(path))


def parse_yaml(text: str, name: str, loader: type[BoundedLoader] = BoundedLoader, show_lines: bool = True) -> Any:
    """Return the value of a YAML text, which messages call `name`, with the line if `show_lines`.

    Raises UserError if it is not YAML, or is beyond the limits.
    """
    # The loader is a SafeLoader.
    return _in_one_line(lambda: yaml.load(text, Loader=loader), name, show_lines)  # noqa: S506


def compose_yaml(text: str, name: str, loader: type[BoundedLoader], show_lines: bool) -> yaml.Node | None:
    """Return the tree of a YAML text, with the line of each value. Raises UserError like `parse_yaml`."""
    node: yaml.Node | None = _in_one_line(lambda: yaml.compose(text, Loader=loader), name, show_lines)
    return node


def _in_one_line(read: Callable[[], T], name: str, show_lines: bool) -> T:
    try:
        return read()
    except BeyondLimits as error:
        raise UserError(f"{line_of(name, error.problem_mark, show_lines)}: {error.problem}") from None
    except yaml.MarkedYAMLError as error:
        reason = one_line(error.problem)
        raise UserError(f"{line_of(name, error.problem_mark, show_lines)}: not YAML: {reason}") from None
    # A date such as 2020-99-99, and a type that can't be a key.
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{name}: not YAML: {one_line(error)}") from None


def line_of(name: str, mark: yaml.Mark | None, show_lines: bool = True) -> str:
    """Return where in the text `name` a mark is, with its line if `show_lines`."""
    return f"{name} line {mark.line + 1}" if mark and show_lines else name
