"""The rows of a file of JSON lines as a sequence that reads each row from the disk when it is needed."""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar, overload

from pydantic import ValidationError

from isheep.errors import UserError
from isheep.records import Record

R = TypeVar("R", bound=Record)
T = TypeVar("T")


class JsonlRows(Sequence[R], Generic[R]):
    """The rows of a file. The memory holds only the offset of each row, 8 bytes a row. A slice is a list of rows."""

    def __init__(self, path: Path, row_type: type[R], starts: "array[int] | None" = None) -> None:
        self.path, self.row_type = path, row_type
        self.starts = array("Q") if starts is None else starts

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> R: ...
    @overload
    def __getitem__(self, index: slice) -> list[R]: ...
    def __getitem__(self, index: int | slice) -> R | list[R]:
        if isinstance(index, slice):
            return list(self._rows(self.starts[index]))
        return next(self._rows((self.starts[index],)))

    def __iter__(self) -> Iterator[R]:
        return self._rows(self.starts)

    def __eq__(self, value: object) -> bool:
        if not isinstance(value, Sequence) or len(self) != len(value):
            return False
        return all(row == other_row for row, other_row in zip(self, value, strict=True))

    def _rows(self, starts: Iterable[int]) -> Iterator[R]:
        position = 0
        with self.path.open("rb") as file:
            for start in starts:
                if start != position:
                    file.seek(start)
                line = file.readline()
                position = start + len(line)
                yield self.row_type.model_validate_json(line)


def filter_rows(rows: Sequence[T], keep: Callable[[T], bool]) -> Sequence[T]:
    """Return the rows for which `keep` is true, in their order; as JsonlRows if `rows` are JsonlRows."""
    if not isinstance(rows, JsonlRows):
        return [row for row in rows if keep(row)]
    starts = (start for start, row in zip(rows.starts, rows, strict=True) if keep(row))
    return JsonlRows(rows.path, rows.row_type, array("Q", starts))


def read_rows(path: Path, row_type: type[R]) -> JsonlRows[R]:
    """Return the rows of a complete file. Raises UserError, naming the line, if one is not a row of this type."""
    starts, end = array("Q"), 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row_type.model_validate_json(line)
            except ValidationError:
                article = "an" if row_type.__name__[0] in "AEIOU" else "a"
                raise UserError(
                    f"{path} line {number}: not {article} {row_type.__name__} row; "
                    "correct the line, or delete the file to have it made again"
                ) from None
            starts.append(end)
            end += len(line)
    return JsonlRows(path, row_type, starts)


def whole_batches(part: Path, row_type: type[R], batch_size: int) -> tuple[JsonlRows[R], int]:
    """Return the rows of a NAME.part up to its last whole batch, and the length in bytes of the file up to there.

    The first line that is torn, or unreadable after a power cut, ends the rows: the following ones are made again.
    """
    ends = array("Q", [0])
    if part.exists():
        with part.open("rb") as file:
            for line in file:
                try:
                    row_type.model_validate_json(line)
                except ValidationError:
                    break
                if not line.endswith(b"\n"):
                    break
                ends.append(ends[-1] + len(line))
    num_rows = (len(ends) - 1) // batch_size * batch_size
    return JsonlRows(part, row_type, ends[:num_rows]), ends[num_rows]
