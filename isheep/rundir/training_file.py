"""The training file of an iteration, train.json: a JSON list of rows in the Alpaca form with `finish` added.

The filtering stage writes it, the trainer reads it, and what is learned depends on nothing but its content, the
settings of the training and the seed.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, ValidationError

from isheep.errors import UserError, one_line
from isheep.records import History, Pair, Record, Turns, history_turns, is_empty, user_turn
from isheep.rundir.folder import RunFolder

TRAINING_FILE = "train.json"


class TrainingRow(Record):
    """A row of the training file. `finish` is "length" if the output was cut off: then no end token is learned.

    Only the output is learned. `history` are the turns before it in a dialogue, as in LLaMA-Factory's Alpaca form.
    """

    instruction: str
    input: str = ""
    output: str
    finish: Literal["stop", "length"] = "stop"
    history: Annotated[History, Field(exclude_if=is_empty)] = ()

    @property
    def turns(self) -> Turns:
        """The turns that the output answers, as (role, content): those of the history, and the user's turn."""
        return [*history_turns(self.history), ("user", user_turn(self.instruction, self.input))]


class TrainingData(NamedTuple):
    """The content of a training file: its rows, and the SHA-256 of its bytes in hexadecimal digits."""

    path: Path
    rows: list[TrainingRow]
    sha256: str


def training_row(pair: Pair) -> TrainingRow:
    """Return the row from which a pair is learned."""
    return TrainingRow(
        instruction=pair.instruction,
        input=pair.input,
        output=pair.output,
        finish="length" if pair.finish == "length" else "stop",
        history=pair.history,
    )


def write_training_file(folder: RunFolder, rows: Iterable[TrainingRow]) -> Path:
    """Write train.json in an iteration's folder, row by row, if it does not exist yet. Return its path."""
    folder.write_json_list(TRAINING_FILE, (row.model_dump() for row in rows))
    return folder.path / TRAINING_FILE


def read_training_file(path: Path) -> TrainingData:
    """Return the rows of a training file and its hash; a row without `finish` counts as "stop".

    Raises UserError, naming the file and the row, if the file can't be read or a row is malformed.
    """
    content = _read_bytes(path)
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: not JSON ({one_line(error)}); correct it, or delete it to have it written again"
        ) from None
    if not isinstance(values, list):
        raise UserError(f"{path}: a {type(values).__name__} found, a JSON list of rows expected")
    rows = [_read_row(path, number, value) for number, value in enumerate(values, 1)]
    return TrainingData(path, rows, hashlib.sha256(content).hexdigest())


def training_file_sha256(path: Path) -> str:
    """Return the SHA-256 of a training file in hexadecimal digits. Raises UserError if it can't be read."""
    return hashlib.sha256(_read_bytes(path)).hexdigest()


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"training file {path} can't be read: {error.strerror or error}") from None


def _read_row(path: Path, number: int, value: Any) -> TrainingRow:
    try:
        return TrainingRow.model_validate(value)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(map(str, problem["loc"]))
        reason = f"{key}: {problem['msg']}" if key else problem["msg"]
        raise UserError(
            f"{path} row {number}: {reason}; a row has the keys instruction, input, output, finish (stop or length) "
            "and, in a dialogue, history (pairs of a user's turn and its answer)"
        ) from None
