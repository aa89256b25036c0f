"""JSON files that other programs or people wrote: JSON lines, a JSON list or one object, gzipped or not, as typed rows.

All readers of such files use this module, so that they take the same forms and refuse the same mistakes in one line:
the file, the line or row, the field, the value found, and the way out. No value is converted: text is no number.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from isheep.errors import UserError
from isheep.files.reading import read_text

MAX_DEPTH = 100
"""The most lists and objects inside one another: what reads a value later may go down by calls of its own."""
MAX_DIGITS = 1000
"""The most digits of a whole number: a double has at most 309 before its point."""

# Characters of a value that a message shows.
SHOWN_CHARACTERS = 60
# What must be at a place inside a field, by pydantic's types of errors.
NAMES_OF_TYPES = {
    "string_type": "text",
    "list_type": "a list",
    "model_type": "an object",
    "string_pattern_mismatch": "text that is not blank",
}
HALF_CHARACTER = re.compile("[\ud800-\udfff]")

Located = tuple[str, Any]
"""A value with its location: "FILE line 3" in JSON lines, "FILE row 3" in a list."""

RowId = Annotated[int | str, Field(description="a whole number or text")]
Text = Annotated[str, Field(description="text")]
OptionalText = Annotated[str | None, Field(description="text or null")]
FilledText = Annotated[str, Field(pattern=r"\S", description="text that is not blank")]
FilledTexts = Annotated[list[FilledText], Field(min_length=1, description="a list of one or more texts")]


class ForeignRow(BaseModel):
    """A row of a file of another program: nothing is converted, and keys that are not used are ignored.

    The description of a field says in a message what it must be; `form` shows a right row.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)
    form: ClassVar[str] = ""


R = TypeVar("R", bound=ForeignRow)


def read_rows(path: Path, row_type: type[R]) -> list[tuple[str, R]]:
    """Return the rows of a file with their locations. Raises UserError if it has none, or if one is malformed."""
    return [(location, parse_row(location, value, row_type)) for location, value in _read_row_values(path, row_type)]


def read_checked(path: Path, row_type: type[ForeignRow]) -> list[tuple[str, dict[str, Any]]]:
    """Return the rows of a file like `read_rows`, as the objects in the file with all their keys."""
    rows = _read_row_values(path, row_type)
    for location, value in rows:
        parse_row(location, value, row_type)
    return rows


def _read_row_values(path: Path, row_type: type[ForeignRow]) -> list[Located]:
    values = read_values(path)
    if not values:
        raise UserError(f"{path}: no rows in it; rows such as {row_type.form} are needed")
    if len(values) == 1:
        _check_is_row(path, values[0][1], row_type)
    return values


def parse_row(location: str, value: Any, row_type: type[R]) -> R:
    """Return a value as a row. Raises UserError if it is malformed, naming the first wrong field and its value."""
    way_out = f"; rows such as {row_type.form} are needed"
    if not isinstance(value, dict):
        raise UserError(f"{location}: an object is needed, found {shorten(value)}{way_out}")
    try:
        row = row_type.model_validate(value)
    except ValidationError as error:
        raise UserError(f"{location}: {_problem(error, value, row_type)}{way_out}") from None
    for name in row_type.model_fields:
        if _has_half_character(value.get(name)):
            raise UserError(f"{location}: {name} holds half a surrogate pair, which is no character; remove it")
    return row


def shorten(value: Any) -> str:
    """Return a value as JSON in one line, cut after some characters."""
    # Parquet files have values, such as dates, that JSON lacks.
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."


def existing_file(folder: Path, name: str) -> Path:
    """Return the file `name` of a folder, or the same file gzipped if only that one exists."""
    path, gzipped = folder / name, folder / f"{name}.gz"
    return gzipped if gzipped.is_file() and not path.is_file() else path


# --- JSON


def read_values(path: Path) -> list[Located]:
    """Return the values of a file with their locations; blank lines count as lines and hold no value.

    The content decides, and not the file's name: a gzipped file is unpacked, a list is taken as its entries, one object
    as one row, anything else as JSON lines. Raises UserError if the file can't be read or is not JSON.
    """
    text = read_text(path)
    start = len(text) - len(text.lstrip())
    if start == len(text):
        return []
    first_line = text[start:].partition("\n")[0]
    try:
        document, end = _decoder().raw_decode(text, start)
        _check_depth(document)
    except (ValueError, RecursionError) as error:
        is_one_document = first_line.strip() == "{" or first_line.startswith("[") and not _is_json(first_line)
        if is_one_document:
            _refuse(str(path), error)
        return list(_read_lines(path, text))
    if text[end:].strip():
        return list(_read_lines(path, text))
    if isinstance(document, list):
        return [(f"{path} row {number}", value) for number, value in enumerate(document, 1)]
    return [(f"{path} line {text.count(chr(10), 0, start) + 1}", document)]


def _read_lines(path: Path, text: str) -> Iterator[Located]:
    # Not splitlines: JSON strings may hold other line separators.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"{path} line {number}", parse_json(line)
            except (ValueError, RecursionError) as error:
                _refuse(f"{path} line {number}", error)


def _is_json(line: str) -> bool:
    try:
        parse_json(line)
    except (ValueError, RecursionError):
        return False
    return True


def parse_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises ValueError or RecursionError if it is not JSON, has a key twice in an object, is nested deeper than
    MAX_DEPTH, or has a whole number of more than MAX_DIGITS digits.
    """
    value = _decoder().decode(text)
    _check_depth(value)
    return value


def _decoder() -> json.JSONDecoder:
    return json.JSONDecoder(object_pairs_hook=_unique_keys, parse_int=_whole_number)


def _whole_number(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _check_depth(value: Any) -> None:
    """Raise ValueError if lists and objects are nested deeper than MAX_DEPTH."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"more than {MAX_DEPTH} lists and objects inside one another")


def _unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object. Raises ValueError if a key occurs twice: which value counts would be a guess."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {shorten(repeated)} occurs twice in an object")
    return content


def _refuse(location: str, error: Exception) -> NoReturn:
    if isinstance(error, json.JSONDecodeError):
        line = f" (line {error.lineno})" if error.lineno > 1 else ""
        reason = f"not JSON{line}: {error.msg}"
    else:
        # A repeated key, a number of a thousand digits, or brackets nested too deeply.
        reason = f"not JSON that can be read: {error}"
    raise UserError(f"{location}: {reason}; give JSON lines, or one JSON list, also gzipped") from None


# --- messages


def _problem(error: ValidationError, row: dict[str, Any], row_type: type[ForeignRow]) -> str:
    """Return what is wrong with the first wrong field of a row."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "missing":
        return f"{_field_name(first['loc'])} is missing"
    field = str(first["loc"][0]) if first["loc"] else ""
    keys, value = _locate(row, first["loc"])
    expected = row_type.model_fields[field].description if field in row_type.model_fields else None
    if len(keys) > 1 or expected is None:
        expected = NAMES_OF_TYPES.get(first["type"]) or first["msg"].removeprefix("Input should be ")
    return f"{_field_name(keys)} must be {expected}, found {shorten(value)}"


def _has_half_character(value: Any) -> bool:
    """Return whether a text, or one inside a list or an object, has a surrogate, which no file could store."""
    if isinstance(value, str):
        return HALF_CHARACTER.search(value) is not None
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(map(_has_half_character, parts))


def _locate(row: Any, path: Sequence[int | str]) -> tuple[list[int | str], Any]:
    """Return the keys of a validation error that exist in the row, without names of types, and the value there."""
    keys: list[int | str] = []
    value = row
    for key in path:
        is_key = isinstance(value, dict) and key in value
        is_index = isinstance(value, list) and isinstance(key, int) and key < len(value)
        if not is_key and not is_index:
            break
        value = value[key]
        keys.append(key)
    return keys, value


def _field_name(keys: Sequence[int | str]) -> str:
    """Return choices[0].turns for its keys."""
    name = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    return name.removeprefix(".") or "the row"


def _check_is_row(path: Path, value: Any, row_type: type[ForeignRow]) -> None:
    """Raise UserError if the only value of a file is a table by columns, or holds the rows below a key."""
    if not isinstance(value, dict):
        return
    required = [name for name, field in row_type.model_fields.items() if field.is_required()]
    columns = [column for column in value.values() if isinstance(column, dict | list)]
    sizes = {len(column) for column in columns}
    names = row_type.model_fields.keys()
    are_objects = all(isinstance(column, dict) for column in columns)
    if len(columns) == len(value) > 1 and are_objects and names.isdisjoint(value):
        raise UserError(
            f"{path}: a table by row names ({shorten(list(value))}): write one object for each row, in pandas "
            "to_json(orient='records', lines=True)"
        )
    if len(columns) == len(value) > 1 and len(sizes) == 1 or isinstance(value.get("columns"), list):
        raise UserError(
            f"{path}: a table by columns ({shorten(list(value))}): write one object for each row, in pandas "
            "to_json(orient='records', lines=True)"
        )
    if any(name not in value for name in required):
        for key, entries in value.items():
            if isinstance(entries, list) and entries and isinstance(entries[0], dict):
                raise UserError(f"{path}: the rows are below the key {shorten(key)}: give that list itself")
