"""The rows of a file as a sequence that holds none of them: each is read when it is asked for."""

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
    """Rows of JSON lines in `path`. In memory is where each one starts, 8 bytes a row; a slice is a list of rows."""

    def __init__(self, path: Path, kind: type[R], starts: "array[int] | None" = None) -> None:
        self.path, self.kind = path, kind
        self.starts = array("Q") if starts is None else starts

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, place: int) -> R: ...
    @overload
    def __getitem__(self, place: slice) -> list[R]: ...
    def __getitem__(self, place: int | slice) -> R | list[R]:
        if isinstance(place, slice):
            return list(self._rows(self.starts[place]))
        return next(self._rows((self.starts[place],)))

    def __iter__(self) -> Iterator[R]:
        return self._rows(self.starts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(one == two for one, two in zip(self, other, strict=True))

    def _rows(self, starts: Iterable[int]) -> Iterator[R]:
        here = 0
        with self.path.open("rb") as file:
            for start in starts:
                if start != here:
                    file.seek(start)
                line = file.readline()
                here = start + len(line)
                yield self.kind.model_validate_json(line)


def filter_rows(rows: Sequence[T], keep: Callable[[T], bool]) -> Sequence[T]:
    """The rows that are kept, in their order: of stored ones, stored ones."""
    if not isinstance(rows, JsonlRows):
        return [row for row in rows if keep(row)]
    starts = (start for start, row in zip(rows.starts, rows, strict=True) if keep(row))
    return JsonlRows(rows.path, rows.kind, array("Q", starts))


def read_rows(path: Path, kind: type[R]) -> JsonlRows[R]:
    """The rows of a finished file. Raises UserError, naming the line, where one is not a row of this kind."""
    starts, end = array("Q"), 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                kind.model_validate_json(line)
            except ValidationError:
                raise UserError(
                    f"{path} line {number}: not a {kind.__name__} row; "
                    "mend the line, or delete the file to have it made again"
                ) from None
            starts.append(end)
            end += len(line)
    return JsonlRows(path, kind, starts)


def whole_batches(part: Path, kind: type[R], size: int) -> tuple[JsonlRows[R], int]:
    """The rows of a NAME.part up to its last whole batch, and the length of the file up to there, in bytes.

    A torn line, or one that can't be read after a power cut, ends it: what follows is made again.
    """
    ends = array("Q", [0])
    if part.exists():
        with part.open("rb") as file:
            for line in file:
                try:
                    kind.model_validate_json(line)
                except ValidationError:
                    break
                if not line.endswith(b"\n"):
                    break
                ends.append(ends[-1] + len(line))
    whole = (len(ends) - 1) // size * size
    return JsonlRows(part, kind, ends[:whole]), ends[whole]
