"""The training file: what is written is what is read, and a malformed row is named."""

import hashlib
import json
from pathlib import Path

import pytest

from isheep.errors import UserError
from isheep.records import Pair
from isheep.rundir.folder import RunFolder
from isheep.rundir.training_file import (
    TrainingRow,
    read_training_file,
    training_file_sha256,
    training_row,
    write_training_file,
)

PAIR = Pair(id="a", instruction="Say", input="hü", output="It is.", finish="length", tokens=3, seed=1, thoughts="Hm")


def test_rows_are_alpaca_rows_with_finish(tmp_path: Path) -> None:
    other_pair = PAIR.model_copy(update={"finish": "content_filter"})
    path = write_training_file(RunFolder(tmp_path, tmp_path), map(training_row, [PAIR, other_pair]))
    assert path == tmp_path / "train.json"
    assert json.loads(path.read_text(encoding="utf-8")) == [
        {"instruction": "Say", "input": "hü", "output": "It is.", "finish": "length"},
        {"instruction": "Say", "input": "hü", "output": "It is.", "finish": "stop"},
    ]
    data = read_training_file(path)
    assert data.rows == [training_row(PAIR), training_row(other_pair)]
    assert data.rows[0].turns == [("user", PAIR.content)]
    assert data.sha256 == training_file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_plain_alpaca_rows_are_read_as_complete_answers(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text('[{"instruction": "Say", "output": "Yes"}]')
    rows = read_training_file(tmp_path / "train.json").rows
    assert rows == [TrainingRow(instruction="Say", input="", output="Yes", finish="stop")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "train.json: not JSON"),
        ("{}", "train.json: a dict found, a JSON list of rows expected"),
        (
            '[{"instruction": "Say", "output": "Yes"}, {"instruction": "Say"}]',
            "row 2: output: Field required",
        ),
        ('[{"instruction": "Say", "output": 5}]', "train.json row 1: output: Input should be a valid string"),
        ('[{"instruction": "Say", "output": "Yes", "finsh": "stop"}]', "train.json row 1: finsh: Extra inputs"),
        (
            '[{"instruction": "Say", "output": "Yes", "finish": ""}]',
            "row 1: finish: Input should be 'stop'",
        ),
        ('["Yes"]', "train.json row 1: Input should be a valid dictionary"),
    ],
)
def test_a_malformed_file_is_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(UserError) as raised:
        read_training_file(tmp_path / "train.json")
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training file .*train\.json can't be read: No such file"):
        read_training_file(tmp_path / "train.json")
