"""isheep rigor: each item of a review answered from run folders, with figures counted by hand, or "not done"."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from isheep.annotation import RATINGS, Rating, append_annotation
from isheep.api import load_recipe
from isheep.benchmarks import lamb
from isheep.benchmarks.support.measures import _read_measures, load_measures
from isheep.evaluation.statistics import mcnemar
from isheep.lamb.suite import suite
from isheep.recipe.benchmark_names import packaged_names
from isheep.records import Pair
from isheep.report.rigor.items import ITEMS
from isheep.rundir.atomic import write_json, write_text
from isheep.rundir.manifest import accept_files
from tests.helpers.command import isheep, refused
from tests.helpers.finished_runs import make_finished_run, rated, share
from tests.helpers.hashes import hash_files

EXAM = suite()[:30]
SCORE_FILTER = {"kind": "score", "at_least": 8}
RANDOM = {"kind": "random", "as_many_as": {"at_least": 8}}


@pytest.fixture(autouse=True)
def short_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lamb, "suite", lambda: EXAM)


def make_scored_run(path: Path, gain: int, **settings: Any) -> Path:
    """Make a run of one iteration that gains so many of 30 items on lamb's suite, and has two rated pairs.

    The first pair is a task of the suite.
    """
    scores = [{"lamb": {"right": share(10 + number, 30)}} for number in (0, gain)]
    pairs = [rated(0, 9, 9), rated(1, 2, 2)]
    first = pairs[0].model_copy(update={"instruction": EXAM[0].instruction, "input": EXAM[0].input})
    settings = {"evaluation": ["lamb"], "filters": [SCORE_FILTER], **settings}
    run = make_finished_run(path, [[first, pairs[1]]], scores, [[pairs[1].id]], **settings)
    rows = [Pair(**pair.model_dump(exclude={"grades"})) for pair in (first, pairs[1])]
    write_text(run / "iter-1/pairs.jsonl", "".join(row.model_dump_json() + "\n" for row in rows))
    accept_files(run, ["iter-1/pairs.jsonl"])
    return run


def make_sweep(folder: Path) -> Path:
    """Make the runs of three settings with two seeds each: lamb, and the controls random-keep and size-matched."""
    for seed in (0, 1):
        make_scored_run(folder / f"main/seed-{seed}", 8 + seed, seed=seed)
        make_scored_run(folder / f"random/seed-{seed}", 2, seed=seed, filters=[RANDOM])
        make_scored_run(folder / f"size/seed-{seed}", 3, seed=seed, training={"num_rows": 4})
    return folder


def sheet(*paths: Path) -> dict[str, dict[str, Any]]:
    """Return the items of the sheet by name."""
    done = isheep("rigor", *paths, "--json")
    assert done.code == 0, done.err
    return {entry["item"]: entry for entry in json.loads(done.out)["items"]}


def text_of(entry: dict[str, Any]) -> str:
    return "\n".join(entry["answer"])


def test_one_run_is_answered_from_its_files_and_the_rest_is_not_done(tmp_path: Path) -> None:
    items = sheet(make_scored_run(tmp_path / "run", 8))
    assert list(items) == [item.name for item in ITEMS]
    verdicts = {name: entry["verdict"] for name, entry in items.items()}
    assert {name for name, verdict in verdicts.items() if verdict == "not done"} == {
        "variance", "seeds", "alternative explanations"
    }  # fmt: skip
    assert f"p {mcnemar(share(10, 30), share(18, 30)):.4f}" in text_of(items["significance"])
    assert "run, iteration 1, lamb right: 60 [42,75]% over 30 items" in text_of(items["intervals"])
    assert "python 3" in text_of(items["environment"])
    assert "whether the base has read them is not known" in text_of(items["contamination"])
    assert "lamb right: content, constraints" in text_of(items["construct validity"])
    assert "lamb does not measure knowledge of the real world" in text_of(items["proxy and outcome"])


def test_the_commands_of_what_is_not_done_begin_runs_that_answer_it(tmp_path: Path) -> None:
    """Each proposed recipe loads, and the sheet recognises it as what it is proposed for."""
    run = make_scored_run(tmp_path / "seed-0", 8, seed=0)
    items = sheet(run)
    program, verb, recipe, setting, out, folder = shlex.split(items["seeds"]["command"])
    assert (program, verb, setting, out, folder) == ("isheep", "run", "seed=1", "--out", str(tmp_path / "seed-1"))
    assert load_recipe(recipe, [setting]).seed == 1
    _, _, recipe, setting, _, folder = shlex.split(items["alternative explanations"]["command"])
    changed = load_recipe(recipe, [setting])
    make_scored_run(Path(folder), 2, **changed.model_dump(mode="json", include={"filters", "seed"}))
    answer = text_of(sheet(run, Path(folder))["alternative explanations"])
    assert "seed-0 minus seed-0-random-keep (random-keep): iteration 1, lamb right +20.0" in answer
    assert "Not excluded: fewer pairs" not in answer


def test_settings_and_seeds_answer_variance_seeds_and_controls(tmp_path: Path) -> None:
    items = sheet(make_sweep(tmp_path / "sweep"))
    assert "6 runs of 3 settings" in text_of(items["number of runs"])
    # Gains of 8 and 9 of 30 items.
    gain = "main, iteration 1, lamb right, minus base by seed: 0: +26.67, 1: +30.00; mean +28.33, a gain in 2 of 2"
    assert items["seeds"]["verdict"] == "answered" and gain in text_of(items["seeds"])
    assert "main, iteration 1, lamb right: standard deviation 2.4 over 2 seeds" in text_of(items["variance"])
    controls = items["alternative explanations"]
    assert controls["verdict"] == "partly" and "training.max_steps" not in controls["command"]
    assert "main minus random (random-keep): iteration 1, lamb right +21.7" in text_of(controls)
    assert "main minus size (size-matched): iteration 1, lamb right +18.3" in text_of(controls)
    assert "step-matched" in text_of(controls) and "filters: random" in text_of(items["search budget"])


def test_overlap_counts_what_contamination_counts(tmp_path: Path) -> None:
    entry = sheet(make_scored_run(tmp_path / "run", 8))["overlap"]
    assert entry["verdict"] == "answered"
    assert "of 2 generated pairs in 1 run, 1 overlap with a prompt, and 1 of these were kept" in text_of(entry)
    assert "right is 58.6" in text_of(entry) and "on its 29 clean items" in text_of(entry)


def test_a_benchmark_without_a_text_is_not_done_and_data_that_are_gone_are_named(tmp_path: Path) -> None:
    scores = [{"own": {"a": share(1, 4)}, "ifeval": {"prompt strict": share(number, 4)}} for number in (1, 2)]
    only_own = [{"own": entry["own"]} for entry in scores]
    run = make_finished_run(tmp_path / "own", scores=only_own, evaluation=[])
    assert sheet(run)["construct validity"]["verdict"] == "not done"
    ifeval = [{"name": "ifeval", "data": str(tmp_path / "gone.jsonl")}]
    items = sheet(make_scored_run(tmp_path / "gone", 1, evaluation=ifeval))
    assert items["overlap"]["verdict"] == "not done" and "ifeval: its data are elsewhere" in text_of(items["overlap"])
    mixed = sheet(make_finished_run(tmp_path / "both", scores=scores, evaluation=[]))
    assert mixed["construct validity"]["verdict"] == "partly"
    assert "isheep has no text on own" in text_of(mixed["construct validity"])
    assert "ifeval: public since 2023" in text_of(mixed["contamination"])


def test_people_and_calibration_answer_the_checks_of_the_judge(tmp_path: Path) -> None:
    run = make_scored_run(tmp_path / "run", 8)
    assert sheet(run)["human check"]["verdict"] == "partly"
    row = rated(0, 9, 9).id
    append_annotation(run / RATINGS, Rating(row=row, by="Ann", scores={"quality": 7, "following": 4}))
    append_annotation(run / RATINGS, Rating(row=row, by="Bo", scores={"quality": 8, "following": 4}))
    repeated = {"method": "m", "criteria": {"quality": {"num_pairs": 2, "equal": [1, 0.3, 1], "within_1": [1, 0.3, 1],
                "concordance": None}}}  # fmt: skip
    write_json(run / "iter-1/judge_calibration.json", {"repeated": repeated})
    accept_files(run, ["iter-1/judge_calibration.json"])
    items = sheet(run)
    assert text_of(items["human check"]) == "run: 2 people rated 1 pairs; mean quality 7.50, following 4.00."
    assert items["judge"]["verdict"] == "answered" and "equal 100.0% [30, 100]" in text_of(items["judge"])


def test_a_run_without_scores_says_how_to_get_them(tmp_path: Path) -> None:
    run = make_finished_run(tmp_path / "run")
    items = sheet(run)
    for name in ("intervals", "significance", "correction", "sample size", "contamination", "proxy and outcome"):
        assert items[name]["verdict"] == "not done" and items[name]["command"] == f"isheep eval {run}"


def test_the_table_and_the_markdown_file_show_each_item_and_change_no_run(tmp_path: Path) -> None:
    run = make_scored_run(tmp_path / "a|b [bold]x \x1b[2J", 8)
    before = hash_files(run)
    done = isheep("rigor", run, "--out", tmp_path / "rigor.md")
    assert done.code == 0, done.err
    assert hash_files(run) == before and "\x1b" not in done.out and "[bold]x" in done.out
    lines = (tmp_path / "rigor.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines if line.startswith("| ")] == [
        "| item", "| ---", *(f"| {item.name}" for item in ITEMS)
    ]  # fmt: skip
    variance = next(line for line in lines if line.startswith("| variance"))
    assert "**not done**" in variance and "Run isheep run" in variance and "\x1b" not in variance
    for item in ITEMS:
        assert item.name.split()[0] in done.out


def test_folders_that_are_no_runs_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "is not a run folder" in refused("rigor", tmp_path / "empty")
    run = make_finished_run(tmp_path / "run")
    assert "give a file, such as rigor.md" in refused("rigor", run, "--out", tmp_path)


def test_every_packaged_benchmark_has_a_text() -> None:
    assert [name for name in packaged_names() if load_measures(name) is None] == []
    tasks = {name.rpartition("/")[2] for name in packaged_names()}
    assert _read_measures().keys() == tasks
    assert load_measures("own.py:lamb") is None
