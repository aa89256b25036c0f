"""Runs that take over files of another run (--reuse, --fork), and runs that are made again from a stage on (redo)."""

import json
import shutil
import signal
from pathlib import Path

import pytest

import isheep as package
from isheep.rundir.run import lock_run, read_events
from tests.helpers.command import isheep, refused
from tests.helpers.function_model import SMALL, write_texts
from tests.helpers.hashes import hash_files
from tests.helpers.kills import count_moments, run_until_killed

SETTINGS = (
    "iterations=2",
    "synthesis.tasks=8",
    "synthesis.novelty=null",
    "synthesis.sampling.max_tokens=40",
    "response.sampling.max_tokens=8",
    "assessment.criteria=[quality]",
    "assessment.read=expected",
    "filters=[{kind: score, at_least: 1}]",
    "training={batch_size: 4, max_steps: 2, warmup_steps: 0, keep: last, held_out: 0, cutoff: 128}",
    "evaluation=[]",
    "machine.threads=1",
)
NOT_COMPARED = ("reuse.json",)


def run(out: Path, *words: str | Path) -> str:
    """Run lamb with SETTINGS and other words; return what was printed to standard error."""
    done = isheep("run", "lamb", *SETTINGS, *words, "--out", out)
    assert done.code == 0, done.err
    return done.err


def files_by_origin(out: Path) -> tuple[set[str], set[str]]:
    """Return the files that a run took over, and those that a model made for it."""
    events = [event for event in read_events(out) if "file" in event]
    taken = {event["file"] for event in events if "shared_from" in event}
    return taken, {event["file"] for event in events if "shared_from" not in event}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two iterations; tests that change it copy it."""
    out = tmp_path_factory.mktemp("runs") / "a"
    run(out)
    return out


@pytest.fixture
def copied(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "a"))


# --- run --reuse, run --fork


def test_a_forked_run_has_the_files_of_one_made_from_nothing(original: Path, copied: Path, tmp_path: Path) -> None:
    printed = isheep("run", copied, "training.learning_rate=0.01", "--fork", "b")
    assert printed.code == 0
    run(tmp_path / "alone", "training.learning_rate=0.01")
    fork = tmp_path / "b"
    assert hash_files(fork, NOT_COMPARED) == hash_files(tmp_path / "alone")
    taken, new = files_by_origin(fork)
    assert taken == {f"iter-1/{name}.jsonl" for name in ("replies", "pairs", "assessed")}
    assert {"iter-1/adapter", "iter-2/replies.jsonl"} <= new
    notes = json.loads(isheep("status", fork, "--json").out)["notes"]
    new_ones = "instructions, answers, diversity, ratings, filtering, training"
    assert notes == [
        f"what comes out the same is taken over from {copied} (training.learning_rate: 5e-05 -> 0.01)",
        f"iteration 1: taken over from {copied}: {new_ones[:21]}, ratings; made new: diversity, filtering, training",
        f"iteration 2: taken over from {copied}: nothing; made new: {new_ones}",
    ]
    assert hash_files(copied) == hash_files(original)
    # The same command finds the run complete.
    done = isheep("run", copied, "training.learning_rate=0.01", "--fork", "b")
    assert "this run is complete: nothing to do" in done.err


def test_another_recipe_with_more_iterations_reuses_an_unfinished_run(copied: Path, tmp_path: Path) -> None:
    for name in ("assessed.jsonl", "dropped.jsonl", "train.json"):
        (copied / "iter-2" / name).unlink()
    shutil.rmtree(copied / "iter-2" / "adapter")
    (copied / "iter-2" / "assessed.jsonl.part").write_text("{")
    # How a run computes does not decide what is taken over, and a run under way may be read.
    with lock_run(copied):
        run(tmp_path / "b", "iterations=3", "machine.engine_batch_size=3", "--reuse", copied)
    taken, new = files_by_origin(tmp_path / "b")
    whole = {"replies.jsonl", "pairs.jsonl", "assessed.jsonl", "adapter"}
    assert taken == {f"iter-1/{name}" for name in whole} | {"iter-2/replies.jsonl", "iter-2/pairs.jsonl"}
    assert {"iter-2/assessed.jsonl", "iter-2/adapter", "iter-3/adapter"} <= new


def test_a_reused_run_that_was_killed_goes_on_taking_files_over(copied: Path, tmp_path: Path) -> None:
    """Continued by its folder alone, after the second iteration was removed."""
    run(tmp_path / "b", "evaluation=[]", "--reuse", copied)
    assert hash_files(tmp_path / "b", NOT_COMPARED) == hash_files(copied)
    shutil.rmtree(tmp_path / "b/iter-2")
    (tmp_path / "b/run.jsonl").unlink()
    assert isheep("run", tmp_path / "b").code == 0
    assert hash_files(tmp_path / "b", NOT_COMPARED) == hash_files(copied)
    taken, _ = files_by_origin(tmp_path / "b")
    assert {"iter-2/replies.jsonl", "iter-2/adapter"} <= taken
    # Without the other run, what is missing is made.
    shutil.rmtree(tmp_path / "b/iter-2/adapter")
    copied.rename(tmp_path / "gone")
    assert "nothing more is taken over" in isheep("run", tmp_path / "b").err
    assert hash_files(tmp_path / "b", NOT_COMPARED) == hash_files(tmp_path / "gone")


def test_damaged_files_of_a_reused_run_are_refused(copied: Path, tmp_path: Path) -> None:
    pairs = copied / "iter-1/pairs.jsonl"
    lines = pairs.read_bytes().splitlines(keepends=True)
    words = ("run", copied, "training.epochs=3", "--fork", "b")
    for content, message in (
        ([*lines[:2], b"{}\n", *lines[3:]], f"{pairs} line 3: not a Pair row"),
        (lines[:-1], f"{pairs}: 7 rows found, 8 expected"),
    ):
        pairs.write_bytes(b"".join(content))
        done = isheep(*words)
        assert done.code == 2 and message in done.err.replace("\n", " ")
        assert not (tmp_path / "b/iter-1/pairs.jsonl").exists()
    pairs.unlink()
    assert isheep(*words).code == 0
    taken, new = files_by_origin(tmp_path / "b")
    assert "iter-1/replies.jsonl" in taken and "iter-1/pairs.jsonl" in new


def test_what_can_not_be_reused_is_refused_in_one_line(original: Path, copied: Path, tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    other_format = Path(shutil.copytree(copied, tmp_path / "other"))
    (other_format / "version.json").write_text('{"format": 99}')
    out = ("run", "lamb", *SETTINGS, "--out", tmp_path / "new")
    refusals = {
        "is not a run folder": (*out, "--reuse", tmp_path / "file"),
        "has format 99": (*out, "--reuse", other_format),
        "can't take over its own files": ("run", copied, "--reuse", copied),
        "give one of them": ("run", copied, "--fork", "b", "--reuse", original),
        "is none: leave out --fork": (*out, "--fork", "b"),
        "leave out --reuse and --fork": (*out, "--seeds", "2", "--reuse", copied),
    }
    for message, words in refusals.items():
        assert message in refused(*words)
    assert "can't take over its own files" in refused("run", copied, "--fork", "a")
    assert not (tmp_path / "new").exists() and not (tmp_path / "b").exists()


def test_another_seed_makes_everything_new(copied: Path, tmp_path: Path) -> None:
    printed = isheep("run", copied, "seed=5", "iterations=1", "--fork", tmp_path / "sub" / "b")
    assert printed.code == 0 and "all files depend on seed, so they are made new" in printed.err.replace("\n", " ")
    assert not files_by_origin(tmp_path / "sub/b")[0]


def test_the_refusal_of_another_recipe_names_a_command_that_works(copied: Path) -> None:
    message = refused("run", copied, "assessment=null", "filters=[]", "iterations=1", "machine.engine_batch_size=7")
    assert "run folder" in message and "made with another recipe" in message
    command = message.strip().rpartition("stays the same: isheep ")[2]
    words = ("iterations=1", "assessment=null", "'filters=[]'", "machine.engine_batch_size=7", "--fork a-2")
    assert command == f"run {copied} {' '.join(words)}"
    assert isheep(*command.replace("'", "").split()).code == 0
    taken, _ = files_by_origin(copied.with_name("a-2"))
    assert taken == {"iter-1/replies.jsonl", "iter-1/pairs.jsonl"}
    # The next free name is proposed, and a long command is not repeated.
    message = refused("run", copied, f"synthesis.prompt={{meta: {'long ' * 99}, block: '{{instruction}}', open: x}}")
    assert message.strip().endswith("the same command with --fork a-3")


def test_python_reuses_a_run_with_the_same_engine(tmp_path: Path) -> None:
    recipe = package.load_recipe("lamb", SMALL)
    package.align(recipe, tmp_path / "a", engine=write_texts).run()
    changed = package.load_recipe("lamb", {**SMALL, "training.max_steps": 1})
    package.align(changed, tmp_path / "b", engine=write_texts, reuse=tmp_path / "a").run()
    assert "iter-1/assessed.jsonl" in files_by_origin(tmp_path / "b")[0]
    with pytest.raises(package.UserError, match=r"reuse='.*a'\)$"):
        package.align(changed, tmp_path / "a", engine=write_texts).run()
    with pytest.raises(package.UserError, match="made with the engine .*write_texts, and this run has the recipe's"):
        package.align(changed, tmp_path / "c", reuse=tmp_path / "a").run()


# --- redo


def test_redo_makes_a_run_again_from_a_stage_and_keeps_the_old_files(original: Path, copied: Path) -> None:
    (copied / "iter-1" / "notes.txt").write_text("my own")
    (copied / "iter-1" / "assessed.jsonl.part").write_text("left over")
    done = isheep("redo", copied, "--from", "assess", "--iteration", "1")
    assert done.code == 0
    stages = "ratings, filtering, training of iteration 1; all of iteration 2"
    assert f"set aside in {copied}/replaced/1: {stages}" in done.err.replace("\n", " ")
    before, after = hash_files(original), hash_files(copied)
    replaced = {name.removeprefix("replaced/1/"): after.pop(name) for name in list(after) if "replaced" in name}
    del after["iter-1/notes.txt"], replaced["iter-1/assessed.jsonl.part"]
    assert after == before
    kept = ("replies.jsonl", "tasks.jsonl", "rejected.jsonl", "pairs.jsonl", "diversity.json")
    assert replaced == {
        name: digest
        for name, digest in before.items()
        if name.startswith("iter-") and name not in {f"iter-1/{file}" for file in kept}
    }


def test_an_edited_file_is_learned_from_after_redo(original: Path, copied: Path) -> None:
    path = copied / "iter-2/train.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([{**row, "output": "Yes."} for row in rows]))
    assert "has changed since" in refused("run", copied).replace("\n", " ")
    for number in (1, 2):
        assert isheep("redo", copied, "--from", "training", "--iteration", "2").code == 0
        assert [path.name for path in (copied / f"replaced/{number}").rglob("iter-2/*")] == ["adapter"]
    weights = "iter-2/adapter/adapter_model.safetensors"
    versions = [(copied / part / weights).read_bytes() for part in ("replaced/1", "replaced/2", "")]
    # The first version learned from the rows as they were, the others from the edited ones.
    assert versions[0] == (original / weights).read_bytes() != versions[1] == versions[2]


def test_redo_of_a_fork_does_not_take_the_same_files_over_again(copied: Path, tmp_path: Path) -> None:
    assert isheep("run", copied, "iterations=1", "training.epochs=3", "--fork", "b").code == 0
    fork = tmp_path / "b"
    (fork / "run.jsonl").unlink()
    assert isheep("redo", fork, "--from", "ratings").code == 0
    assert not files_by_origin(fork)[0] and (fork / "replaced/1/reuse.json").exists()


def test_redo_of_what_can_not_be_made_again_is_refused(original: Path, tmp_path: Path) -> None:
    before = hash_files(original)
    in_use = "say with --iteration which of them is made again first"
    refusals = {
        in_use: (original, "--from", "train"),
        "in iteration 3: give one of 1, 2": (original, "--from", "train", "--iteration", "3"),
        "stage 'trian' is not known: did you mean 'train'": (original, "--from", "trian"),
        "no files of the stage 'evaluation'": (original, "--from", "evaluate"),
        "is not a run folder": (tmp_path, "--from", "train"),
        "only machine may change": (original, "training.epochs=7", "--from", "train", "--iteration", "1"),
    }
    for message, words in refusals.items():
        assert message in refused("redo", *words)
    assert hash_files(original) == before


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on a fake engine, whose process can be killed at any moment."""
    out = tmp_path_factory.mktemp("killed") / "undisturbed"
    assert run_until_killed(out, kill_at=0) == 0
    return out


def check_killed_redo(undisturbed: Path, out: Path, kill_at: int) -> None:
    """Kill `redo` at a moment; whatever is run then, the files are those of the run, and no old file is lost."""
    words = ("redo", str(out), "--from", "respond", "--iteration", "1")
    shutil.copytree(undisturbed, out)
    assert run_until_killed(out, kill_at, words=words) == -signal.SIGKILL
    # A stopped redo leaves a run that can be continued, and the same command makes the rest again.
    continued = Path(shutil.copytree(out, out.with_name(f"{out.name}-continued")))
    assert run_until_killed(continued, 0, words=("run", str(continued))) == 0
    # It finds nothing more to set aside if it was killed between its last move and the first new file.
    if run_until_killed(out, 0, words=words):
        assert run_until_killed(out, 0, words=("run", str(out))) == 0
    for folder in (continued, out):
        files = hash_files(folder)
        assert {name: files[name] for name in files if "replaced" not in name} == hash_files(undisturbed)
    aside = {name.split("/", 2)[2] for name in hash_files(out) if name.startswith("replaced/")}
    assert {name for name in hash_files(undisturbed) if name.startswith("iter-2")} <= aside


@pytest.mark.parametrize("kill_at", [2, 9, 20])
def test_a_redo_that_is_killed_can_be_continued(undisturbed: Path, tmp_path: Path, kill_at: int) -> None:
    check_killed_redo(undisturbed, tmp_path / "run", kill_at)


@pytest.mark.slow
def test_a_redo_that_is_killed_at_any_moment_can_be_continued(undisturbed: Path, tmp_path: Path) -> None:
    words = ("redo", str(tmp_path / "whole"), "--from", "respond", "--iteration", "1")
    shutil.copytree(undisturbed, tmp_path / "whole")
    assert run_until_killed(tmp_path / "whole", 0, words=words) == 0
    for moment in range(1, count_moments(tmp_path / "whole") + 1):
        check_killed_redo(undisturbed, tmp_path / f"run-{moment}", moment)
