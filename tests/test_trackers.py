"""Trackers: what they get of a run, once each, and that they change nothing of it. Real ones: test_track_real.py."""

import json
from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from helpers.command import isheep, refused
from helpers.hashes import hash_files
from helpers.tracked_run import LOSSES, SETTINGS

from isheep import trackers
from isheep.trackers.kinds import TRACKERS, TrackedRun, TrackerKind


class Recorder:
    """A tracker that writes down what it gets. `error` is raised instead, from the call of that number on."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments

    calls: list[tuple[str, Any]] = []
    fails_from: int | None = None

    def start(self) -> None:
        self._call("start", self.arguments)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self._call("settings", values)

    def log(self, values: dict[str, Any], step: int) -> None:
        print("chatter of a tracker")
        self._call("log", (step, values))

    def finish(self) -> None:
        self._call("finish", None)

    def _call(self, name: str, value: Any) -> None:
        if self.fails_from is not None and len(self.calls) >= self.fails_from:
            raise ConnectionError("no answer")
        self.calls.append((name, value))


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[Recorder]:
    """A tracker `recorder` that accelerate knows and whose package is installed."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "recorder.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "recorder", Recorder)
    monkeypatch.setitem(TRACKERS, "recorder", TrackerKind(TrackedRun._asdict))
    monkeypatch.setattr(Recorder, "calls", [])
    monkeypatch.setattr(Recorder, "fails_from", None)
    return Recorder


def run_files(out: Path) -> dict[str, str]:
    """The hashes of the files of a run but for the section `machine` of its recipe, and for what trackers need."""
    files = hash_files(out)
    return {name: value for name, value in files.items() if not name.startswith(("tracking/", "recipe.yaml"))}


def logged(recorder: type[Recorder]) -> list[tuple[int, str, float]]:
    """Each number that the tracker got: step, series, value."""
    logs = [value for name, value in recorder.calls if name == "log"]
    return [(step, name, value) for step, values in logs for name, value in values.items()]


def test_a_tracker_gets_each_number_once_over_resumed_calls(recorder: type[Recorder], tmp_path: Path) -> None:
    out, words = tmp_path / "tracked", ("machine.track=[recorder]", *SETTINGS)
    done = isheep("run", "lamb", *words, "--out", out)
    assert done.code == 0 and "chatter" not in done.out
    names = [name for name, _ in recorder.calls]
    assert names[:2] == ["start", "settings"] and names[-1] == "finish" and names.count("settings") == 1
    arguments = recorder.calls[0][1]
    assert arguments["name"] == "tracked" and arguments["folder"] == out / "tracking"
    settings = dict(recorder.calls[1][1])
    assert settings["training.max_steps"] == 2 and not any(key.startswith("machine") for key in settings)

    num_calls = len(recorder.calls)
    assert isheep("run", out).code == 0
    assert len(recorder.calls) == num_calls

    assert isheep("run", out, "iterations=2").code == 0
    name, again = recorder.calls[num_calls]
    assert name == "start" and (again["name"], again["id"]) == (arguments["name"], arguments["id"])
    numbers = logged(recorder)
    assert len({(step, name) for step, name, _ in numbers}) == len(numbers)
    series = {name for _, name, _ in numbers}
    assert series >= LOSSES | {"data/kept share", "diversity/vocabulary", "cost/seconds", "cost/tokens"}
    losses = {(name, step): value for step, name, value in numbers}
    record = json.loads((out / "iter-2" / "adapter" / "training.json").read_text())
    assert [losses["training/loss/iteration 2", step] for step, _ in record["loss"]] == [
        value for _, value in record["loss"]
    ]
    sent = json.loads((out / "tracking" / "sent.json").read_text())["trackers"]["recorder"]
    assert {name for name in sent} == series


@pytest.mark.slow
def test_the_losses_of_a_training_in_two_processes_arrive(recorder: type[Recorder], tmp_path: Path) -> None:
    out, words = tmp_path / "run", ("machine.track=[recorder]", *SETTINGS, "machine.gpus=2")
    assert isheep("run", "lamb", *words, "--out", out).code == 0
    record = json.loads((out / "iter-1" / "adapter" / "training.json").read_text())
    losses = [[step, value] for step, name, value in logged(recorder) if name == "training/loss/iteration 1"]
    assert losses == record["loss"]
    names = [sorted(values) for _, values in (value for name, value in recorder.calls if name == "log")]
    # They came one by one, while the training went on.
    assert ["training/loss/iteration 1"] in names


@pytest.mark.slow
def test_a_tracker_that_fails_leaves_a_note_and_the_run_as_it_is(recorder: type[Recorder], tmp_path: Path) -> None:
    plain, tracked, failing = tmp_path / "plain", tmp_path / "tracked", tmp_path / "failing"
    assert isheep("run", "lamb", *SETTINGS, "--out", plain).code == 0
    assert not (plain / "tracking").exists()
    words = ("machine.track=[recorder]", *SETTINGS)
    assert isheep("run", "lamb", *words, "--out", tracked).code == 0
    recorder.fails_from = len(recorder.calls) + 3
    done = isheep("run", "lamb", *words, "--out", failing)
    line = "tracker recorder gets nothing more from this process, and the run goes on: ConnectionError: no answer"
    assert done.code == 0 and done.err.count(line) == 1
    assert line in isheep("status", failing).out
    assert run_files(plain) == run_files(tracked) == run_files(failing)


@pytest.mark.slow
def test_the_scores_of_a_run_have_intervals(
    recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from isheep.benchmarks import lamb
    from isheep.lamb.suite import suite

    monkeypatch.setattr(lamb, "suite", lambda: suite()[:20])
    words = ("machine.track=[recorder]", *SETTINGS, "evaluation=[lamb]")
    assert isheep("run", "lamb", *words, "--out", tmp_path / "run").code == 0
    values = {(step, name): value for step, name, value in logged(recorder)}
    for iteration in (0, 1):
        low, value, high = (values[iteration, f"scores/lamb/content{end}"] for end in (" low", "", " high"))
        assert 0 <= low <= value <= high <= 1
    # Names are of characters that MLflow allows.
    assert all(set(name) <= set(trackers._series_name(name)) for _, name in values)


@pytest.mark.slow
def test_each_random_seed_has_a_run_of_its_own_and_no_path_is_sent(recorder: type[Recorder], tmp_path: Path) -> None:
    seeds = tmp_path / "seeds.jsonl"
    rows = [{"instruction": f"Say {n} and {n + 1}", "input": "", "output": str(n)} for n in range(8)]
    seeds.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("machine.track=[recorder]", *SETTINGS, f"seed_tasks={seeds}")
    assert isheep("run", "lamb", *words, "--seeds", "2", "--out", tmp_path / "both").code == 0
    starts = [value for name, value in recorder.calls if name == "start"]
    assert [start["name"] for start in starts] == ["both-seed-42", "both-seed-43"]
    assert len({start["id"] for start in starts}) == 2
    settings = [value for name, value in recorder.calls if name == "settings"]
    assert [dict(values)["seed_tasks"] for values in settings] == ["seeds.jsonl"] * 2
    assert str(tmp_path) not in repr([call for call in recorder.calls if call[0] != "start"])


def test_a_tracker_that_is_not_known_or_not_installed_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    line = refused("run", "lamb", "machine.track=[tensorbord]", "--out", out)
    assert "tracker 'tensorbord' is not known: did you mean 'tensorboard'?" in line
    line = refused("run", "lamb", "machine.track=[wandb, wandb]", "--out", out)
    assert "tracker wandb is there twice" in line
    monkeypatch.setattr("isheep.trackers.importlib.util.find_spec", lambda name: None)
    line = refused("run", "lamb", "machine.track=[mlflow]", "--out", out)
    assert "machine.track names mlflow, which is not installed: pip install 'isheep[mlflow]'" in line
    assert not out.exists()
