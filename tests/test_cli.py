"""The command line: run, status, show and export, on run folders that a real run or a test made."""

import errno
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from isheep.backends import Backend
from isheep.cli.recipe_choice import choose_recipe
from isheep.engines.transformers import open_engine
from isheep.lamb.pretrain import PretrainSettings
from isheep.models.chat_template import load_chat_template
from isheep.recipe import loading
from isheep.records import Model, Sampling
from tests.helpers.backends import use_backend
from tests.helpers.command import Done, harmless, isheep, refused
from tests.helpers.hashes import hash_files

# --- a run on a real checkpoint, tiny and random


@pytest.fixture
def copied(aligned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(aligned, tmp_path / "run"))


def num_kept(run: Path) -> int:
    """Return how many of the four pairs are kept: a random model may write control characters."""
    return 4 - len((run / "iter-1" / "dropped.jsonl").read_text().splitlines())


def test_status_of_a_finished_run(aligned: Path) -> None:
    done = isheep("status", aligned, "--full")
    assert done.code == 0 and "1 of 1 iterations are trained" in done.out
    assert (
        f"{num_kept(aligned)} ({num_kept(aligned) / 4:.0%})" in done.out
        and "instructions" in done.out
        and "training" in done.out
    )
    assert "in progress" not in done.out and "to continue" not in done.out


# --- bad input: one line, exit code 2, and what was made stays as it is


@pytest.mark.parametrize("command", [("status",), ("show", "1"), ("chat",), ("export", "--as", "alpaca")])
def test_a_folder_that_is_no_run(tmp_path: Path, command: tuple[str, ...]) -> None:
    assert "is not a run folder: it has no recipe.yaml" in refused(command[0], tmp_path, *command[1:])
    assert not hash_files(tmp_path)


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["training.epoch=1"], "unknown key 'epoch' in training: did you mean 'epochs'?"),
        (["training.epochs=two"], "training.epochs: input should be a valid integer; found 'two'"),
        (["seed_tasks=nowhere.jsonl"], "seed tasks nowhere.jsonl: no such file"),
        (["seed_tasks=bad.jsonl"], "seed tasks bad.jsonl, line 2: the instruction is missing or empty"),
        (["seed_tasks=torn.jsonl"], "seed tasks torn.jsonl, line 2: not JSON"),
        (["model=./empty"], "model './empty' is no checkpoint"),
        (["model=./nowhere"], "model './nowhere' not found"),
        (["machine.device=gpu"], "machine.device 'gpu' is not on this machine: take cpu"),
        (["machine.device=cuda:99"], "machine.device 'cuda:99' is not on this machine: take cpu"),
        (["machine.rows_per_process=3"], "machine.rows_per_process: 3 does not divide training.batch_size 2"),
        (["model=./untold"], "the tokenizer of './untold' has no chat template: set chat to qwen or llama3"),
    ],
)
def test_a_run_that_cannot_be(
    base: Path, recipe: Path, words: list[str], wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.jsonl").write_text('{"instruction": "Do it"}\n{"instruction": ""}\n')
    (tmp_path / "torn.jsonl").write_text('{"instruction": "Do it"}\n{"instr\n')
    (tmp_path / "empty").mkdir()
    (shutil.copytree(base, tmp_path / "untold") / "chat_template.jinja").unlink()
    contents = hash_files(tmp_path)
    assert wrong in refused("run", recipe, *words, "--out", "out")
    assert hash_files(tmp_path) == contents


def test_a_device_without_memory_is_one_line(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB.\nAnd much more.")

    use_backend(monkeypatch, Backend(train=full))
    done = isheep("run", recipe, "--out", tmp_path / "out")
    line = done.err.splitlines()[-1]
    assert done.code == 2 and line.startswith("isheep: out of memory on the device")
    assert (
        "Tried to allocate 3 GiB" in line
        and "lower machine.engine_batch_size" in line
        and "machine.rows_per_process" in line
    )


def test_a_run_folder_of_another_recipe(recipe: Path, aligned: Path) -> None:
    contents = hash_files(aligned)
    assert "training.epochs: 1 -> 3" in refused("run", recipe, "training.epochs=3", "--out", aligned)
    assert hash_files(aligned) == contents


def test_a_locked_run_folder(recipe: Path, aligned: Path) -> None:
    contents = hash_files(aligned)
    with (aligned / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "is in use by another process" in refused("run", recipe, "--out", aligned)
        assert isheep("status", aligned).code == 0
    assert hash_files(aligned) == contents


def test_a_run_folder_is_continued_with_its_own_recipe(recipe: Path, copied: Path, aligned: Path) -> None:
    for words in ((copied,), ("--out", copied), (copied, "--out", copied, "machine.threads=1")):
        (copied / "iter-1" / "assessed.jsonl").unlink()
        assert isheep("run", *words).code == 0
        assert hash_files(copied) == hash_files(aligned)


def test_a_complete_run_says_that_there_is_nothing_to_do(copied: Path) -> None:
    assert isheep("run", copied).err.splitlines() == ["this run is complete: nothing to do"]
    (copied / "iter-1" / "assessed.jsonl").unlink()
    assert "nothing to do" not in isheep("run", copied).err


def test_iterations_of_a_run_folder_may_grow(copied: Path) -> None:
    assert isheep("run", copied, "iterations=2").code == 0
    assert (copied / "iter-2" / "adapter").is_dir()
    assert "2 of 2 iterations are trained" in isheep("status", copied).out


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (("RUN", "training.epochs=3"), "training.epochs: 1 -> 3"),
        (("--out", "RUN", "training.epochs=3"), "training.epochs: 1 -> 3"),
        (("RUN", "--out", "other"), "is a run folder, which continues in place"),
        (("RUN", "--model", "lamb"), "is a run folder, which continues in place"),
        (("RUN", "--seeds", "2"), "is a single run folder: give another --out"),
        (("RUN/iter-1",), "is not a run folder: it has no recipe.yaml; name a recipe, or a run folder"),
    ],
)
def test_a_run_folder_that_cannot_be_continued_so(aligned: Path, words: tuple[str, ...], wrong: str) -> None:
    contents = hash_files(aligned)
    assert wrong in refused("run", *(word.replace("RUN", str(aligned)) for word in words))
    assert hash_files(aligned) == contents


def test_a_folder_with_the_name_of_a_recipe_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lamb").mkdir()
    monkeypatch.chdir(tmp_path)
    assert choose_recipe("lamb", None, None).path == loading.find_recipe("lamb")


@pytest.mark.parametrize("command", ["run", "status", "show"])
def test_a_corrupt_line_in_a_finished_file(recipe: Path, copied: Path, command: str) -> None:
    file = copied / "iter-1" / "pairs.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], lines[1][:20] + b"\n", *lines[2:]]))
    (copied / "iter-1" / "assessed.jsonl").unlink()
    # As in a run of an earlier version; otherwise the digest is compared first.
    (copied / "manifest.json").unlink()
    contents = hash_files(copied)
    words = {"run": (recipe, "--out", copied), "status": (copied,), "show": (copied, "1")}[command]
    done = isheep(command, *words)
    assert done.code == 2 and f"{file} line 2: not a Pair row" in done.err.splitlines()[-1]
    assert hash_files(copied) == contents


def test_a_recipe_of_a_run_that_was_damaged(copied: Path) -> None:
    (copied / "recipe.yaml").write_text("model: [")
    assert "recipe.yaml line 1: not YAML" in refused("status", copied)


@pytest.mark.parametrize("call", [1, 3])
def test_a_full_disk_keeps_what_was_made(
    recipe: Path, copied: Path, aligned: Path, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full at the n-th time that data have to reach it, while answers and ratings are written again."""
    for name in ("pairs.jsonl", "assessed.jsonl"):
        (copied / "iter-1" / name).unlink()
    contents, fsync, calls = hash_files(copied), os.fsync, iter(range(1, 100))

    def full(handle: int) -> None:
        if next(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        done = isheep("run", recipe, "--out", copied)
    assert done.code == 2 and done.err.splitlines()[-1].startswith("isheep: no space left on the device")
    new_contents = hash_files(copied)
    assert {name: new_contents[name] for name in contents} == contents
    assert isheep("run", copied / "recipe.yaml", "--out", copied).code == 0  # the way on that status names
    assert hash_files(copied) == hash_files(aligned)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 KB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_really_full(recipe: Path, aligned: Path, small_disk: Path) -> None:
    """It is full in the middle of a checkpoint of the training, which torch says in words of its own."""
    run = Path(shutil.copytree(aligned, small_disk / "run", ignore=shutil.ignore_patterns("adapter")))
    contents = hash_files(run)
    done = isheep("run", recipe, "--out", run)
    assert done.code == 2 and "no space left on the device" in done.err.splitlines()[-1]
    new_contents = hash_files(run)
    assert {name: new_contents[name] for name in contents} == contents
    subprocess.run(["mount", "-o", "remount,size=2m", str(small_disk)], check=True)
    assert isheep("run", recipe, "--out", run).code == 0
    assert hash_files(run) == hash_files(aligned)


def test_lamb_commands_reach_their_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    calls: list[object] = []
    monkeypatch.setattr("isheep.lamb.pretrain.pretrain", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr("isheep.lamb.probe.probe", lambda path: {"greedy": {"right": 0.5}, "auroc": {"off": 0.25}})
    assert isheep("lamb", "pretrain", "--out", tmp_path, "--tokens", "40e6").code == 0
    assert calls == [(tmp_path, PretrainSettings(40_000_000, workers=2))]
    output = isheep("lamb", "probe", base).out.splitlines()
    assert [line.split() for line in output] == [["greedy", "right", "0.500"], ["auroc", "off", "0.250"]]
    assert "model './nowhere' not found" in refused("lamb", "probe", "./nowhere")


# --- export


@pytest.mark.parametrize("form", ["alpaca", "sharegpt", "messages", "paper"])
def test_export_writes_what_was_kept(graded: Path, form: str) -> None:
    done = isheep("export", graded, "--as", form)
    file = graded / "export" / f"iter-1.{form}.json"
    assert done == Done(0, f"{file}: 1 kept pairs (not trained on yet)\n", "")
    [row] = json.loads(file.read_text())
    assert "Do t1-00000" in json.dumps(row) and row.get("quality_score") == (9 if form == "paper" else None)


def test_export_to_a_file(aligned: Path, tmp_path: Path) -> None:
    assert isheep("export", aligned, "--as", "alpaca", "--iteration", "1", "--out", tmp_path / "d.json").code == 0
    rows = json.loads((tmp_path / "d.json").read_text())
    training_rows = json.loads((aligned / "iter-1" / "train.json").read_text())
    assert [{key: row[key] for key in rows[0]} for row in training_rows] == rows


def test_export_of_the_rows_that_were_trained_on(copied: Path) -> None:
    done = isheep("export", copied, "--as", "alpaca")
    kept, trained = num_kept(copied), num_kept(copied) - 1
    assert done.out.endswith(f"iter-1.alpaca.json: {kept} kept pairs ({trained} of them were trained on, 1 held out)\n")
    done = isheep("export", copied, "--as", "paper", "--rows", "trained")
    trained_words = f"{trained} rows that were trained on, of {kept} kept pairs"
    assert done.out.endswith(f"iter-1.trained.paper.json: {trained_words}\n")
    rows = json.loads((copied / "export" / "iter-1.trained.paper.json").read_text())
    kept = [row["instruction"] for row in json.loads((copied / "iter-1" / "train.json").read_text())]
    indices = [kept.index(row["instruction"]) for row in rows]
    assert len(indices) == trained and indices == sorted(set(indices)) and "quality_score" in rows[0]
    assert "leave out --rows trained" in refused("export", copied, "--as", "llamafactory", "--rows", "trained")
    (copied / "iter-1" / "train.json").write_text("[]")
    assert "train.json" in refused("export", copied, "--as", "alpaca", "--rows", "trained")


def test_export_merged_is_a_checkpoint_of_its_own(aligned: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    assert isheep("export", aligned, "--merged", "--out", out) == Done(0, f"{out}\n", "")
    chat, sampling = load_chat_template("tokenizer", str(out)), Sampling(temperature=0, max_tokens=8)
    answer = open_engine(Model(str(out)), threads=1, device="cpu").generate([chat.prompt("A dog says")], sampling, 0)
    assert f"{harmless(answer[0].text.strip())}\n" == isheep("chat", aligned, typed=b"A dog says").out
    assert f"{out} exists" in refused("export", aligned, "--merged", "--out", out)


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ((), "give one of --as alpaca|sharegpt|messages|paper|llamafactory|gguf, --adapter and --merged"),
        (("--as", "paper", "--merged"), "give one of --as"),
        (("--as", "paper", "--iteration", "2"), "has no data of iteration 2 yet"),
        (("--as", "paper", "--iteration", "0"), "has no data of iteration 0 yet"),
        (("--merged",), "the base has no adapter to export"),
        (("--merged", "--rows", "kept"), "--rows is for data"),
        (("--as", "alpaca", "--rows", "trained"), "iteration 1 is not trained yet"),
        (("--as", "alpaca", "--out", "taken/data.json"), "taken: File exists"),
    ],
)
def test_export_of_what_is_not_there(
    graded: Path, words: tuple[str, ...], wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("a file")
    contents = hash_files(tmp_path)
    assert wrong in refused("export", graded, *words)
    assert hash_files(tmp_path) == contents
