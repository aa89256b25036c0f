"""Odd contents of a run folder: broken lines, adapters, pipes and links, a removed lock, names that a shell reads."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from isheep.errors import UserError
from isheep.models.adapter_check import check_adapter
from isheep.rundir.events import read_events
from tests.helpers.command import ROOT, refused
from tests.helpers.command import isheep as command
from tests.helpers.damage import FakeModels, Matrix, copy_of, edit, flip_bit
from tests.helpers.hashes import hash_files

# --- one line, no traceback


def test_lines_of_the_events_that_are_none_are_said(finished: Path) -> None:
    events = finished / "run.jsonl"
    lines = events.read_text().splitlines()
    for bad in ("null", '"x"', "[1]", '{"file": 5}', '{"file": "iter-1/pairs.jsonl", "seconds": "long"}', '{"torn'):
        events.write_text("\n".join([*lines[:2], bad, *lines[2:]]) + "\n")
        done = command("status", finished, "--full")
        assert done.code == 0 and "run.jsonl: line 3 is no event" in done.out
    assert command("run", finished).code == 0
    # A kill may tear the last line, and the next start removes it.
    events.write_text("\n".join(lines) + '\n{"torn')
    assert "no event" not in command("status", finished).out
    assert command("run", finished).code == 0 and len(read_events(finished)) == len(lines) + 1


def test_a_damaged_manifest_is_named(finished: Path) -> None:
    text = (finished / "manifest.json").read_text()
    for damaged in ("", text[:500], text.replace('"size": 6', '"size": 7', 1), "[]", '{"format": 1}'):
        (finished / "manifest.json").write_text(damaged)
        for words in (("status", finished), ("run", finished), ("verify", finished)):
            assert f"{finished}/manifest.json is damaged: put it back" in refused(*words)


def test_a_run_folder_that_is_removed_under_way_ends_in_one_line(
    matrix: Matrix, fake_models: FakeModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copy_of(matrix, "training 2 owed", tmp_path / "run")
    train = fake_models.train

    def remove_and_train(*arguments: object) -> None:
        shutil.rmtree(run)
        train(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("isheep.backends.DEFAULT_BACKEND.train", remove_and_train)
    assert f"run folder {run} was removed while a command was at work in it" in refused("run", run)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """An adapter folder that is right."""
    from numpy import ones
    from safetensors.numpy import save_file

    save_file({"base_model.model.a.lora_A.weight": ones((8, 4), "float32")}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"r": 8, "lora_alpha": 16, "peft_type": "LORA"}')
    record = {"starts_from_adapter": False, "settings": {"lora": {"rank": 8, "alpha": 16}}}
    (tmp_path / "training.json").write_text(json.dumps(record))
    return tmp_path


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("adapter_config.json", None, "has no adapter_config.json"),
        ("adapter_config.json", "", "not JSON"),
        ("adapter_config.json", '{"r": 8}', "lora_alpha must be a number above 0, found None"),
        ("adapter_config.json", "[]", "an object is needed"),
        (
            "adapter_config.json",
            '{"r": 8, "lora_alpha": 160}',
            "lora_alpha is 160, and the adapter was trained",
        ),
        ("adapter_model.safetensors", None, "has no adapter_model.safetensors"),
        ("adapter_model.safetensors", "", "can't be read as safetensors"),
        ("adapter_model.safetensors", "x" * 50, "can't be read as safetensors"),
    ],
)
def test_a_damaged_adapter_is_named(adapter: Path, file: str, content: str | None, message: str) -> None:
    assert check_adapter(adapter)["lora_alpha"] == 16
    if content is None:
        (adapter / file).unlink()
    else:
        (adapter / file).write_text(content)
    with pytest.raises(UserError, match=message) as raised:
        check_adapter(adapter)
    assert "\n" not in str(raised.value) and str(adapter) in str(raised.value)


def test_truncated_weights_are_named(adapter: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    content = weights.read_bytes()
    for length in (4, 30, len(content) - 1):
        weights.write_bytes(content[:length])
        with pytest.raises(UserError, match="adapter_model.safetensors: can't be read as safetensors"):
            check_adapter(adapter)


# --- what is neither a file nor a folder, and links


ODD = {
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a symbolic link to nothing": lambda path: path.symlink_to("nowhere"),
    "a file": lambda path: path.write_text("no folder"),
}
FOLDERS = ("iter-2", "iter-1/adapter", "base/eval", "annotations")
FILES = (
    "run.jsonl",
    "manifest.json",
    "lock",
    "judge.jsonl",
    "reuse.json",
    "iter-1/pairs.jsonl",
    "iter-2/train.json.part",
)


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", [*FOLDERS, *FILES])
def test_what_is_no_file_or_no_folder_is_refused_in_one_line(finished: Path, name: str, kind: str) -> None:
    if kind == ("a folder" if name in FOLDERS else "a file"):
        return
    path = finished / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    ODD[kind](path)
    must_be = "a folder" if name in FOLDERS else "a file"
    for command_name in ("run", "status", "verify", "report"):
        line = refused(command_name, finished)
        assert f"{path} is {kind}, and must be {must_be}: put the run's own back, or" in line and "move it away" in line


def test_events_without_end_are_refused(finished: Path) -> None:
    with (finished / "run.jsonl").open("r+b") as file:
        file.truncate(2**40)
    assert "run.jsonl: 1,099,511,627,776 bytes, and at most" in refused("status", finished)


def test_a_link_to_a_folder_is_followed_by_the_checks(finished: Path) -> None:
    moved = finished.with_name("elsewhere")
    (finished / "iter-1").rename(moved)
    (finished / "iter-1").symlink_to(moved)
    # A way back up is not followed without end.
    (moved / "up").symlink_to(moved)
    assert command("verify", finished).code == 0 and command("run", finished).code == 0
    (moved / "topics.jsonl").write_text("")
    assert "iter-1/topics.jsonl was not made by this run" in refused("run", finished)
    (moved / "topics.jsonl").unlink()
    flip_bit(moved / "pairs.jsonl", finished)
    assert "iter-1/pairs.jsonl has changed" in refused("run", finished)


# --- the lock


@pytest.mark.parametrize("is_replaced", [False, True])
@pytest.mark.parametrize("step", ["train", "open_engine"])
def test_a_run_whose_lock_is_removed_writes_nothing_more(
    matrix: Matrix,
    fake_models: FakeModels,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    is_replaced: bool,
) -> None:
    run = copy_of(matrix, "training 2 owed", tmp_path / "run")
    if step == "open_engine":
        (run / "iter-2/pairs.jsonl").unlink()
    work, left = getattr(fake_models, step), dict[str, str]()

    def unlock_and_work(*arguments: object) -> object:
        result = work(*arguments)
        (run / "lock").unlink(missing_ok=True)
        if is_replaced:
            (run / "lock").write_text("")
        left.update(hash_files(run))
        return result

    monkeypatch.setattr(f"isheep.backends.DEFAULT_BACKEND.{step}", unlock_and_work)
    assert f"{run}/lock was removed or replaced while this process was writing the folder" in refused("run", run)
    after = hash_files(run)
    assert {name for name in left if after.get(name) != left[name]} <= {"progress.json"}
    assert {name for name in after.keys() - left.keys() if not name.endswith(".part")} == set()


# --- names of folders


PROPOSED = re.compile(r"isheep (?:run|redo|status|show|eval|sweep|verify)(?: --watch)? \{(?!shell_word\(|folder\})")


def test_a_proposed_command_quotes_every_name() -> None:
    files = (ROOT / "isheep").rglob("*.py")
    assert not [path for path in files if PROPOSED.search(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("name", ["a  b; c", "it's", "line\nend", "\x1b[31mred", "tab\tand \\ '", "\x85"])
def test_a_proposed_command_works_in_a_shell_for_every_name(finished: Path, name: str) -> None:
    run = finished.rename(finished.with_name(name))
    edit(run / "iter-2/pairs.jsonl", run)
    line = refused("run", run)
    assert line[:-1].isprintable()
    proposed = line.partition(": isheep ")[2].rstrip("\n")
    words = subprocess.run(["bash", "-c", f"printf '%s\\0' {proposed}"], capture_output=True, text=True, check=True)
    assert words.stdout.split("\0") == ["redo", str(run), "--from", "answers", "--iteration", "2", ""]
    done = command("verify", run)
    assert done.code == 2 and "\x1b" not in done.out + done.err
