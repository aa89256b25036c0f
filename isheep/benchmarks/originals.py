"""Reading a benchmark's own files: JSON, JSON lines, CSV, TSV or Parquet, gzipped or not, as a list of rows."""

import csv
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isheep.errors import UserError

DataRow = dict[str, Any]
FORMATS = ("jsonl", "json", "csv", "tsv", "parquet")


def rows(path: Path, needed: Sequence[str] = (), header: Sequence[str] = (), tabs: bool = False) -> list[DataRow]:
    """The rows of a file, each with at least the columns `needed`.

    `header` names the columns of a CSV that has none; `tabs` reads a .csv as the TSV that it is. Raises UserError where
    it can't be read, where a column is missing, or where there is no row.
    """
    kind = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    if kind not in FORMATS:
        raise UserError(f"{path}: no format is known by this name; take one of .{', .'.join(FORMATS)}, also gzipped")
    try:
        found = _read(path, "tsv" if tabs else kind, header)
    except (OSError, EOFError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"{path}: can't be read as {kind}: {reason}") from None
    if not found:
        raise UserError(f"{path}: no rows in it")
    need(path, found, needed)
    return found


def need(path: Path, found: Sequence[DataRow], needed: Sequence[str]) -> None:
    """Raises UserError where something is no row, or has no value in one of the columns `needed`."""
    for number, row in enumerate(found, 1):
        if not isinstance(row, dict) or (missing := [name for name in needed if row.get(name) is None]):
            what = f"column {missing[0]!r} is missing" if isinstance(row, dict) else f"found {str(row)[:40]!r}"
            expected = f"; rows with {', '.join(needed)} are expected" if needed else ""
            raise UserError(f"{path} row {number}: {what}{expected}")


def _read(path: Path, kind: str, header: Sequence[str]) -> list[DataRow]:
    if kind == "parquet":
        from pyarrow import parquet

        table: list[DataRow] = parquet.read_table(path).to_pylist()
        return table
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.name.endswith(".gz") else content).decode("utf-8-sig")
    if kind in ("csv", "tsv"):
        lines = io.StringIO(text, newline="")
        return list(csv.DictReader(lines, fieldnames=header or None, delimiter="\t" if kind == "tsv" else ","))
    if kind == "json":  # many a .json is lines of JSON
        try:
            whole = json.loads(text)
            return whole if isinstance(whole, list) else [whole]
        except ValueError:
            if "\n" not in text.strip():
                raise
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def given(name: str, data: Path | None, what: str) -> Path:
    """The user's copy of a benchmark's file. Raises UserError, saying what it is, where none is given or there."""
    if data is None:
        raise UserError(f"benchmark {name} needs its file: give it as data ({what})")
    if not data.exists():
        raise UserError(f"benchmark {name}: no such file: {data} ({what} is expected)")
    return data


def text_of(path: Path) -> str:
    """A UTF-8 text, without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"{path}: can't be read: {reason}") from None
