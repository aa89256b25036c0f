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
SEQUENCE_MAKERS: dict[str, Callable[[list[Any]], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": deque,
}
MAPPING_MAKERS: dict[str, Callable[[list[Any]], Any]] = {
    "dict": dict,
    "OrderedDict": OrderedDict,
    "Counter": lambda pairs: Counter(dict(pairs)),
}
# Those whose entries, or whose keys, are found by their hash.
HASHED = frozenset({"set", "frozenset", *MAPPING_MAKERS})
# Limits of data that are decoded, which an untrusted process may have written: lists and tags inside each other, digits
# of a Fraction's or Decimal's number (the time of arithmetic grows with their square), and entries with one hash (the
# time to collect them grows with their square).
MAX_DEPTH, MAX_DIGITS, MAX_EQUAL_HASHES = 200, 10_000, 100

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


def decode(data: Any, remote: Callable[[int], Any] | None = None, depth: int = 0) -> Any:
    """Decode what `encode` wrote. `remote` makes the stand-in of a value that stays in its process.

    The data may come from an untrusted process: a value never takes much more memory than its text, and a tag has only
    the content that `encode` gives it. `depth` counts the lists and tags around the data.

    Raises ValueError, TypeError, LookupError, ArithmeticError, RecursionError or MemoryError if the data are not valid.
    """
    if depth > MAX_DEPTH:
        raise ValueError("too many lists inside each other")
    if type(data) is list:
        return data if PLAIN.issuperset(map(type, data)) else [decode(entry, remote, depth + 1) for entry in data]
    if type(data) is not dict:
        return data
    ((tag, content),) = data.items()
    if tag == "opaque":
        return Opaque()
    if tag == "remote" and remote:
        (index,) = _checked_parts([content], int)
        return remote(index)
    if tag in SEQUENCE_MAKERS:
        entries = [decode(entry, remote, depth + 1) for entry in _checked_list(content)]
        return SEQUENCE_MAKERS[tag](_checked_hashes(entries) if tag in HASHED else entries)
    if tag in MAPPING_MAKERS:
        pairs = [decode(_checked_list(pair, 2), remote, depth + 1) for pair in _checked_list(content)]
        _checked_hashes([key for key, _ in pairs])
        return MAPPING_MAKERS[tag](pairs)
    return _decode_scalar(tag, content)


def _decode_scalar(tag: str, content: Any) -> Any:
    """Return a value whose content is a text, or a list of numbers."""
    match tag:
        case "int":
            # The time for hexadecimal digits grows with their number only.
            return int(_checked_text(content), 16)
        case "bytes":
            return bytes.fromhex(_checked_text(content))
        case "bytearray":
            return bytearray.fromhex(_checked_text(content))
        case "complex":
            return complex(*_checked_parts(_checked_list(content, 2), int, float))
        case "range":
            return range(*_checked_parts(_checked_list(content, 3), int))
        case "Decimal":
            return Decimal(_checked_text(content, MAX_DIGITS))
        case "Fraction":
            # Python reads no decimal integers of more than 4300 digits, so that these are short.
            return Fraction(*_checked_parts(_checked_list(content, 2), int))
        case "numpy":
            return _decode_number(*_checked_list(content, 2))
    raise ValueError(f"no tag: {tag[:40]}")


def _checked_list(content: Any, length: int | None = None) -> list[Any]:
    """Return the content of a tag. Raises ValueError if it is no list, or one of another length."""
    if type(content) is not list or length not in (None, len(content)):
        raise ValueError("the content of a tag is no list of the right length")
    return content


def _checked_text(content: Any, max_length: int | None = None) -> str:
    """Return the content of a tag. Raises ValueError if it is no text, or one that is too long."""
    if type(content) is not str or (max_length is not None and len(content) > max_length):
        raise ValueError("the content of a tag is no text, or too long")
    return content


def _checked_parts(parts: list[Any], *kinds: type) -> list[Any]:
    """Return numbers. Raises ValueError if the type of a number is none of `kinds`."""
    if not set(kinds).issuperset(map(type, parts)):
        raise ValueError("the content of a tag is not of the right type")
    return parts


def _checked_hashes(entries: list[Any]) -> list[Any]:
    """Return the entries of a set, or keys. Raises ValueError if too many have the same hash."""
    if entries and max(Counter(map(hash, entries)).values()) > MAX_EQUAL_HASHES:
        raise ValueError("too many entries have the same hash")
    return entries


def _decode_number(dtype: Any, value: Any) -> Any:
    codes = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
    name = _checked_text(dtype)
    if name[:1] not in ("<", ">", "=", "|") or name[1:] not in codes:
        raise ValueError("no type of numpy's numbers")
    (number,) = _checked_parts([value], bool, int, float)
    import numpy

    return numpy.dtype(name).type(number)


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
