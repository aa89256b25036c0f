"""Sweeps with random seeds: their folders, what they share, their tables, contrasts, and matched compute."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isheep import api
from isheep.backends import Backend
from isheep.errors import UserError
from isheep.evaluation.compute import model_costs
from isheep.evaluation.contrasts import baseline_contrasts, compare_contrasts
from isheep.evaluation.seed_runs import load_seed_sweep, setting_scores
from isheep.evaluation.statistics import compare, compare_over_seeds, estimate, holm
from isheep.recipe.sweeps import with_seeds
from isheep.records import Pair, Reply
from isheep.rundir.jsonl import read_rows
from isheep.rundir.run import open_run
from isheep.rundir.training_file import read_training_file
from isheep.sweep import run_sweep
from tests.helpers.backends import use_backend
from tests.helpers.command import isheep, refused
from tests.helpers.finished_runs import make_finished_run, share
from tests.helpers.lab import Lab, own_files, recipe, result_hashes, shared
from tests.helpers.runs import is_narrow

BASE = "model: fake\niterations: 1\nsynthesis: {tasks: 24, batch_size: 8, novelty: null}\nresponse: {batch_size: 8}\n"
SETTINGS = "settings: {low: {filters: [{kind: score, at_least: 6}]}, high: {filters: [{kind: score, at_least: 8}]}}\n"
# Each step reads this many rows.
STEP_ROWS = 16


def with_records(lab: Lab) -> Backend:
    """Return the lab's backend with a trainer that records its rows and steps, as peft's does."""

    def train(recipe: Any, chat: Any, start: Any, training_file: Path, seed: int, into: Path) -> None:
        lab.train(recipe, chat, start, training_file, seed, into)
        num_rows = len(read_training_file(training_file).rows)
        steps = recipe.training.max_steps or -(-num_rows * recipe.training.epochs // recipe.training.batch_size)
        (into / "training.json").write_text(json.dumps({"rows": {"trained": num_rows}, "steps": steps}))

    return replace(lab.backend, train=train)


@pytest.fixture
def sweep_file(command_lab: Lab, tmp_path: Path) -> Path:
    (tmp_path / "sweep.yaml").write_text(BASE + SETTINGS)
    return tmp_path / "sweep.yaml"


def names(out: Path) -> list[str]:
    return sorted(str(path.parent.relative_to(out)) for path in out.glob("*/*/recipe.yaml"))


# --- running


def test_every_setting_runs_with_every_seed(command_lab: Lab, sweep_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = isheep("sweep", sweep_file, "--seeds", "2", "--out", out, "seed=5")
    assert done.code == 0 and is_narrow("\n".join(line for line in done.out.splitlines() if str(tmp_path) not in line))
    assert names(out) == ["high/seed-5", "high/seed-6", "low/seed-5", "low/seed-6"]
    # Within a seed, the second setting copies what the first has written; nothing is copied across seeds.
    for seed in (5, 6):
        assert shared(out / f"high/seed-{seed}")["iter-1/pairs.jsonl"] == f"../../low/seed-{seed}/iter-1/pairs.jsonl"
        assert "iter-1/adapter" in own_files(out / f"high/seed-{seed}")
    assert len({result_hashes(out / "low" / name)["iter-1/pairs.jsonl"] for name in ("seed-5", "seed-6")}) == 2
    assert isheep("run", sweep_file.with_name("sweep.yaml")).code == 2
    # A list adds seeds, and what is finished stays.
    num_calls, before = command_lab.asked, result_hashes(out / "low/seed-5")
    assert isheep("sweep", sweep_file, "--seeds", "6,9", "--out", out).code == 0
    assert command_lab.asked == num_calls + num_calls // 2 and result_hashes(out / "low/seed-5") == before
    status = isheep("status", out)
    assert status.code == 0 and all(f"{name}/seed-{n}" in status.out for name in ("low", "high") for n in (5, 6, 9))
    values = json.loads(isheep("status", out, "--json").out)
    assert values["seeds"] == [5, 6, 9] and values["runs"].keys() == values["states"].keys()
    assert {state["state"] for state in values["states"].values()} == {"finished"}


def test_a_sweep_alone_equals_runs_with_each_seed(lab: Lab, tmp_path: Path) -> None:
    recipes = with_seeds({"one": recipe(), "long": recipe(training={"epochs": 3})}, [3, 4])
    assert list(recipes) == ["one/seed-3", "long/seed-3", "one/seed-4", "long/seed-4"]
    for name, run in zip(recipes, lab.run_sweep(recipes, tmp_path / "sweep"), strict=True):
        lab.run_recipe(recipes[name], tmp_path / "alone" / name)
        assert result_hashes(run) == result_hashes(tmp_path / "alone" / name), name


@pytest.mark.parametrize(
    ("seeds", "reason"),
    [
        ("0", "is no number of random seeds: give 1 to 1000"),
        ("-1", "is neither a number of random seeds"),
        ("a,b", "is neither a number of random seeds"),
        ("3,3", "lists a random seed twice"),
        ("", "is neither a number"),
    ],
)
def test_wrong_seeds_are_refused(seeds: str, reason: str, sweep_file: Path) -> None:
    for command in ("sweep", "run"):
        assert reason in refused(command, sweep_file, f"--seeds={seeds}")


def test_other_layouts_are_refused(command_lab: Lab, sweep_file: Path, tmp_path: Path) -> None:
    assert isheep("sweep", sweep_file, "--out", tmp_path / "plain").code == 0
    message = refused("sweep", sweep_file, "--seeds", "2", "--out", tmp_path / "plain")
    assert "holds the runs of a sweep without random seeds" in message and "give another --out" in message
    assert isheep("sweep", sweep_file, "--seeds", "1", "--out", tmp_path / "seeds").code == 0
    assert "with random seeds: give --seeds" in refused("sweep", sweep_file, "--out", tmp_path / "seeds")
    (tmp_path / "grid.yaml").write_text(BASE + "grid: {seed: [1, 2]}")
    assert "leave seed out of the sweep" in refused("sweep", tmp_path / "grid.yaml", "--seeds", "2")


def test_failed_and_missing_runs_are_listed(command_lab: Lab, sweep_file: Path, tmp_path: Path) -> None:
    sweep_file.write_text(BASE + "settings: {none: {filters: [{kind: score, above: 9}]}, some: {}}\n")
    out = tmp_path / "out"
    done = isheep("sweep", sweep_file, "--seeds", "2", "--out", out)
    assert done.code == 2 and "2 of 4 settings could not be finished: none/seed-42: iteration 1: 0 of 24" in done.err
    assert "none/seed-42: failed: iteration 1: 0 of 24 pairs left" in done.out and "0 of 2" in done.out
    (out / "some/seed-43").rename(tmp_path / "elsewhere")
    (out / "some/seed-42/recipe.yaml").write_text("[")
    status = isheep("status", out)
    assert "some/seed-43: missing: it has not begun" in status.out and "some/seed-42: damaged: " in status.out
    states = json.loads(isheep("status", out, "--json").out)["states"]
    assert {name: state["state"] for name, state in states.items()} == {
        "none/seed-42": "failed",
        "none/seed-43": "failed",
        "some/seed-42": "damaged",
        "some/seed-43": "missing",
    }
    (out / "sweep.json").write_text("{}")
    assert "sweep.json is damaged: delete it" in refused("status", out)


# --- costs and matched compute


def test_copied_files_cost_what_they_cost_the_other_run(lab: Lab, tmp_path: Path) -> None:
    recipes = with_seeds({"one": recipe(), "two": recipe(training={"epochs": 1})}, [1])
    first, second = run_sweep(recipes, tmp_path, backend=with_records(lab))
    assert "iter-1/replies.jsonl" in shared(second)
    costs, copied = model_costs(*open_run(first)), model_costs(*open_run(second))
    assert len(costs) == 3 and costs[0] == (0, 0, 0, 0.0)
    files = [("replies.jsonl", Reply), ("pairs.jsonl", Pair)]
    tokens = [
        sum(row.tokens for name, kind in files for row in read_rows(first / f"iter-{t}" / name, kind)) for t in (1, 2)
    ]
    rows = [len(read_training_file(first / f"iter-{t}/train.json").rows) for t in (1, 2)]
    steps = [-(-number * 2 // STEP_ROWS) for number in rows]
    assert costs[1][:3] == (tokens[0], rows[0], steps[0]) and costs[2][:3] == (sum(tokens), sum(rows), sum(steps))
    assert copied[1].tokens == tokens[0] and copied[1].steps == -(-rows[0] // STEP_ROWS)
    assert costs[2].seconds is not None and costs[1].seconds is not None and copied[1].seconds is not None
    # Without the other run, its seconds are not known.
    first.rename(tmp_path / "gone")
    assert model_costs(*open_run(second))[1].seconds is None


MATCHED = """
settings:
  direct: {iterations: 1, training: {steps_of: loop}}
  loop: {iterations: 2, training: {epochs: 3}}
"""


def test_compute_matched_trains_the_steps_that_were_trained(
    command_lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_backend(monkeypatch, with_records(command_lab))
    (tmp_path / "sweep.yaml").write_text(BASE + MATCHED)
    out = tmp_path / "out"
    assert isheep("sweep", tmp_path / "sweep.yaml", "--seeds", "2", "--out", out).code == 0
    steps = {}
    for run_dir in (out / name for name in names(out)):
        steps[run_dir.relative_to(out).parts] = model_costs(*open_run(run_dir))[-1].steps
        saved = api.load_recipe(run_dir / "recipe.yaml").training
        assert saved.steps_of is None and (saved.max_steps is None) == (run_dir.parent.name == "loop")
    for seed in ("seed-42", "seed-43"):
        assert steps["direct", seed] == steps["loop", seed]
    assert steps["loop", "seed-42"] != 2 * 3 * 24 // STEP_ROWS
    # A second call finds all finished.
    num_trained = len(command_lab.trained)
    assert isheep("sweep", tmp_path / "sweep.yaml", "--seeds", "2", "--out", out).code == 0
    assert len(command_lab.trained) == num_trained
    # A single run names a run folder.
    (tmp_path / "one.yaml").write_text(BASE)
    words = ("run", tmp_path / "one.yaml", "--out", tmp_path / "one", f"training.steps_of={out / 'loop/seed-43'}")
    assert isheep(*words).code == 0
    assert model_costs(*open_run(tmp_path / "one"))[-1].steps == steps["loop", "seed-43"]


def test_steps_that_cannot_be_matched_are_refused(lab: Lab, tmp_path: Path) -> None:
    matched = recipe(iterations=1, training={"steps_of": "loop"})
    with pytest.raises(UserError, match="loop is neither another setting of the sweep nor a run folder"):
        lab.run_recipe(matched, tmp_path / "alone")
    with pytest.raises(UserError, match="is itself matched with"):
        lab.run_sweep(
            {"loop": recipe(iterations=1, training={"steps_of": "x"}), "direct": matched, "x": recipe()}, tmp_path
        )
    none = recipe(filters=[{"kind": "score", "above": 9}])
    with pytest.raises(UserError, match="direct: training.steps_of: .*/loop has not ended"):
        lab.run_sweep({"direct": matched, "loop": none}, tmp_path / "failed")
    # The lab's own trainer leaves no record.
    with pytest.raises(UserError, match="it does not say how many steps were trained"):
        lab.run_sweep({"direct": matched, "loop": recipe()}, tmp_path / "unrecorded")
    for words, reason in (
        ({"iterations": 2, "training": {"steps_of": "x"}}, "it is for a recipe of one iteration"),
        ({"iterations": 1, "training": {"steps_of": "x", "max_steps": 3}}, "give one of them"),
        ({"iterations": 1, "iteration": {1: {"training": {"steps_of": "x"}}}}, "for the recipe as a whole"),
    ):
        with pytest.raises(UserError, match=reason):
            api.load_recipe({"like": "lamb", **words})
    for folder in ("lamb", "paper"):
        controls = api.load_sweep(f"{folder}/controls")
        assert controls["compute-matched"].training.steps_of in controls


# --- contrasts


# The number of right items of 100 for each setting: base, iteration 1 and iteration 2, before the seed's own shift.
RIGHT = {"plain": (30, 40, 50), "better": (30, 42, 60), "worse": (30, 38, 45)}
SHIFT = {1: (0, 1, 2), 2: (0, -1, 4), 3: (0, 2, -3), 4: (0, 0, 1)}


def right_items(setting: str, seed: int, iteration: int) -> list[bool]:
    extra = {"better": seed, "worse": -(seed % 2)}.get(setting, 0)
    return share(RIGHT[setting][iteration] + SHIFT[seed][iteration] + extra, 100)


@pytest.fixture
def sweep_dir(tmp_path: Path) -> Path:
    """A finished sweep of three settings with four seeds, by hand."""
    out = tmp_path / "sweep"
    for setting in RIGHT:
        for seed in SHIFT:
            scores = [{"exam": {"right": right_items(setting, seed, t)}} for t in range(3)]
            make_finished_run(out / setting / f"seed-{seed}", scores=scores, seed=seed)
    return out


def mean(setting: str, seed: int, iteration: int = 2) -> float:
    return sum(right_items(setting, seed, iteration)) / 100


def test_settings_are_compared_with_a_baseline_in_one_family(sweep_dir: Path) -> None:
    done = isheep("compare", sweep_dir, "--baseline", "plain", "--json")
    values = json.loads(done.out)
    assert done.code == 0 and values["contrasts"] == ["plain:better", "plain:worse"] and values["num_tests"] == 2
    plain = [mean("plain", seed) for seed in SHIFT]
    tests = [compare_over_seeds(plain, [mean(name, seed) for seed in SHIFT], True) for name in ("better", "worse")]
    assert [score["b_minus_a"]["p"] for score in values["scores"]] == [tests[0].p, tests[1].p]
    for score, test, corrected in zip(values["scores"], tests, holm([test.p for test in tests]), strict=True):
        difference = score["b_minus_a"]
        assert difference["p_holm"] == corrected and difference["difference"] == test.difference
        assert difference["low"] == test.low and difference["test"] == "paired t over seeds"
        assert difference["minimum_detectable_difference"] == test.precision.detectable_at(0.025)
        assert difference["num_seeds"] == 4 and score["seeds"] == [1, 2, 3, 4]
    items = compare(right_items("plain", 3, 2), right_items("better", 3, 2))
    assert values["scores"][0]["over_items"][2]["p"] == items.p
    text = isheep("compare", sweep_dir, "--baseline", "plain").out
    assert is_narrow(text) and "A plain" in text and "B better" in text and "exact McNemar" in text
    assert f"{tests[0].p:.4f}" in text and "the 2 tests of this table" in " ".join(text.split())
    sweep = load_seed_sweep(sweep_dir)
    family = compare_contrasts(sweep, baseline_contrasts(sweep, "plain", [1]), ["exam right"])
    assert [str(score.contrast) for score in family.scores] == ["plain@1:better@1", "plain@1:worse@1"]
    assert family.scores[0].scores[1] == [mean("better", seed, 1) for seed in SHIFT]


def test_iterations_are_compared_within_each_setting(sweep_dir: Path) -> None:
    values = json.loads(isheep("compare", sweep_dir, "--json").out)
    expected = [f"{name}@{t}:{name}" for name in sorted(RIGHT) for t in (0, 1)]
    assert values["contrasts"] == expected and values["num_tests"] == 6
    together = json.loads(isheep("compare", sweep_dir, "--baseline", "plain", "--within", "--json").out)
    assert together["num_tests"] == 8
    declared = ("--contrast", "plain@1:plain", "--contrast", "worse:better@2")
    values = json.loads(isheep("compare", sweep_dir, *declared, "--json").out)
    first, second = values["scores"]
    assert values["num_tests"] == 2 and first["a"]["by_seed"] == [mean("plain", seed, 1) for seed in SHIFT]
    assert second["b"]["by_seed"] == [mean("better", seed) for seed in SHIFT]


def test_equal_means_of_other_items_are_tests_of_their_own(sweep_dir: Path) -> None:
    for seed in SHIFT:
        path = sweep_dir / f"better/seed-{seed}/iter-2/eval/exam.json"
        result = json.loads(path.read_text())
        items = result["scores"]["right"]["items"]
        result["scores"] |= {"copy": {"items": items}, "turned": {"items": items[::-1]}}
        path.write_text(json.dumps(result))
        plain = sweep_dir / f"plain/seed-{seed}/iter-2/eval/exam.json"
        result = json.loads(plain.read_text())
        items = result["scores"]["right"]["items"]
        plain.write_text(
            json.dumps({**result, "scores": {name: {"items": items} for name in ("right", "copy", "turned")}})
        )
    values = json.loads(isheep("compare", sweep_dir, "--contrast", "plain:better", "--json").out)
    right, copy, turned = (score["b_minus_a"] for score in values["scores"])
    assert values["num_tests"] == 2 and right["p"] == copy["p"] == turned["p"] > 0
    assert right["p_holm"] == copy["p_holm"] == turned["p_holm"] == 2 * right["p"]


def test_a_run_that_is_missing_is_said(sweep_dir: Path) -> None:
    (sweep_dir / "sweep.json").write_text('{"settings": ["plain", "better", "gone"], "seeds": [1, 2, 3, 9]}')
    for path in (*sweep_dir.glob("*/seed-4"), sweep_dir / "worse"):
        path.rename(sweep_dir.parent / f"{path.parent.name}-{path.name}")
    (sweep_dir / "better/seed-2/iter-2/eval/exam.json").unlink()
    done = isheep("compare", sweep_dir, "--baseline", "plain", "--json")
    values = json.loads(done.out)
    [score] = values["scores"]
    assert done.code == 0 and score["seeds"] == [1, 3] and values["num_tests"] == 1
    left_out = "\n".join(values["left_out"])
    assert "plain:better, random seed 2: better/seed-2, iteration 2: " in left_out
    assert "random seed 9: plain/seed-9: it is missing (it has not begun)" in left_out
    assert all(f"plain:gone, random seed {seed}" in left_out for seed in (1, 2, 3, 9))
    assert "left out: plain:gone" in isheep("compare", sweep_dir, "--baseline", "plain").out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--baseline", "plan"), "setting 'plan' is not known: did you mean 'plain'?"),
        (("--contrast", "plain"), "write BEFORE:AFTER, such as better:plain"),
        (("--contrast", "plain:bettr"), "setting 'bettr' is not known"),
        (("--contrast", "plain@9:plain"), "plain has no iteration '9': give 0 (the base) to 2"),
        (("--contrast", "plain@1:plain@1"), "the two are the same model"),
        (("--score", "rigth"), "no score 'rigth' on both sides: exam right"),
    ],
)
def test_wrong_contrasts_are_refused(words: tuple[str, ...], reason: str, sweep_dir: Path) -> None:
    assert reason in refused("compare", sweep_dir, *words)


def test_contrasts_are_for_sweeps_with_seeds(sweep_dir: Path) -> None:
    runs = (sweep_dir / "plain", sweep_dir / "better")
    assert "are for a sweep with random seeds" in refused("compare", *runs, "--baseline", "plain")
    assert isheep("compare", *runs).code == 0


def test_scores_over_seeds_stand_beside_their_costs(sweep_dir: Path) -> None:
    by_model = {(score.setting, score.iteration): score for score in setting_scores(load_seed_sweep(sweep_dir))}
    assert len(by_model) == 9
    score, values = by_model["better", 2], [mean("better", seed) for seed in SHIFT]
    assert list(score.by_seed) == list(SHIFT) and score.estimate == estimate(values)
    assert score.cost.rows == 30 and score.cost.steps is None and score.cost.tokens is None
    text = isheep("status", sweep_dir).out
    assert (
        "4 of 4" in text
        and f"{100 * score.estimate.value:.3g} [" in text
        and is_narrow("\n".join(line for line in text.splitlines() if str(sweep_dir) not in line))
    )


def test_one_seed_has_no_interval(sweep_dir: Path) -> None:
    for path in sweep_dir.glob("*/seed-[234]"):
        path.rename(sweep_dir.parent / f"{path.parent.name}-{path.name}")
    values = json.loads(isheep("compare", sweep_dir, "--baseline", "plain", "--json").out)
    score = values["scores"][0]
    assert score["b_minus_a"]["p"] is None and score["over_items"][0]["p"] is not None and values["num_tests"] == 0
    text = isheep("status", sweep_dir).out
    assert "1 of 1" in text and "nan" not in text and "nan" not in isheep("compare", sweep_dir).out


def test_costs_are_shown_without_scores(command_lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_backend(monkeypatch, with_records(command_lab))
    (tmp_path / "sweep.yaml").write_text(BASE + SETTINGS)
    done = isheep("sweep", tmp_path / "sweep.yaml", "--seeds", "2", "--out", tmp_path / "out")
    sweep = load_seed_sweep(tmp_path / "out")
    steps = [run.cost(1).steps for run in sweep.runs_of("high")]
    assert done.code == 0 and "2 of 2" in done.out and None not in steps
    [row] = [line.split() for line in done.out.splitlines() if line.split()[:1] == ["high/seed-43"]]
    assert row[1:3] == ["finished", "1"] and str(steps[1]) in row
    message = refused("compare", tmp_path / "out")
    assert "nothing can be compared yet: low@0:low, random seed 42: " in message and ", and 2 more" in message
