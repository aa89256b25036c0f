"""Runs that take over files of another run (--reuse, --fork), and runs that are made again from a stage on (redo)."""

import json
import shlex
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

import isheep as package
import isheep.sweep
from isheep.backends import Backend
from isheep.batching import derive_seed
from isheep.engines.function import SeededFunctionEngine
from isheep.errors import UserError
from isheep.recipe.schema import Recipe
from isheep.records import Model
from isheep.rundir.events import read_events
from isheep.rundir.manifest import accept_files
from isheep.rundir.run import lock_run
from isheep.rundir.training_file import training_file_sha256
from tests.helpers.backends import use_backend
from tests.helpers.command import isheep as command
from tests.helpers.command import refused
from tests.helpers.fakes import FakeChat
from tests.helpers.function_model import write_text, write_texts
from tests.helpers.hashes import hash_files
from tests.helpers.kills import count_moments, run_until_killed

RECIPE = """
model: fake
iterations: 2
synthesis: {tasks: 8, batch_size: 4, novelty: null}
response: {batch_size: 4}
assessment: {batch_size: 4, criteria: [quality]}
filters: [{kind: score, at_least: 8}]
"""
ON_LAMB = (
    "lamb",
    "iterations=1",
    "synthesis.tasks=8",
    "synthesis.sampling.max_tokens=40",
    "response.sampling.max_tokens=8",
    "assessment=null",
    "filters=[]",
    "training={batch_size: 4, max_steps: 2, warmup_steps: 0, keep: last, held_out: 0, cutoff: 128}",
    "evaluation=[]",
    "machine.threads=1",
)
NOT_COMPARED = ("reuse.json", "judge.jsonl")


def open_engine(recipe: Recipe, model: Model) -> SeededFunctionEngine:
    """Return an engine whose texts depend on the weights of the model's adapter, the prompt and the seed."""
    learned = (model.adapter / "adapter_model.safetensors").read_text() if model.adapter else ""
    return SeededFunctionEngine(lambda prompt, seed: write_text(prompt, str(derive_seed(prompt, seed, learned))))


def train(recipe: Recipe, chat: Any, start: Model, training_file: Path, seed: int, into: Path) -> None:
    """Write an adapter that depends on the training file and the settings of the training."""
    digest = training_file_sha256(training_file)
    (into / "adapter_model.safetensors").write_text(f"{digest} {seed} {recipe.training.model_dump_json()}")
    (into / "adapter_config.json").write_text("{}")
    (into / "training.json").write_text(json.dumps({"training_file_sha256": digest}))


@pytest.fixture
def fake_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the commands open and train fake models, which have neither a tokenizer nor a context."""
    monkeypatch.setattr(isheep.sweep, "check_prompt_fits", lambda recipe, chat: None)
    use_backend(monkeypatch, Backend(open_engine, train, lambda name, model: FakeChat()))  # type: ignore[arg-type, return-value]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def finished(fake_models: None, recipe: Path, tmp_path: Path) -> Path:
    """Return the folder of a finished run of two iterations."""
    out = tmp_path / "runs" / "a"
    assert command("run", recipe, "--out", out).code == 0
    return out


def files_by_origin(out: Path) -> tuple[set[str], set[str]]:
    """Return the files that a run took over, and those that a model made for it."""
    events = [event for event in read_events(out) if "file" in event]
    taken = {event["file"] for event in events if "shared_from" in event}
    return taken, {event["file"] for event in events if "shared_from" not in event}


# --- run --reuse, run --fork


@pytest.mark.slow
def test_a_forked_run_of_a_real_model_has_the_files_of_one_made_from_nothing(tmp_path: Path) -> None:
    assert command("run", *ON_LAMB, "--out", tmp_path / "a").code == 0
    assert command("run", *ON_LAMB, "training.learning_rate=0.01", "--out", tmp_path / "alone").code == 0
    assert command("run", tmp_path / "a", "training.learning_rate=0.01", "--fork", "b").code == 0
    assert hash_files(tmp_path / "b", NOT_COMPARED) == hash_files(tmp_path / "alone")
    taken, new = files_by_origin(tmp_path / "b")
    assert taken == {"iter-1/replies.jsonl", "iter-1/pairs.jsonl"} and "iter-1/adapter" in new


def test_a_forked_run_says_what_it_takes_over(finished: Path, recipe: Path, tmp_path: Path) -> None:
    (finished / "judge.jsonl").write_text("{}\n")
    before = hash_files(finished)
    words = ("run", finished, "training.epochs=3", "--fork", "b")
    assert command(*words).code == 0
    fork, alone = finished.with_name("b"), tmp_path / "alone"
    assert command("run", recipe, "training.epochs=3", "--out", alone).code == 0
    assert hash_files(fork, NOT_COMPARED) == hash_files(alone) and hash_files(finished) == before
    taken, new = files_by_origin(fork)
    assert taken == {f"iter-1/{name}.jsonl" for name in ("replies", "pairs", "assessed")}
    assert {"iter-1/adapter", "iter-2/replies.jsonl"} <= new
    taken_1, new_1 = "instructions, answers, ratings", "diversity, filtering, training"
    new_2 = "instructions, answers, diversity, ratings, filtering, training"
    notes = json.loads(command("status", fork, "--json").out)["notes"]
    assert [note for note in notes if "training on 8 rows only" not in note] == [
        f"what comes out the same is taken over from {finished} (training.epochs: 2 -> 3)",
        f"iteration 1: taken over from {finished}: {taken_1}; made new: {new_1}",
        f"iteration 2: taken over from {finished}: nothing; made new: {new_2}",
    ]
    # The answers of a judge's endpoint are paid once.
    assert (fork / "judge.jsonl").read_text() == "{}\n"
    # The same command finds the run complete.
    assert "this run is complete: nothing to do" in command(*words).err


def test_another_recipe_with_more_iterations_reuses_an_unfinished_run(
    finished: Path, recipe: Path, tmp_path: Path
) -> None:
    for name in ("assessed.jsonl", "dropped.jsonl", "train.json"):
        (finished / "iter-2" / name).unlink()
    shutil.rmtree(finished / "iter-2" / "adapter")
    (finished / "iter-2" / "assessed.jsonl.part").write_text("{")
    out = tmp_path / "b"
    # How a run computes does not decide what is taken over, and a run under way may be read.
    with lock_run(finished):
        words = ("iterations=3", "machine.engine_batch_size=3", "--out", out, "--reuse", finished)
        assert command("run", recipe, *words).code == 0
    taken, new = files_by_origin(out)
    whole = {"replies.jsonl", "pairs.jsonl", "assessed.jsonl", "adapter"}
    assert taken == {f"iter-1/{name}" for name in whole} | {"iter-2/replies.jsonl", "iter-2/pairs.jsonl"}
    assert {"iter-2/assessed.jsonl", "iter-2/adapter", "iter-3/adapter"} <= new


def test_a_reused_run_that_was_stopped_goes_on_taking_files_over(finished: Path, recipe: Path, tmp_path: Path) -> None:
    """Continue it by its folder alone, without its second iteration."""
    out, expected = tmp_path / "b", hash_files(finished)
    assert command("run", recipe, "--out", out, "--reuse", finished).code == 0
    assert hash_files(out, NOT_COMPARED) == expected
    shutil.rmtree(out / "iter-2")
    (out / "run.jsonl").unlink()
    assert command("run", out).code == 0
    assert hash_files(out, NOT_COMPARED) == expected
    assert {"iter-2/replies.jsonl", "iter-2/adapter"} <= files_by_origin(out)[0]
    # Without the other run, what is missing is made.
    shutil.rmtree(out / "iter-2/adapter")
    finished.rename(tmp_path / "gone")
    assert "nothing more is taken over" in command("run", out).err
    assert hash_files(out, NOT_COMPARED) == expected


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"run": 3}'])
def test_a_damaged_reuse_file_is_refused_in_one_line(finished: Path, content: str) -> None:
    (finished / "reuse.json").write_text(content)
    shutil.rmtree(finished / "iter-2/adapter")
    done = command("run", finished)
    assert done.code == 2 and "reuse.json is damaged: it must hold" in done.err


def test_damaged_files_of_a_reused_run_are_refused(finished: Path) -> None:
    pairs, fork = finished / "iter-1/pairs.jsonl", finished.with_name("b")
    lines = pairs.read_bytes().splitlines(keepends=True)
    words = ("run", finished, "training.epochs=3", "--fork", "b")
    for content, message in (
        ([*lines[:2], b"{}\n", *lines[3:]], f"{pairs} has changed since the run made it"),
        ([*lines[:2], b"{}\n", *lines[3:]], f"{pairs} line 3: not a Pair row"),
        (lines[:-1], f"{pairs}: 7 rows found, 8 expected"),
    ):
        pairs.write_bytes(b"".join(content))
        done = command(*words)
        assert done.code == 2 and message in done.err
        assert not (fork / "iter-1/pairs.jsonl").exists()
        # As in a run of an earlier version.
        (finished / "manifest.json").unlink(missing_ok=True)
    pairs.unlink()
    assert command(*words).code == 0
    taken, new = files_by_origin(fork)
    assert "iter-1/replies.jsonl" in taken and "iter-1/pairs.jsonl" in new


def test_what_can_not_be_reused_is_refused_in_one_line(finished: Path, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    other_format = Path(shutil.copytree(finished, tmp_path / "other"))
    (other_format / "version.json").write_text('{"format": 99}')
    new_run = ("run", recipe, "--out", tmp_path / "new")
    refusals = {
        "is not a run folder": (*new_run, "--reuse", tmp_path / "empty"),
        "has format 99": (*new_run, "--reuse", other_format),
        "can't take over its own files": ("run", finished, "--reuse", finished),
        "give the new run another folder": ("run", finished, "--fork", "a"),
        "give one of them": ("run", finished, "--fork", "b", "--reuse", other_format),
        "is none: leave out --fork": (*new_run, "--fork", "b"),
        "leave out --reuse and --fork": (*new_run, "--seeds", "2", "--reuse", finished),
    }
    for message, words in refusals.items():
        assert message in refused(*words)
    assert not (tmp_path / "new").exists() and not finished.with_name("b").exists()


def test_another_seed_makes_everything_new(finished: Path, tmp_path: Path) -> None:
    done = command("run", finished, "seed=5", "iterations=1", "--fork", tmp_path / "sub" / "b")
    assert done.code == 0 and "all files depend on seed, so they are made new" in done.err
    assert not files_by_origin(tmp_path / "sub/b")[0]


def test_the_refusal_of_another_recipe_names_a_command_that_works(finished: Path) -> None:
    message = refused("run", finished, "assessment=null", "filters=[]", "iterations=1", "machine.engine_batch_size=7")
    assert "run folder" in message and "made with another recipe" in message
    proposal = message.strip().rpartition("stays the same: isheep ")[2]
    words = ("iterations=1", "assessment=null", "'filters=[]'", "machine.engine_batch_size=7", "--fork a-2")
    assert proposal == f"run {finished} {' '.join(words)}"
    assert command(*shlex.split(proposal)).code == 0
    # The ratings had dropped no pair, so the model is the same without them.
    taken, _ = files_by_origin(finished.with_name("a-2"))
    assert taken == {"iter-1/replies.jsonl", "iter-1/pairs.jsonl", "iter-1/adapter"}
    # Values have no defaults, the next free name is proposed, and a long command is not repeated.
    message = refused("run", finished, "filters=[{kind: score, above: 7}]")
    assert message.strip().endswith(f"""run {finished} 'filters=[{{"kind": "score", "above": 7.0}}]' --fork a-3""")
    message = refused("run", finished, f"assessment.prompt={{quality: '{{instruction}} {{output}} {'long ' * 99}'}}")
    assert message.strip().endswith("the same command with --fork a-3")


def test_python_reuses_a_run_with_the_same_engine(fake_models: None, recipe: Path, tmp_path: Path) -> None:
    first, second = (package.load_recipe(recipe, {"iterations": 1, "training.epochs": n}) for n in (1, 2))
    package.align(first, tmp_path / "a", engine=write_texts).run()
    package.align(second, tmp_path / "b", engine=write_texts, reuse=tmp_path / "a").run()
    assert "iter-1/assessed.jsonl" in files_by_origin(tmp_path / "b")[0]
    with pytest.raises(package.UserError, match=r"isheep.align\(recipe, '.*a-2', reuse='.*a'\)$"):
        package.align(second, tmp_path / "a", engine=write_texts).run()
    with pytest.raises(package.UserError, match=r"made with the engine .*write_texts, and this run has the recipe's"):
        package.align(second, tmp_path / "c", reuse=tmp_path / "a").run()


class ClockChat(FakeChat):
    """A chat template that asks for the date."""

    reads_clock = True


def test_a_run_that_reuses_another_one_has_its_date(fake_models: None, recipe: Path, tmp_path: Path) -> None:
    backend = Backend(open_engine, train, lambda *arguments: ClockChat())  # type: ignore[arg-type, return-value]
    dated = package.load_recipe(recipe, {"iterations": 1, "date": "2026-07-26"})
    undated = package.load_recipe(recipe, {"iterations": 1, "training.epochs": 3})
    package.align(dated, tmp_path / "a", backend=backend).run()
    package.align(undated, tmp_path / "b", backend=backend, reuse=tmp_path / "a").run()
    assert str(package.load_recipe(tmp_path / "b/recipe.yaml").date) == "2026-07-26"
    assert "iter-1/assessed.jsonl" in files_by_origin(tmp_path / "b")[0]


# --- redo


def test_redo_makes_a_run_again_from_a_stage_and_keeps_the_old_files(finished: Path) -> None:
    before = hash_files(finished)
    (finished / "iter-1/notes.txt").write_text("my own")
    (finished / "iter-1/assessed.jsonl.part").write_text("left over")
    done = command("redo", finished, "--from", "assess", "--iteration", "1")
    assert done.code == 0
    stages = "ratings, filtering, training of iteration 1; all of iteration 2"
    assert f"set aside in {finished}/replaced/1: {stages}" in done.err
    after = hash_files(finished)
    replaced = {name.removeprefix("replaced/1/"): after.pop(name) for name in list(after) if "replaced" in name}
    del after["iter-1/notes.txt"], replaced["iter-1/assessed.jsonl.part"]
    assert after == before
    kept = {f"iter-1/{name}.jsonl" for name in ("replies", "tasks", "rejected", "pairs")} | {"iter-1/diversity.json"}
    assert replaced.items() == {item for item in before.items() if item[0].startswith("iter-") and item[0] not in kept}


def test_a_redo_that_can_not_begin_leaves_every_file_where_it_was(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(recipe: Recipe, benchmarks_need_logprobs: bool) -> list[str]:
        raise UserError("no server answers: start one")

    before = hash_files(finished)
    fakes = Backend(open_engine, train, lambda name, model: FakeChat(), refuse)  # type: ignore[arg-type, return-value]
    use_backend(monkeypatch, fakes)
    for stage, iteration in (("assess", "1"), ("training", "2")):
        message = refused("redo", finished, "--from", stage, "--iteration", iteration)
        assert "no server answers" in message and hash_files(finished) == before
        assert not (finished / "replaced").exists()
    assert "set aside" not in (finished / "run.jsonl").read_text()


def test_what_follows_a_redo_is_said_behind_it(finished: Path) -> None:
    assert command("redo", finished, "--from", "filtering", "--iteration", "2").code == 0
    notes = json.loads(command("status", finished, "--json").out)["notes"]
    assert [note.partition(":")[0] for note in notes] == [
        "iteration 1", f"set aside in {finished}/replaced/1", "iteration 2",
    ]  # fmt: skip


def test_an_edited_file_is_learned_from_after_redo(finished: Path) -> None:
    path, weights = finished / "iter-2/train.json", "iter-2/adapter/adapter_model.safetensors"
    old_weights = (finished / weights).read_text()
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([{**row, "output": "Yes."} for row in rows]))
    assert "has changed since" in command("run", finished).err
    for number in (1, 2):
        assert command("redo", finished, "--from", "training", "--iteration", "2").code == 0
        assert [path.name for path in (finished / f"replaced/{number}/iter-2").iterdir()] == ["adapter"]
    # The first version learned from the rows as they were, the others from the edited ones.
    versions = [(finished / folder / weights).read_text() for folder in ("replaced/1", "replaced/2", "")]
    assert versions[0] == old_weights != versions[1] == versions[2]


def test_redo_of_a_fork_does_not_take_the_same_files_over_again(finished: Path) -> None:
    assert command("run", finished, "iterations=1", "training.epochs=3", "--fork", "b").code == 0
    fork = finished.with_name("b")
    (fork / "run.jsonl").unlink()
    assert command("redo", fork, "--from", "ratings").code == 0
    assert not files_by_origin(fork)[0] and (fork / "replaced/1/reuse.json").exists()


def test_scores_are_made_again_for_all_later_models(finished: Path) -> None:
    for folder in ("base", "iter-1", "iter-2"):
        (finished / folder / "eval").mkdir(parents=True)
        (finished / folder / "eval/lamb.json").write_text('{"scores": {"right": {"items": [true]}}}')
        accept_files(finished, [f"{folder}/eval/lamb.json"])
    done = command("redo", finished, "--from", "evaluate", "--iteration", "1")
    assert done.code == 0 and "replaced/1: evaluation of iteration 1; evaluation of iteration 2\n" in done.err
    assert sorted(path.parent.name for path in finished.rglob("eval")) == ["base", "iter-1", "iter-2"]
    assert (finished / "base/eval").exists() and (finished / "iter-2/adapter").exists()


def test_redo_of_what_can_not_be_made_again_is_refused(finished: Path, tmp_path: Path) -> None:
    before = hash_files(finished)
    refusals = {
        "say with --iteration which of them is made again first": (finished, "--from", "train"),
        "in iteration 3: give one of 1, 2": (finished, "--from", "train", "--iteration", "3"),
        "stage 'trian' is not known: did you mean 'train'": (finished, "--from", "trian"),
        "no files of the stage 'evaluation'": (finished, "--from", "evaluate"),
        "is not a run folder": (tmp_path / "runs", "--from", "train"),
        "only machine may change": (finished, "training.epochs=7", "--from", "train", "--iteration", "1"),
    }
    for message, words in refusals.items():
        assert message in refused("redo", *words)
    assert hash_files(finished) == before


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
def test_a_redo_that_is_killed_at_every_third_moment_can_be_continued(undisturbed: Path, tmp_path: Path) -> None:
    words = ("redo", str(tmp_path / "whole"), "--from", "respond", "--iteration", "1")
    shutil.copytree(undisturbed, tmp_path / "whole")
    assert run_until_killed(tmp_path / "whole", 0, words=words) == 0
    for moment in range(1, count_moments(tmp_path / "whole") + 1, 3):
        check_killed_redo(undisturbed, tmp_path / f"run-{moment}", moment)
