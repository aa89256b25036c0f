"""Plain values as JSON, between the processes of the sandbox: the builtin types, and some of the standard library's.

What is written is read again as a value of the same type. A value of any other type is not transferred, and compares
unequal to everything. child.py loads this module without the package, so it imports nothing of isheep.
"""

import json
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

# An object is a tag with its content, everything else stands for itself.
PLAIN = frozenset({int, float, str, bool, type(None)})
SEQUENCES: dict[type, str] = {tuple: "tuple", set: "set", frozenset: "frozenset", deque: "deque"}
MAPPINGS: dict[type, str] = {dict: "dict", OrderedDict: "OrderedDict", Counter: "Counter", defaultdict: "dict"}
MAKERS: dict[str, Callable[[Any], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": deque,
    "dict": dict,
    "OrderedDict": OrderedDict,
    "Counter": lambda pairs: Counter(dict(pairs)),
    "int": lambda digits: int(digits, 16),
    "complex": lambda parts: complex(*parts),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "range": lambda parts: range(*parts),
    "Decimal": Decimal,
    "Fraction": lambda parts: Fraction(*parts),
}

Keep = Callable[[Any], dict[str, Any]]
"""Says how a value that is not plain is written, as a tag."""


def opaque(value: Any) -> dict[str, Any]:
    """Return the tag of a value of which nothing but the name of its type is told."""
    return {"opaque": name_of(type(value))}


def encode(value: Any, keep: Keep = opaque, hex_integers: bool = False) -> Any:
    """Return a value in the form that JSON takes. The exact type decides; a subclass is not plain."""
    kind = type(value)
    if kind in PLAIN:
        return {"int": hex(value)} if hex_integers and kind is int else value
    if kind is list:
        if not hex_integers and PLAIN.issuperset(map(type, value)):
            return value
        return [encode(entry, keep, hex_integers) for entry in value]
    if kind in SEQUENCES:
        return {SEQUENCES[kind]: encode(list(value), keep, hex_integers)}
    if kind in MAPPINGS:
        return {MAPPINGS[kind]: [encode(list(pair), keep, hex_integers) for pair in value.items()]}
    if kind in (bytes, bytearray):
        return {kind.__name__: value.hex()}
    if kind is complex:
        return {"complex": [value.real, value.imag]}
    if kind is range:
        return {"range": [value.start, value.stop, value.step]}
    if kind is Decimal:
        return {"Decimal": str(value)}
    if kind is Fraction:
        return {"Fraction": [value.numerator, value.denominator]}
    return _encode_number(value) or keep(value)


def _encode_number(value: Any) -> dict[str, Any] | None:
    """Return the tag of a number of numpy's, None for another value."""
    numpy = sys.modules.get("numpy")
    if numpy is None or type(value) not in [numpy.dtype(code).type for code in "?bhilqBHILQefd"]:
        return None
    return {"numpy": [value.dtype.str, value.item()]}


def decode(data: Any, remote: Callable[[int], Any] | None = None) -> Any:
    """Decode what `encode` wrote. `remote` makes the stand-in of a value that stays in its process.

    Raises ValueError, TypeError, LookupError, ArithmeticError, RecursionError or MemoryError if the data are not valid.
    """
    if type(data) is list:
        return data if PLAIN.issuperset(map(type, data)) else [decode(entry, remote) for entry in data]
    if type(data) is not dict:
        return data
    ((tag, content),) = data.items()
    if tag == "remote" and remote:
        return remote(content)
    if tag == "opaque":
        return Opaque()
    if tag == "numpy":
        return _decode_number(*content)
    return MAKERS[tag](decode(content, remote))


def _decode_number(dtype: str, value: Any) -> Any:
    if dtype[1:] not in ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"):
        raise ValueError(dtype)
    import numpy

    return numpy.dtype(dtype).type(value)


class Opaque:
    """A value of which nothing is known. It equals no other, and it has no truth value."""

    __hash__ = None  # type: ignore[assignment]

    def _refuse(self, *arguments: Any) -> Any:
        raise TypeError("a value of the program's own type can't be compared")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __len__ = __contains__ = _refuse


def to_line(message: dict[str, Any], value: Any = None, keep: Keep = opaque) -> bytes:
    """Return a message as a line of JSON, with the value (if it is not None) as its "value"."""
    try:
        text = json.dumps({**message, "value": encode(value, keep)})
    except ValueError:
        # Python writes no decimal integers of more than 4300 digits.
        text = json.dumps({**message, "value": encode(value, keep, hex_integers=True)})
    except RecursionError:
        text = json.dumps({**message, "value": opaque(value)})
    return text.encode() + b"\n"


def name_of(kind: type) -> str:
    """Return the name of a type, also if its metaclass says otherwise."""
    return str(type.__dict__["__name__"].__get__(kind))[:80]
