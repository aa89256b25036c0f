"""Reading a benchmark's own files: JSON, JSON lines, CSV, TSV or Parquet, gzipped or not, as a list of rows."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from isheep.errors import UserError, one_line
from isheep.files.json_files import ForeignRow, parse_row, read_values
from isheep.files.reading import MAX_BYTES, read_text

DataRow = dict[str, Any]
MAX_ROWS, PARQUET_BATCH = 2_000_000, 64
FORMATS = ("jsonl", "json", "csv", "tsv", "parquet")


def read_rows(
    path: Path, columns: Sequence[str] = (), header: Sequence[str] = (), tab_separated: bool = False
) -> list[DataRow]:
    """Read the rows of a file, each of which must have a value in `columns`.

    `header` names the columns of a CSV file that has no header line. `tab_separated` reads a file that is called .csv
    as TSV. Raises UserError if the file can't be read, if a value is missing, or if there is no row.
    """
    if path.is_dir():
        raise UserError(f"{path}: a folder, where a file is needed; name the file in it, one of .{', .'.join(FORMATS)}")
    kind = path.name.removesuffix(".gz").rpartition(".")[2].lower()
    if kind not in FORMATS:
        raise UserError(f"{path}: no format is known by this name; take one of .{', .'.join(FORMATS)}, also gzipped")
    try:
        rows = _read(path, "tsv" if tab_separated else kind, header)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: can't be read as {kind}: {_reason(error)}") from None
    if not rows:
        raise UserError(f"{path}: no rows in it")
    check_columns(path, rows, columns)
    return rows


def check_columns(path: Path, rows: Sequence[DataRow], columns: Sequence[str]) -> None:
    """Raises UserError if a row is not an object, or has no value in one of the columns."""
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            problem = f"found {str(row)[:40]!r}"
        elif missing := [name for name in columns if row.get(name) is None]:
            problem = f"column {missing[0]!r} is missing"
        else:
            continue
        expected = f"; rows with {', '.join(columns)} are expected" if columns else ""
        raise UserError(f"{path} row {number}: {problem}{expected}")


def check_rows(path: Path, rows: Sequence[DataRow], row_type: type[ForeignRow]) -> None:
    """Raise UserError if a row's fields have other types than `row_type` says, naming the row, field and value."""
    for number, row in enumerate(rows, 1):
        parse_row(f"{path} row {number}", row, row_type)


def check_unique_tasks(path: Path, keys: Sequence[int | str]) -> None:
    """Raise UserError if two rows have the key of the same task: which of the two counts would be a guess."""
    first_rows: dict[int | str, int] = {}
    for number, key in enumerate(keys, 1):
        if key in first_rows:
            raise UserError(
                f"{path} row {number}: task_id {key} is in row {first_rows[key]} too; remove one of the two"
            )
        first_rows[key] = number


def require_file(name: str, data: Path | None, description: str) -> Path:
    """Return the user's copy of a benchmark's file. Raises UserError, with its description, if there is none."""
    if data is None:
        raise UserError(f"benchmark {name} needs its file: give it as data ({description})")
    if not data.exists():
        raise UserError(f"benchmark {name}: no such file: {data} ({description} is expected)")
    return data


def _read_parquet(path: Path) -> list[DataRow]:
    """Return the rows of a Parquet file, decoded in batches: a few bytes of it may stand for billions of values.

    Raises UserError if there are too many of them, and ValueError if the file can't be read.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        return _read_batches(parquet.ParquetFile(path), path)
    # Not all of them are a ValueError.
    except pyarrow.ArrowException as error:
        raise ValueError(str(error)) from None


def _read_batches(file: Any, path: Path) -> list[DataRow]:
    rows: list[DataRow] = []
    num_bytes = 0
    with file:
        if file.metadata.num_rows > MAX_ROWS:
            raise UserError(f"{path}: has {file.metadata.num_rows} rows; at most {MAX_ROWS} are read")
        for batch in file.iter_batches(batch_size=PARQUET_BATCH):
            num_bytes += batch.nbytes + sum(map(_decoded_bytes, batch.columns))
            if num_bytes > MAX_BYTES:
                raise UserError(f"{path}: has more than {MAX_BYTES / 2**20:,.0f} MiB unpacked; give fewer rows")
            rows += batch.to_pylist()
    return rows


def _decoded_bytes(column: Any) -> int:
    """Return the bytes of the texts in a column that holds each of them once, as often as the rows name them."""
    import pyarrow
    from pyarrow import compute

    if not pyarrow.types.is_dictionary(column.type) or not pyarrow.types.is_string(column.type.value_type):
        return 0
    lengths = compute.binary_length(column.dictionary).take(column.indices)
    return int(compute.sum(lengths).as_py() or 0)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or one_line(error)


def _read(path: Path, kind: str, header: Sequence[str]) -> list[DataRow]:
    if kind == "parquet":
        return _read_parquet(path)
    if kind in ("csv", "tsv"):
        lines = io.StringIO(read_text(path), newline="")
        return list(csv.DictReader(lines, fieldnames=header or None, delimiter="\t" if kind == "tsv" else ","))
    return [value for _, value in read_values(path)]
