"""The run folder: records, artifacts, locks, and a run that is really killed and taken up again."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from isheep.errors import UserError
from isheep.recipe.schema import Recipe
from isheep.records import Drop
from isheep.rundir import manifest
from isheep.rundir.events import read_events
from isheep.rundir.folder import RunFolder
from isheep.rundir.memory import RESET
from isheep.rundir.run import lock_run, open_run, open_run_for_writing
from tests.helpers.hashes import hash_files
from tests.helpers.kills import count_moments, run_until_killed

RECIPE = Recipe.model_validate({"model": "lamb", "synthesis": {"tasks": 4}})


def drop(n: int) -> Drop:
    return Drop(row=str(n), by="score", why="quality 3 < 8")


def in_threes(done: list[Drop]) -> Iterator[list[Drop]]:
    """Eight rows, three to a batch."""
    assert len(done) % 3 == 0
    for start in range(len(done), 8, 3):
        yield [drop(n) for n in range(start, min(start + 3, 8))]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "iter-1", tmp_path)


def test_records_are_written_then_only_read(folder: RunFolder) -> None:
    rows = folder.records("dropped.jsonl", Drop, in_threes, 3)
    assert [row.row for row in rows] == list("01234567")

    def never(done: list[Drop]) -> Iterator[list[Drop]]:
        raise AssertionError("a finished file is not made again")

    assert folder.records("dropped.jsonl", Drop, never, 3) == rows
    assert not list(folder.path.glob("*.part"))


@pytest.mark.parametrize("cut", [0, 1, 40, 120, 121, 150, 200, 399, 400])
def test_a_part_that_is_torn_anywhere_is_completed_to_the_same_file(folder: RunFolder, cut: int) -> None:
    folder.records("whole.jsonl", Drop, in_threes, 3)
    content = (folder.path / "whole.jsonl").read_bytes()
    (folder.path / "again.jsonl.part").write_bytes(content[:cut])
    folder.records("again.jsonl", Drop, in_threes, 3)
    assert (folder.path / "again.jsonl").read_bytes() == content


def test_a_part_with_zeros_is_made_again_from_the_first_zero(folder: RunFolder) -> None:
    """What a power cut leaves: the length is there, the content is not."""
    folder.records("whole.jsonl", Drop, in_threes, 3)
    content = (folder.path / "whole.jsonl").read_bytes()
    (folder.path / "again.jsonl.part").write_bytes(content[:170] + bytes(len(content) - 170))
    folder.records("again.jsonl", Drop, in_threes, 3)
    assert (folder.path / "again.jsonl").read_bytes() == content


def test_rows_keep_unusual_characters(folder: RunFolder) -> None:
    odd = Drop(row="\u2028 \x85 \r\n \x00 \U0001f411", by="{}", why='"\\')
    assert folder.write("odd.jsonl", Drop, [odd]) == folder.read("odd.jsonl", Drop) == [odd]


def test_a_file_without_rows_is_complete(folder: RunFolder) -> None:
    assert folder.write("none.jsonl", Drop, []) == []
    assert folder.has("none.jsonl")


def test_a_corrupt_line_in_a_finished_file_is_named(folder: RunFolder) -> None:
    folder.records("dropped.jsonl", Drop, in_threes, 3)
    path = folder.path / "dropped.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:4], lines[4][:10] + "\n", *lines[5:]]))
    with pytest.raises(UserError, match=r"dropped\.jsonl line 5: not a Drop row"):
        folder.read("dropped.jsonl", Drop)
    path.write_text("".join(lines)[:-9])
    with pytest.raises(UserError, match=r"dropped\.jsonl line 8: not a Drop row"):
        folder.read("dropped.jsonl", Drop)


def test_a_finished_file_with_another_number_of_rows_is_named(folder: RunFolder) -> None:
    folder.records("pairs.jsonl", Drop, in_threes, 3, num_rows=8)
    assert len(folder.records("pairs.jsonl", Drop, in_threes, 3, num_rows=8)) == 8
    with pytest.raises(UserError, match=r"pairs\.jsonl: 8 rows found, 9 expected; .*delete the file"):
        folder.records("pairs.jsonl", Drop, in_threes, 3, num_rows=9)


def test_an_artifact_exists_completely_or_not_at_all(folder: RunFolder) -> None:
    def fails(into: Path) -> None:
        (into / "checkpoint").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        folder.artifact("adapter", fails)
    assert not folder.has("adapter")

    def goes_on(into: Path) -> None:
        (into / "weights").write_text((into / "checkpoint").read_text() + " and half")

    path = folder.artifact("adapter", goes_on)
    assert (path / "weights").read_text() == "half and half"
    assert folder.artifact("adapter", fails) == path


@pytest.mark.skipif(not os.access(RESET, os.W_OK), reason="the system does not measure a peak anew")
def test_the_memory_of_a_file_is_that_of_making_it(folder: RunFolder) -> None:
    folder.json("large.json", lambda: {"bytes": len(bytearray(200_000_000))})
    folder.json("small.json", dict)
    large, small = (event["peak_memory"]["resident"] for event in read_events(folder.root))
    assert large - small > 150_000_000


def test_json_is_made_once(folder: RunFolder) -> None:
    assert folder.json("eval/lamb.json", lambda: {"score": 1}) == {"score": 1}
    assert folder.json("eval/lamb.json", dict) == {"score": 1}


# --- the run as a whole


OTHER_WRITER = """
import sys
from pathlib import Path
from isheep.errors import UserError
from isheep.rundir.run import lock_run
try:
    with lock_run(Path(sys.argv[1])):
        print("locked")
except UserError as error:
    print(error)
"""


def lock_in_another_process(run_dir: Path) -> str:
    """Return "locked" if another process can lock the run folder, else the message of its error."""
    command = [sys.executable, "-c", OTHER_WRITER, str(run_dir)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout


def test_a_second_process_can_read_a_run_and_not_write_it(tmp_path: Path) -> None:
    with open_run_for_writing(tmp_path / "run", RECIPE):
        assert "in use by another process" in lock_in_another_process(tmp_path / "run")
        assert open_run(tmp_path / "run")[0] == RECIPE
    assert lock_in_another_process(tmp_path / "run") == "locked\n"


def test_a_process_can_take_its_lock_again_and_holds_it_until_all_have_released_it(tmp_path: Path) -> None:
    with open_run_for_writing(tmp_path / "run", RECIPE):
        with lock_run(tmp_path / "run"):
            pass
        assert "in use by another process" in lock_in_another_process(tmp_path / "run")
    assert lock_in_another_process(tmp_path / "run") == "locked\n"


def test_a_run_folder_of_another_format_is_refused_in_one_line(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    with open_run_for_writing(run_dir, RECIPE):
        pass
    version = run_dir / "version.json"
    assert json.loads(version.read_text()) == {"format": 2}
    version.write_text('{"format": 3}')
    with pytest.raises(UserError, match="has format 3, and this version of isheep reads 2"):
        open_run(run_dir)
    version.write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        open_run(run_dir)
    version.unlink()
    with pytest.raises(UserError, match=r"was made by isheep 0\.1.*another run_dir") as error:
        open_run(run_dir)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"was made by isheep 0\.1"), open_run_for_writing(run_dir, RECIPE):
        pass
    assert not version.exists()


def test_a_run_of_another_recipe_is_refused_with_the_differences(tmp_path: Path) -> None:
    with open_run_for_writing(tmp_path / "run", RECIPE):
        pass
    training = RECIPE.training.model_copy(update={"epochs": 5})
    other_recipe = RECIPE.model_copy(update={"training": training, "seed": 7})
    with (
        pytest.raises(UserError, match=r"seed: 42 -> 7; training\.epochs: 2 -> 5"),
        open_run_for_writing(tmp_path / "run", other_recipe),
    ):
        pass


def test_a_resumed_run_may_change_machine_and_increase_iterations(tmp_path: Path) -> None:
    grown = Recipe.model_validate({**RECIPE.model_dump(), "iterations": 5, "machine": {"threads": 2}})
    for recipe in (RECIPE, grown):
        with open_run_for_writing(tmp_path / "run", recipe):
            pass
    assert open_run(tmp_path / "run")[0] == grown
    with pytest.raises(UserError, match="iterations: 5 -> 3"), open_run_for_writing(tmp_path / "run", RECIPE):
        pass


def test_a_key_that_is_newer_than_a_run_is_not_added_to_its_recipe(tmp_path: Path) -> None:
    file = tmp_path / "run" / "recipe.yaml"
    with open_run_for_writing(tmp_path / "run", RECIPE):
        settings = yaml.safe_load(file.read_text())
    # The run began before there were training.keep, machine.packing and manifests.
    (tmp_path / "run" / "manifest.json").unlink()
    del settings["training"]["keep"], settings["machine"]["packing"]
    file.write_text(yaml.safe_dump(settings, sort_keys=False) + "# by hand\n")
    before = file.read_bytes()
    with open_run_for_writing(tmp_path / "run", RECIPE):
        pass
    assert file.read_bytes() == before
    grown = RECIPE.model_copy(update={"iterations": 5})
    with open_run_for_writing(tmp_path / "run", grown):
        pass
    assert yaml.safe_load(file.read_text()) == {**settings, "iterations": 5}


def test_a_recipe_that_cannot_run_leaves_no_run_folder(tmp_path: Path) -> None:
    missing = RECIPE.model_copy(update={"seed_tasks": "nowhere.jsonl"})
    with pytest.raises(UserError, match=r"nowhere\.jsonl"), open_run_for_writing(tmp_path / "run", missing):
        pass
    with open_run_for_writing(tmp_path / "run", RECIPE) as run:
        assert run.has("seeds.jsonl")


def test_rating_prompts_of_the_user_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prompt_file = Path("mine.yaml")
    prompt_file.write_text("quality: Rate {instruction} {output}\n")
    recipe = Recipe.model_validate(
        {"model": "lamb", "assessment": {"prompt": str(prompt_file), "criteria": ["quality"]}}
    )
    for _ in range(2):
        with open_run_for_writing(tmp_path / "run", recipe) as run:
            assert yaml.safe_load((run.path / "prompts.yaml").read_text()) == {"mine.yaml": prompt_file.read_text()}
    prompt_file.write_text("quality: Praise {instruction} {output}\n")
    with (
        pytest.raises(UserError, match=r"prompt file mine\.yaml is not what run folder"),
        open_run_for_writing(run.path, recipe),
    ):
        pass
    prompt_file.unlink()
    # The run does not need the file any more.
    assert open_run(tmp_path / "run")[0] == recipe


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="not a run folder"), open_run_for_writing(tmp_path, RECIPE):
        pass
    with pytest.raises(UserError, match="not a run folder"):
        open_run(tmp_path)


def test_events_survive_a_torn_line(tmp_path: Path) -> None:
    with open_run_for_writing(tmp_path / "run", RECIPE) as run, (tmp_path / "run" / "run.jsonl").open("a") as file:
        file.write('{"torn": ')
    with open_run_for_writing(tmp_path / "run", RECIPE) as run:
        run.write("dropped.jsonl", Drop, [drop(1)])
    events = read_events(tmp_path / "run")
    assert [set(event) & {"started", "file"} for event in events] == [{"started"}, {"started"}, {"file"}]
    assert events[-1]["rows"] == 1


# --- killed for real: a whole run on a fake engine and a fake trainer (killed_run.py), at the n-th thing that it does


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert run_until_killed(run, kill_at=0) == 0
    return run


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_a_run_that_is_killed_and_started_again_has_the_same_files(
    undisturbed: Path, tmp_path: Path, share: float
) -> None:
    run = tmp_path / "killed"
    assert run_until_killed(run, kill_at=1 + int(share * count_moments(undisturbed))) == -signal.SIGKILL
    assert run_until_killed(run, kill_at=3) == -signal.SIGKILL
    assert run_until_killed(run, kill_at=0) == 0
    assert hash_files(run) == hash_files(undisturbed)
    assert (run / "manifest.json").read_bytes() == (undisturbed / "manifest.json").read_bytes()


@pytest.mark.parametrize("moment", [10, 11])
def test_a_run_that_is_killed_before_its_recipe_has_a_name_begins_again(
    undisturbed: Path, tmp_path: Path, moment: int
) -> None:
    """recipe.yaml is recorded, and its content is in recipe.yaml.part."""
    run = tmp_path / "killed"
    assert run_until_killed(run, moment) == -signal.SIGKILL
    assert (run / "recipe.yaml.part").exists() and not (run / "recipe.yaml").exists()
    assert run_until_killed(run, 0) == 0 and hash_files(run) == hash_files(undisturbed)


def test_self_instructs_own_pipeline_has_the_same_files_after_kills(tmp_path: Path) -> None:
    run, undisturbed = tmp_path / "killed", tmp_path / "whole"
    assert run_until_killed(undisturbed, 0, "self-instruct") == 0
    rows = [json.loads(line) for line in (undisturbed / "iter-2/task_kinds.jsonl").read_text().splitlines()]
    assert {row["classification"] for row in rows} == {True, False, None}
    assert {"instances.jsonl", "unanswered.jsonl", "pairs.jsonl"} <= {
        path.name for path in (undisturbed / "iter-2").iterdir()
    }
    # The shares of the remaining moments: the kills strike among the replies and among the instances.
    for share in (0.1, 0.25):
        assert run_until_killed(run, 1 + int(share * count_moments(undisturbed)), "self-instruct") == -signal.SIGKILL
    assert run_until_killed(run, 0, "self-instruct") == 0
    assert hash_files(run) == hash_files(undisturbed)


@pytest.mark.slow
def test_a_run_with_a_stop_rule_has_the_same_files_after_kills(tmp_path: Path) -> None:
    run, undisturbed = tmp_path / "killed", tmp_path / "whole"
    assert run_until_killed(undisturbed, 0, "stop") == 0
    for share in (0.1, 0.5, 0.3):
        assert run_until_killed(run, 1 + int(share * count_moments(undisturbed)), "stop") == -signal.SIGKILL
    assert run_until_killed(run, 0, "stop") == 0
    assert hash_files(run) == hash_files(undisturbed)
    assert {"base/validation/halved.json", "iter-1/eval/halved.json"} <= {*hash_files(run)}


def test_a_run_that_is_killed_between_two_files_of_an_evaluation_has_the_same_files(tmp_path: Path) -> None:
    """The answers are finished and recorded before the scores are."""
    run, undisturbed = tmp_path / "killed", tmp_path / "whole"
    assert run_until_killed(undisturbed, 0, "exam") == 0
    assert run_until_killed(run, 26, "exam") == -signal.SIGKILL
    assert (run / "base/eval/lamb/greedy.jsonl").exists() and not (run / "base/eval/lamb.json").exists()
    assert run_until_killed(run, 0, "exam") == 0
    assert hash_files(run) == hash_files(undisturbed)
    assert {*hash_files(run)} <= {*manifest.read_manifest(run)}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["isheep", "self-instruct", "dromedary", "stop", "exam"])
def test_a_run_that_is_killed_at_any_moment_has_the_same_files(recipe: str, tmp_path: Path) -> None:
    run, undisturbed = tmp_path / "killed", tmp_path / "whole"
    assert run_until_killed(undisturbed, 0, recipe) == 0
    for moment in range(1, count_moments(undisturbed) + 1):
        assert run_until_killed(run, moment, recipe) == -signal.SIGKILL, moment
        assert run_until_killed(run, 0, recipe) == 0, moment
        assert hash_files(run) == hash_files(undisturbed), moment
        assert (run / "manifest.json").read_bytes() == (undisturbed / "manifest.json").read_bytes(), moment
        shutil.rmtree(run)


def test_a_run_has_exactly_these_files(undisturbed: Path) -> None:
    names = set(hash_files(undisturbed))
    inside = {"replies.jsonl", "tasks.jsonl", "rejected.jsonl", "pairs.jsonl", "assessed.jsonl", "dropped.jsonl"}
    inside |= {"diversity.json", "perplexity.jsonl", "embeddings.jsonl", "train.json", "adapter/weights"}
    assert names == {"recipe.yaml", "seeds.jsonl", "version.json"} | {
        f"iter-{t}/{name}" for t in (1, 2) for name in inside
    }
    rows = json.loads((undisturbed / "iter-2" / "train.json").read_text())
    assert 0 < len(rows) < 20 and set(rows[0]) == {"instruction", "input", "output", "finish"}
