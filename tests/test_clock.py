"""A clock that is set back while a run goes on: the same files, and no figure that depends on it."""

import itertools
import json
import time
from pathlib import Path

import pytest

from isheep.models.chat_template import load_chat_template
from isheep.recipe.schema import Lora, Training
from isheep.records import Model
from isheep.rundir import progress
from isheep.rundir.folder import RunFolder
from isheep.rundir.run import read_events
from isheep.rundir.snapshot import Snapshot
from isheep.rundir.stage_times import stage_seconds
from tests.helpers import lab as labs
from tests.helpers.command import isheep
from tests.helpers.lab import Lab
from tests.helpers.training import numbered_rows, train_peft


def set_clock_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the clock back by an hour at every third look at it."""
    real_time, looks = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: real_time() - 3600 * (next(looks) // 3))


def test_a_run_ends_with_the_same_files_and_no_negative_time(
    command_lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command_lab.run_recipe(labs.recipe(), tmp_path / "whole")
    set_clock_back(monkeypatch)
    snapshots = list[Snapshot]()

    def look(stage_changed: bool) -> None:
        if snapshot := progress.snapshot():
            snapshots.append(snapshot)

    with progress.listen(look):
        command_lab.run_recipe(labs.recipe(), tmp_path / "run")
    assert labs.result_hashes(tmp_path / "run") == labs.result_hashes(tmp_path / "whole")
    events = read_events(tmp_path / "run")
    times = [event["time"] for event in events]
    assert times == sorted(times) and all(event.get("seconds", 0) >= 0 for event in events)
    assert snapshots and all(entry.seconds >= 0 and (entry.seconds_left or 0) >= 0 for entry in snapshots)
    assert all((entry.tokens_per_second or 0) >= 0 for entry in snapshots)
    done = isheep("status", tmp_path / "run", "--full")
    seconds = stage_seconds(RunFolder(tmp_path / "run", tmp_path / "run")).seconds
    assert done.code == 0 and seconds and min(seconds.values()) >= 0


def test_what_an_earlier_try_made_is_told_by_the_order_of_the_events(tmp_path: Path) -> None:
    """The second try begins an hour earlier by the clock."""
    lines = [
        {"time": 5000.0, "started": {}},
        {"time": 5010.0, "file": "iter-1/eval/lamb/answers.jsonl", "seconds": 8.0},
        {"time": 1400.0, "started": {}},
        {"time": 1410.0, "file": "iter-1/eval/lamb.json", "seconds": 5.0},
    ]
    (tmp_path / "run.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = RunFolder(tmp_path, tmp_path)
    assert stage_seconds(run).seconds == {("iter-1", "evaluation"): 13.0}
    # Within one try, the answers are part of the result.
    lines = [lines[0], lines[1], {"time": 5011.0, "file": "iter-1/eval/lamb.json", "seconds": 9.5}]
    (tmp_path / "run.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert stage_seconds(run).seconds == {("iter-1", "evaluation"): 9.5}


@pytest.mark.slow
@pytest.mark.numeric
def test_a_training_ends_with_the_same_bytes(qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(batch_size=2, max_steps=4, warmup_steps=0, held_out=0.3, eval_every=1, lora=Lora(dropout=0.0))
    chat = load_chat_template("tokenizer", str(qwen2))
    for name in ("whole", "run"):
        train_peft(Model(str(qwen2)), numbered_rows(8), chat, training, tmp_path / name)
        set_clock_back(monkeypatch)
    contents = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("whole", "run")]
    assert contents[0] == contents[1]
