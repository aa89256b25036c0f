"""No stage holds an iteration's rows: memory does not grow with them."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from benchmarks.streaming import run_stages
from isheep.errors import UserError
from isheep.records import Drop
from isheep.rundir import jsonl
from isheep.rundir.atomic import write_json, write_json_list
from isheep.rundir.jsonl import JsonlRows, filter_rows


def peak(root: Path, count: int) -> int:
    """Return the largest number of bytes that Python's own objects take at a time."""
    tracemalloc.start()
    try:
        run_stages(root, count, lambda stage: None, with_diversity=False)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isheep.text.overlap.ROWS_AT_A_TIME", 100)
    monkeypatch.setattr("isheep.rundir.folder.ROWS_PER_SYNC", 100)
    # The first run loads modules, whose memory is not to be counted.
    peak(tmp_path / "first", 100)
    peak_of_few, peak_of_many = (peak(tmp_path / str(count), count) for count in (300, 1200))
    file_size = (tmp_path / "1200" / "iter-1" / "pairs.jsonl").stat().st_size
    assert (
        peak_of_many - peak_of_few < 0.75 * file_size * 0.75
        # The difference is 900 of 1200 rows. As objects in a list they would take more memory than their file.
    )
    rows = json.loads((tmp_path / "300" / "export" / "alpaca.json").read_text())
    training_rows = json.loads((tmp_path / "300" / "iter-1" / "train.json").read_text())
    assert [row | {"finish": "stop"} for row in rows] == training_rows and 200 < len(rows) < 300


@pytest.mark.slow
def test_the_stages_process_a_hundred_thousand_rows(tmp_path: Path) -> None:
    stages: list[str] = []
    run_stages(tmp_path, 100_000, stages.append)
    assert len((tmp_path / "iter-1" / "assessed.jsonl").read_bytes().splitlines()) == 100_000 and len(stages) == 8


def test_the_rows_of_a_file_are_a_sequence(tmp_path: Path) -> None:
    rows = [Drop(row=str(n), by="score", why="é" * n) for n in range(9)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(row.model_dump_json() + "\n" for row in rows), encoding="utf-8")
    stored = jsonl.read_rows(path, Drop)
    assert stored == rows and list(stored) == rows and stored[2:5] == rows[2:5] and stored[-1] == rows[-1]
    odd = filter_rows(stored, lambda row: int(row.row) % 2 == 1)
    assert isinstance(odd, JsonlRows) and list(odd) == rows[1::2] and odd[1] == rows[3] and odd[::-1] == rows[7::-2]
    with pytest.raises(IndexError):
        stored[9]
    path.write_text(path.read_text() + "torn\n")
    with pytest.raises(UserError, match="line 10: not a Drop row"):
        jsonl.read_rows(path, Drop)


@pytest.mark.parametrize("values", [[], [1], [{"a": "b\nc", "d": {"e": [1, "\u2028é"]}}, "x", {}]])
def test_a_list_is_written_as_json_writes_it(tmp_path: Path, values: list[Any]) -> None:
    write_json_list(tmp_path / "one.json", iter(values))
    write_json(tmp_path / "other.json", values)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "other.json").read_bytes()
