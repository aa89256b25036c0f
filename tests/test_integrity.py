"""Damage to the files of a run: it is named in one line with the way out, or proved harmless. Nothing else."""

import shutil
from pathlib import Path
from zlib import crc32

import pytest

from isheep.rundir import manifest
from tests.helpers.command import isheep as command
from tests.helpers.command import refused
from tests.helpers.damage import DAMAGES, Matrix, copy_of, edit, flip_bit, table
from tests.helpers.hashes import hash_files

# --- the matrix of files, damages, states and commands


def test_a_sample_of_damages_is_detected_or_harmless(matrix: Matrix) -> None:
    """One of a hundred and fifty combinations, without the report, which takes longer."""

    def is_selected(state: str, file: str, damage: str, name: str) -> bool:
        return name != "report" and crc32(f"{state} {file} {damage} {name}".encode()) % 150 == 0

    tries = list(matrix.walk(is_selected))
    assert not [tried for tried in tries if tried.is_wrong]
    assert {"detected", "harmless"} <= {tried.outcome for tried in tries}
    assert {tried.damage for tried in tries} == {*DAMAGES}


@pytest.mark.slow
def test_every_damage_of_every_file_is_detected_or_harmless(matrix: Matrix) -> None:
    tries = list(matrix.walk())
    assert not [tried for tried in tries if tried.is_wrong], table(tries)
    files = {tried.file for tried in tries}
    assert {"seeds.jsonl", "manifest.json", "iter-2/adapter/adapter_model.safetensors", "iter-1/train.json"} <= files


# --- what is said, and the ways out


def test_the_line_names_the_file_what_depends_on_it_and_the_way_out(finished: Path) -> None:
    flip_bit(finished / "iter-1/pairs.jsonl", finished)
    line = refused("run", finished)
    assert f"{finished}/iter-1/pairs.jsonl has changed since the run made it (other content of the same size)" in line
    assert "measures for filters, ratings, filtering, training, evaluation, diversity of iteration 1" in line
    assert "and all of iteration 2: put it back as it was, or make it again with all that follows" in line
    assert f"isheep redo {finished} --from answers --iteration 1" in line
    # Only what reads the file is refused.
    assert command("chat", finished, typed=b"Name a city.\n").code == 0


@pytest.mark.parametrize(
    "file",
    [
        "iter-1/replies.jsonl",
        "iter-1/dropped.jsonl",
        "iter-1/adapter/adapter_model.safetensors",
        "iter-2/adapter/adapter_config.json",
        "base/eval/counting.json",
        "seeds.jsonl",
    ],
)
def test_the_way_out_that_is_named_ends_with_the_files_of_an_undamaged_run(finished: Path, file: str) -> None:
    before = hash_files(finished)
    edit(finished / file, finished)
    words = refused("run", finished).partition(": isheep ")[2].split()
    assert words[:2] == ["redo", str(finished)]
    assert command(*words).code == 0
    after = {name: digest for name, digest in hash_files(finished).items() if not name.startswith("replaced/")}
    assert after == before and "as the run made them" in command("verify", finished).out


def test_redo_goes_on_from_a_file_that_was_edited_and_makes_again_all_that_reads_it(finished: Path) -> None:
    edit(finished / "iter-2/pairs.jsonl", finished)
    edited = (finished / "iter-2/pairs.jsonl").read_bytes()
    done = command("redo", finished, "--from", "measures", "--iteration", "2")
    assert (
        done.code == 0 and "iter-2/pairs.jsonl has changed since the run made it: the run goes on from it" in done.err
    )
    assert (finished / "replaced/1/iter-2/diversity.json").exists()
    assert (finished / "iter-2/pairs.jsonl").read_bytes() == edited and command("verify", finished).code == 0


def test_an_edit_is_accepted_by_verify_and_then_learned_from(matrix: Matrix, tmp_path: Path) -> None:
    run = copy_of(matrix, "training 2 owed", tmp_path / "run")
    edit(run / "iter-2/train.json", run)
    line = refused("run", run)
    assert "iter-2/train.json has changed" in line and "--from filtering --iteration 2" in line
    assert "no such file among those" in refused("verify", run, "--accept", "iter-2/trian.json")
    assert command("verify", run, "--accept", "iter-2/train.json").code == 0
    assert command("run", run).code == 0 and command("verify", run).code == 0
    assert hash_files(run) != hash_files(matrix.states["finished"])


def test_a_deleted_file_is_made_again_and_must_come_out_the_same(finished: Path) -> None:
    before = hash_files(finished)
    (finished / "iter-1/dropped.jsonl").unlink()
    line = refused("export", finished, "--as", "alpaca", "--iteration", "1")
    assert (
        "iter-1/dropped.jsonl is gone, and is the source of training, evaluation of iteration 1 and all of iteration 2"
        in line
    )
    assert command("run", finished).code == 0 and hash_files(finished) == before
    (finished / "iter-1/pairs.jsonl").unlink()
    manifest.accept_files(finished, ["iter-1/pairs.jsonl"])
    records = dict(manifest.read_manifest(finished))
    sources = {**records["iter-1/assessed.jsonl"].sources, "iter-1/pairs.jsonl": "0" * 64}
    records["iter-1/assessed.jsonl"] = records["iter-1/assessed.jsonl"].model_copy(update={"sources": sources})
    manifest.restore_manifest(finished, records)
    line = refused("run", finished)
    assert "iter-1/pairs.jsonl was made again and is another file" in line and "--from ratings --iteration 1" in line


def test_a_folder_whose_parts_do_not_fit_is_refused_before_anything_is_made(finished: Path, matrix: Matrix) -> None:
    shutil.rmtree(finished / "iter-1")
    before = hash_files(finished)
    line = refused("run", finished)
    assert "iter-1/adapter is missing, and iteration 2 was made with it" in line
    assert f"isheep redo {finished} --from instructions --iteration 1" in line and hash_files(finished) == before
    assert command("redo", finished, "--from", "instructions", "--iteration", "1").code == 0
    after = {name: digest for name, digest in hash_files(finished).items() if not name.startswith("replaced/")}
    assert after == hash_files(matrix.states["finished"])


def test_a_file_that_the_run_did_not_make_is_refused(matrix: Matrix, tmp_path: Path) -> None:
    run = copy_of(matrix, "iteration 2 owed", tmp_path / "run")
    (run / "iter-2").mkdir()
    shutil.copyfile(matrix.states["finished"] / "iter-2/replies.jsonl", run / "iter-2/replies.jsonl")
    line = refused("run", run, "iterations=2")
    assert "iter-2/replies.jsonl was not made by this run" in line and "--accept iter-2/replies.jsonl" in line
    assert command("verify", run, "--accept", "iter-2").code == 0
    assert command("run", run, "iterations=2").code == 0


def test_what_a_stopped_benchmark_has_left_does_not_stop_the_run(matrix: Matrix, tmp_path: Path) -> None:
    """A benchmark of a user may write files into its folder by itself, without a record before its scores."""
    run = copy_of(matrix, "training 2 owed", tmp_path / "run")
    own_file = run / "iter-2/eval/counting/own.csv"
    own_file.parent.mkdir(parents=True)
    own_file.write_text("1,2\n")
    assert command("run", run).code == 0 and command("verify", run).code == 0
    assert "iter-2/eval/counting/own.csv" in manifest.read_manifest(run)
    own_file.write_text("1,3\n")
    assert "iter-2/eval/counting/own.csv has changed" in refused("run", run)


def test_answers_that_the_run_did_not_write_are_refused_when_they_are_read(matrix: Matrix, tmp_path: Path) -> None:
    run = copy_of(matrix, "training 2 owed", tmp_path / "run")
    shutil.copytree(matrix.states["finished"] / "iter-2/eval/counting", run / "iter-2/eval/counting")
    done = command("run", run)
    assert done.code == 2 and "iter-2/eval/counting/answers.jsonl was not made by this run" in done.err


def test_files_of_ones_own_are_left_alone(finished: Path) -> None:
    (finished / "annotations").mkdir()
    for name in (
        "notes.txt",
        "annotations/ratings.jsonl",
        "report.html",
        "iter-1/notes.json",
        "iter-1/adapter/README.md",
    ):
        (finished / name).write_text("mine\n")
    assert command("eval", finished, "later").code == 0
    assert command("run", finished).code == 0 and command("verify", finished).code == 0
    assert (finished / "iter-1/notes.json").read_text() == "mine\n"
    assert {name for name in manifest.read_manifest(finished) if "later" in name} == {
        f"{folder}/eval/later{end}" for folder in ("base", "iter-1", "iter-2") for end in (".json", "/answers.jsonl")
    }


def test_a_run_of_an_earlier_version_works_and_is_recorded_with_a_word(finished: Path) -> None:
    (finished / "manifest.json").unlink()
    assert command("export", finished, "--as", "alpaca").code == 0
    assert "nothing to compare with" in refused("verify", finished)
    assert command("status", finished).code == 0
    done = command("run", finished)
    assert done.code == 0 and "recorded as they are now, and checked from now on" in done.err.replace("\n", " ")
    flip_bit(finished / "iter-1/replies.jsonl", finished)
    assert "has changed" in refused("run", finished)


def test_a_kill_before_a_file_is_replaced_leaves_a_run_that_goes_on(finished: Path) -> None:
    before, part = hash_files(finished), finished / "recipe.yaml.part"
    part.write_text((finished / "recipe.yaml").read_text().replace("iterations: 2", "iterations: 3"))
    manifest.record_files(finished, {"recipe.yaml": part})
    for words in (("verify", finished), ("show", finished, "1")):
        line = refused(*words)
        assert "recipe.yaml was about to be replaced when its run was stopped" in line
        assert line.endswith(f"isheep run {finished} completes it\n")
    assert command("status", finished).code == 0
    # The run goes on with the recipe that it had recorded.
    assert command("run", finished).code == 0 and (finished / "iter-3/adapter").is_dir() and not part.exists()
    after = hash_files(finished)
    assert {name for name in before if after[name] != before[name]} == {"recipe.yaml"}
    assert command("verify", finished).code == 0


@pytest.mark.parametrize(
    "file", ["iter-1/pairs.jsonl", "iter-2/train.json", "iter-1/eval/counting.json", "recipe.yaml", "seeds.jsonl"]
)
def test_a_copy_beside_a_damaged_file_does_not_hide_the_damage(finished: Path, file: str) -> None:
    path = finished / file
    part = shutil.copyfile(path, path.with_name(f"{path.name}.part"))
    text = path.read_text()
    path.write_text(text.replace("seed: 42", "seed: 43") if file == "recipe.yaml" else f"{text}\n")
    assert path.name in refused("verify", finished)
    done = command("run", finished)
    # Only what a kill can leave is completed: the content that the manifest has comes back.
    if "/" in file:
        assert done.code == 2 and f"{path} has changed since the run made it" in done.err
    else:
        assert path.read_text() == text and not part.exists()
        assert done.code == 0 or "seed: 42 -> 43" in done.err


def test_a_file_of_another_run_is_compared_before_it_is_taken_over(finished: Path) -> None:
    flip_bit(finished / "iter-1/replies.jsonl", finished)
    done = command("run", finished, "training.epochs=3", "--fork", "b")
    assert done.code == 2 and f"{finished}/iter-1/replies.jsonl has changed" in done.err.splitlines()[-1]


def test_large_files_are_checked_by_sampled_blocks_and_verify_reads_all_bytes(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "SAMPLED_FROM", 1000)
    big = finished / "iter-2/eval/counting/answers.jsonl"
    big.write_bytes(b"x" * 2**26)
    manifest.accept_files(finished, ["iter-2/eval/counting/answers.jsonl"])
    with big.open("r+b") as file:
        # Between two sampled blocks.
        file.seek(2**17)
        file.write(b"y")
    records = manifest.read_manifest(finished)
    assert records["iter-2/eval/counting/answers.jsonl"].sample and not records["version.json"].sample
    assert "answers.jsonl" not in command("run", finished).err
    assert "iter-2/eval/counting/answers.jsonl has changed" in refused("verify", finished)
    with big.open("r+b") as file:
        file.write(b"y")
    assert "other bytes in a sampled block" in refused("run", finished)


# --- files that do not belong together


def test_a_folder_that_is_accepted_hides_nothing_that_was_made_from_an_edit(finished: Path) -> None:
    edit(finished / "iter-1/assessed.jsonl", finished)
    done = command("verify", finished, "--accept", "iter-1")
    assert done.code == 2 and "iter-1/dropped.jsonl was made from another iter-1/assessed.jsonl" in done.out + done.err


@pytest.mark.parametrize("file", ["iter-1/pairs.jsonl", "iter-2/adapter", "iter-1/eval/counting"])
def test_a_fork_makes_again_what_was_edited_and_accepted(finished: Path, file: str, matrix: Matrix) -> None:
    path = finished / file
    edited = next(path.glob("*.json*")) if path.is_dir() else path
    edit(edited, finished)
    command("verify", finished, "--accept", file)
    assert manifest.accepted_files(finished) == [str(edited.relative_to(finished))]
    done = command("run", finished, "--fork", "fork")
    assert done.code == 0, done.err
    assert f"{edited.relative_to(finished)} in {finished} were changed by hand and accepted" in done.err
    # A fork has no report yet.
    expected = hash_files(matrix.states["finished"], ("report.html",))
    assert hash_files(finished.with_name("fork"), ("report.html",)) == expected | {
        "reuse.json": hash_files(finished.with_name("fork"))["reuse.json"]
    }


def test_a_redo_from_an_edited_file_marks_it_and_making_it_again_does_not(finished: Path) -> None:
    before = hash_files(finished)
    edit(finished / "iter-1/pairs.jsonl", finished)
    assert command("redo", finished, "--from", "measures", "--iteration", "1").code == 0
    assert manifest.accepted_files(finished) == ["iter-1/pairs.jsonl"]
    assert command("redo", finished, "--from", "answers", "--iteration", "1").code == 0
    assert not manifest.accepted_files(finished)
    assert before.items() <= hash_files(finished).items()


def test_what_an_accepted_adapter_makes_stale_is_one_line_and_made_again_by_its_command(finished: Path) -> None:
    edit(finished / "iter-1/adapter/adapter_config.json", finished)
    edited = (finished / "iter-1/adapter/adapter_config.json").read_bytes()
    line = command("verify", finished, "--accept", "iter-1/adapter").err.splitlines()[-1]
    assert "iter-1/eval/counting.json and 13 more files were made from another iter-1/adapter" in line
    assert command(*line.partition(": isheep ")[2].split()).code == 0
    assert command("verify", finished).code == 0
    assert (finished / "iter-1/adapter/adapter_config.json").read_bytes() == edited
    assert (finished / "replaced/1/iter-2/replies.jsonl").exists() and (finished / "iter-2/adapter").exists()


def test_one_redo_makes_again_all_that_was_made_from_an_accepted_file(finished: Path) -> None:
    edit(finished / "iter-1/pairs.jsonl", finished)
    line = command("verify", finished, "--accept", "iter-1/pairs.jsonl").err.splitlines()[-1]
    assert command(*line.partition(": isheep ")[2].split()).code == 0 and command("verify", finished).code == 0
    assert (finished / "replaced/1/iter-1/diversity.json").exists()


def test_scores_that_the_run_did_not_make_are_refused(finished: Path) -> None:
    shutil.rmtree(finished / "iter-2/eval")
    manifest.accept_files(
        finished, [name for name in manifest.read_manifest(finished) if name.startswith("iter-2/eval")]
    )
    shutil.copytree(finished / "base/eval", finished / "iter-2/eval")
    assert "was not made by this run" in refused("run", finished)


def test_rows_that_the_run_did_not_write_are_written_again(matrix: Matrix, tmp_path: Path) -> None:
    run = copy_of(matrix, "finished", tmp_path / "run")
    before = hash_files(run)
    pairs = run / "iter-2/pairs.jsonl"
    part = pairs.with_name("pairs.jsonl.part")
    part.write_bytes(pairs.read_bytes() * 2)
    pairs.unlink()
    assert command("run", run).code == 0 and hash_files(run) == before


def test_a_recipe_is_not_accepted(finished: Path) -> None:
    path = finished / "recipe.yaml"
    path.write_text(path.read_text().replace("seed: 42", "seed: 43"))
    assert "--fork NAME" in refused("run", finished)
    assert "recipe.yaml can't be accepted" in refused("verify", finished, "--accept", "recipe.yaml")
    assert "can't be accepted" in refused("verify", finished, "--accept", ".")
