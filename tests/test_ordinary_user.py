"""Files and folders that an ordinary user may not read or write, and paths that some programs can't take."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from isheep.rundir import atomic
from isheep.rundir.run import open_run
from tests.helpers.command import ROOT, Done, refused
from tests.helpers.command import isheep as command_line
from tests.helpers.graded_run import make_graded_run
from tests.helpers.hashes import hash_files
from tests.helpers.ordinary_user import as_ordinary_user
from tests.helpers.ratings import SMALL


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder whose content gets its permissions back at the end, so that it can be removed."""
    yield tmp_path
    for path in sorted(tmp_path.rglob("*"), reverse=True):
        if not path.is_symlink():
            path.chmod(0o755)


def closed(path: Path, content: str = "") -> Path:
    """Write a file that may not be read."""
    path.write_text(content)
    path.chmod(0)
    return path


def closed_folder(path: Path, mode: int = 0) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    return path


def is_one_line(done: Done, text: str) -> bool:
    """Return whether a command ended with one line that has a text, and with no traceback before it."""
    *_, line = done.err.splitlines() or [""]
    return done.code == 2 and line.startswith("isheep: ") and text in line and "Traceback" not in done.err


@pytest.mark.slow
def test_what_may_not_be_read_or_written_is_one_line(folder: Path) -> None:
    model = Path(shutil.copytree(ROOT / "isheep/lamb/base", folder / "model"))
    weights = Path(shutil.copytree(ROOT / "isheep/lamb/base", folder / "weights"))
    next(weights.glob("*.safetensors")).chmod(0)
    (model / "config.json").chmod(0)
    unreadable = make_graded_run(folder / "unreadable")
    (unreadable / "iter-1/pairs.jsonl").chmod(0)
    unwritable = make_graded_run(folder / "unwritable")
    recipe = unwritable / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("model: fake", "model: lamb"))
    for path in (*unwritable.rglob("*"), unwritable):
        path.chmod(0o555 if path.is_dir() else 0o444)
    for name in ("recipe.yaml", "seeds.jsonl", "prompt.yaml", "chat.jinja", "data.jsonl", "hidden.safetensors"):
        closed(folder / name)
    closed_folder(folder / "read-only", 0o555)
    closed_folder(folder / "closed")
    closed_folder(folder / "no-model")
    cases: list[tuple[tuple[str, ...], str]] = [
        (("run", "lamb", "--out", "read-only/run"), "run folder read-only/run can't be made: Permission denied"),
        (("run", "lamb", "--out", "closed/run"), "closed/run"),
        (("run", "lamb", "--out", "closed"), "closed"),
        (("run", "recipe.yaml", "--out", "new"), "recipe.yaml"),
        (("run", "lamb", "seed_tasks=seeds.jsonl", "--out", "new"), "seeds.jsonl"),
        (("run", "lamb", "synthesis.prompt=prompt.yaml", "--out", "new"), "prompt.yaml"),
        (("run", "lamb", "chat_template=chat.jinja", "--out", "new"), "chat.jinja"),
        (("run", "lamb", "model=./no-model", "--out", "new"), "no-model"),
        (("run", "lamb", "model=./model", "--out", "new"), "model"),
        (("run", "lamb", "model=./weights", "--out", "new"), "weights"),
        (("run", "lamb", "evaluation=[{name: ifeval, data: data.jsonl}]", "--out", "new"), "data.jsonl"),
        (("run", "unwritable"), "run folder unwritable can't be written to: Permission denied"),
        (("redo", "unwritable", "--from", "answers"), "unwritable"),
        (("report", "unwritable"), "report.html"),
        (("export", "unwritable", "--as", "alpaca", "--iteration", "1"), "unwritable"),
        (("export", "unwritable", "--as", "alpaca", "--iteration", "1", "--out", "read-only/x.json"), "read-only"),
        (("status", "closed"), "closed"),
        (("show", "closed"), "closed"),
        (("report", "unreadable"), "pairs.jsonl"),
        (("compare", "closed", "unwritable"), "closed"),
        (("scores", "data.jsonl"), "data.jsonl"),
        (("sweep", "recipe.yaml"), "recipe.yaml"),
        (("plan", "recipe.yaml"), "recipe.yaml"),
    ]
    ends = as_ordinary_user([words for words, _ in cases], folder)
    wrong = [(*case, done) for case, done in zip(cases, ends, strict=True) if not is_one_line(done, case[1])]
    assert not wrong and not (folder / "new").exists()


def test_a_run_folder_that_may_only_be_read_is_shown(folder: Path) -> None:
    run = make_graded_run(folder / "run")
    for path in (*run.rglob("*"), run):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = hash_files(run)
    for done in as_ordinary_user([("status", "run"), ("show", "run", "1"), ("status", "run", "--json")], folder):
        assert done.code == 0 and done.out and not done.err
    assert hash_files(run) == before


@pytest.mark.slow
@pytest.mark.parametrize("home", [None, "/nonexistent", "closed", "file"])
def test_a_run_needs_neither_a_home_nor_a_checkout_that_can_be_written(home: str | None, folder: Path) -> None:
    """The package lies in a folder that may only be read, and nothing is written into it or beside it."""
    checkout = folder / "checkout"
    shutil.copytree(ROOT / "isheep", checkout / "isheep", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "tests/helpers", checkout / "tests/helpers", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "recipes", checkout / "recipes")
    before = hash_files(checkout)
    for path in (checkout, *checkout.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    closed_folder(folder / "closed")
    (folder / "file").write_text("")
    (folder / "work").mkdir()
    home_path = str(folder / home) if home in ("closed", "file") else home
    environment = {"HOME": home_path, "PYTHONPATH": str(checkout), "ISHEEP_NO_REPORT": None}
    words = ["run", *SMALL, "--out", "run"]
    [run, report] = as_ordinary_user([words, ["report", "run"]], folder / "work", environment)
    assert run.code == 0 and (folder / "work/run/report.html").exists(), run.err
    assert report.code == 0
    assert "Permission denied" not in run.err + report.err
    assert hash_files(checkout) == before and {path.name for path in (folder / "work").iterdir()} == {"run"}


def test_files_are_taken_over_from_a_run_that_may_only_be_read(folder: Path) -> None:
    """The copies can be written to, as those of a run of one's own."""
    run = make_graded_run(folder / "run")
    for path in (*run.rglob("*"), run):
        path.chmod(0o555 if path.is_dir() else 0o444)
    atomic.copy_atomically(run / "iter-1", folder / "copy")
    assert hash_files(folder / "copy") == hash_files(run / "iter-1")
    assert all(path.stat().st_mode & 0o200 for path in (folder / "copy", *(folder / "copy").rglob("*")))


# --- paths


def test_the_home_of_an_unknown_user_is_one_line(tmp_path: Path) -> None:
    line = refused("run", "model=~nobody-of-this-name/model", "--out", tmp_path / "run")
    assert "~nobody-of-this-name/model does not exist" in line


def test_a_path_that_is_not_utf8_is_one_line(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/run\xff")
    for words in (
        ("run", "lamb", "--out", name),
        ("status", name),
        ("run", f"model={name}"),
        ("export", "x", "--out", name),
    ):
        line = refused(*words)
        assert "is not UTF-8: rename the file or folder, or give another one" in line and "run\\udcff" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_in_a_folder_that_is_not_utf8(tmp_path: Path) -> None:
    """A path that is given from there is UTF-8, and so is what the run writes."""
    current = Path(os.fsdecode(os.fsencode(tmp_path) + b"/run\xff"))
    current.mkdir()
    run = make_graded_run(current / "run")
    commands = [("status", "run"), ("show", "run", "1"), ("report", "run"), ("status", "."), ("report", "run", "run")]
    for done in as_ordinary_user(commands, current):
        assert done.code in (0, 2) and "Traceback" not in done.err
        assert done.code == 0 or done.err.count("\n") == 1
    (run / "report.html").read_text(encoding="utf-8")


LONG = "x" * 255


def test_long_names_are_used_or_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = make_graded_run(tmp_path / LONG)
    assert command_line("status", LONG).code == 0 and command_line("report", LONG).code == 0
    assert command_line("export", LONG, "--as", "alpaca", "--iteration", "1").code == 0
    # The name of the fork that is proposed is one that a file system takes.
    line = refused("run", LONG, "training.epochs=9")
    name = line.partition("--fork ")[2].strip()
    assert name == f"{'x' * 200}-2" and open_run(run)
    assert "File name too long" in refused("run", "lamb", "--out", f"{LONG}x")
    assert "File name too long" in refused("run", "lamb", "--out", f"{LONG}x/run")
    deep = "/".join([LONG] * 15)
    assert "is longer than 3840 bytes: give a shorter --out" in refused("run", "lamb", "--out", deep)
    assert "no such folder" in refused("status", deep)
    assert not (tmp_path / LONG / LONG).exists()


# --- file systems


@pytest.mark.parametrize("number", atomic.NO_FSYNC)
def test_a_file_system_without_fsync_does_not_end_a_run(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    run = make_graded_run(tmp_path / "run")
    assert command_line("status", run).code == 0


def test_a_file_system_without_locks_does_not_end_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    run = make_graded_run(tmp_path / "run")
    line = f"run folder {run} is on a file system without locks: see to it that no other process writes it"
    assert capsys.readouterr().err.splitlines().count(line) == 1
    done = command_line("run", "--watch", run)
    assert done.code in (0, 2) and "Traceback" not in done.err
    assert command_line("status", run).code == 0


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (errno.EDQUOT, "the disk quota is used up; everything finished so far is saved: free some space"),
        (errno.EIO, "the file system fails (Input/output error); everything finished so far is saved: run the same"),
        (errno.ESTALE, "the file system fails (Stale file handle); everything finished so far is saved"),
    ],
)
def test_a_file_system_that_fails_is_one_line(
    number: int, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    run = make_graded_run(tmp_path / "run")
    monkeypatch.setattr(os, "fsync", fail)
    assert line in refused("export", run, "--as", "alpaca", "--iteration", "1", "--out", tmp_path / "rows.json")
