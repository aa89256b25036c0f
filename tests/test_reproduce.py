"""The claims of the paper: their verdicts, and the page of findings that is made from run folders."""

import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from isheep import api
from isheep.evaluation.seed_runs import load_seed_sweep
from isheep.lamb import CHECKPOINT
from isheep.report.claims.declared import Claim, Laboratory, load_laboratory
from isheep.report.claims.findings import make_findings, save_findings
from isheep.report.claims.verdicts import judge_claims
from isheep.rundir.atomic import write_json, write_text
from isheep.seeds import load_seed_file
from tests.helpers.command import isheep, refused
from tests.helpers.finished_runs import make_finished_run
from tests.helpers.rows import make_pair

SETTINGS = ("weak", "equal", "strong")


def make_sweep(out: Path, num_seeds: int = 5) -> Path:
    """Make finished runs of three settings: "equal" is like "weak" in each seed, and "strong" has 50 items more."""
    rng = random.Random(0)
    for seed in range(1, num_seeds + 1):
        num_right = 250 + rng.randint(-5, 5)
        for setting, gain in (("weak", 0), ("equal", rng.randint(-1, 1)), ("strong", 50 + rng.randint(-2, 2))):
            items = [[number < count for number in range(500)] for count in (200, num_right + gain)]
            scores = [{"lamb": {"right": values}} for values in items]
            make_finished_run(out / setting / f"seed-{seed}", scores=scores, seed=seed, evaluation=["lamb"])
    return out


def make_claim(contrast: str, expect: str = "better", **fields: Any) -> Claim:
    names = {"id": contrast.replace("@1", ""), "claim": f"{expect}: {contrast}", "source": "here", "paper": "-"}
    return Claim.model_validate({**names, "measure": "lamb right", "contrasts": [contrast], "expect": expect, **fields})


@pytest.mark.parametrize(
    ("contrast", "expect", "verdict"),
    [
        ("weak@1:strong@1", "better", "holds"),
        ("strong@1:weak@1", "better", "does not hold"),
        ("weak@1:equal@1", "better", "does not hold"),
        ("weak@1:equal@1", "same", "holds"),
        ("weak@1:strong@1", "same", "does not hold"),
        ("weak@1:absent@1", "better", "not tested"),
    ],
)
def test_verdicts(contrast: str, expect: str, verdict: str, tmp_path: Path) -> None:
    sweep = load_seed_sweep(make_sweep(tmp_path / "sweep"))
    (result,) = judge_claims([make_claim(contrast, expect)], sweep, 0.02).results
    assert result.verdict == verdict


def test_two_seeds_tell_little(tmp_path: Path) -> None:
    sweep = load_seed_sweep(make_sweep(tmp_path / "sweep", num_seeds=2))
    claims = [make_claim("weak@1:strong@1"), make_claim("weak@1:equal@1", "same")]
    assert judge_claims(claims, sweep, 0.002).results[1].verdict == "can't be told"


def test_p_is_corrected_for_all_claims(tmp_path: Path) -> None:
    sweep = load_seed_sweep(make_sweep(tmp_path / "sweep"))
    alone = judge_claims([make_claim("weak@1:strong@1")], sweep, 0.02)
    family = judge_claims([make_claim("weak@1:strong@1"), make_claim("weak@1:equal@1")], sweep, 0.02)
    test = family.results[0].tests[0]
    assert (alone.num_tests, family.num_tests) == (1, 2)
    assert test.corrected_p == pytest.approx(2 * test.comparison.p) and family.alpha == pytest.approx(0.025)


def test_the_page_names_every_claim_test_and_run(tmp_path: Path) -> None:
    claims = (make_claim("weak@1:strong@1"), make_claim("weak@1:absent@1"))
    laboratory = Laboratory(sweep="s", measure="lamb right", margin=0.02, claims=claims)
    out = make_sweep(tmp_path / "sweep", num_seeds=3)
    (out / "equal" / "seed-2" / "iter-1" / "eval" / "lamb.json").unlink()
    page = make_findings(laboratory, out).page
    assert "| `weak@1:strong@1` | lamb right |" in page
    assert "**Not tested.**" in page and "weak@1:absent@1: the sweep has no setting absent" in page.replace("\\", "")
    for setting in SETTINGS:
        assert all(f"| {setting}/seed-{seed} | " in page for seed in (1, 2, 3))
    assert "| equal/seed-2 | unfinished" in page and make_findings(laboratory, out).page == page


def test_figures_show_the_numbers_of_the_runs(tmp_path: Path) -> None:
    laboratory = Laboratory(sweep="s", measure="lamb right", margin=0.02, claims=(make_claim("weak@1:strong@1"),))
    findings = make_findings(laboratory, make_sweep(tmp_path / "sweep"))
    save_findings(findings, tmp_path / "page" / "findings.md")
    # The trainings of these runs have left no record of their steps, so there is no figure of them.
    contrast_figure, score_figure = findings.figures
    contrasts = {row["contrast"]: row for row in contrast_figure.rows}
    scores = {row["setting"]: row for row in score_figure.rows}
    assert 9 < contrasts["weak@1:strong@1"]["low"] < contrasts["weak@1:strong@1"]["difference"] < 11
    assert scores["base"]["value"] == 40 and scores["strong"]["low"] > scores["weak"]["high"] > 49
    page = (tmp_path / "page" / "findings.md").read_text()
    for figure in findings.figures:
        assert f"]({figure.name}.svg)" in page
        assert (tmp_path / "page" / f"{figure.name}.svg").read_text().startswith("<svg")


def test_labels_of_settings_with_the_same_steps_do_not_overlap(tmp_path: Path) -> None:
    laboratory = Laboratory(sweep="s", measure="lamb right", margin=0.02, claims=(make_claim("weak@1:strong@1"),))
    sweep = make_sweep(tmp_path / "sweep")
    for run in sweep.glob("*/seed-*"):
        (run / "iter-1" / "adapter").mkdir(exist_ok=True)
        write_json(run / "iter-1" / "adapter" / "training.json", {"rows": {"trained": 10}, "steps": 5})
    save_findings(make_findings(laboratory, sweep), tmp_path / "findings.md")
    svg = (tmp_path / "findings-steps.svg").read_text()
    label_positions = re.findall(r"setting: (\w+)\"[^>]*translate\(([\d.]+),([\d.]+)\)", svg)
    heights = {setting: float(height) for setting, _, height in label_positions}
    assert set(heights) == set(SETTINGS) and heights["strong"] < min(heights["weak"], heights["equal"])
    # The label of a setting is 9 pixels high.
    assert 9 < abs(heights["weak"] - heights["equal"]) < 20
    lines = (tmp_path / "findings-steps.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in lines] == sorted(SETTINGS)


def test_settings_that_keep_the_same_pairs_are_the_same(tmp_path: Path) -> None:
    """Their differences are 0 for each seed, and such a contrast has no interval."""
    for setting in ("seven", "nine"):
        for seed in (1, 2, 3):
            make_scored_run(tmp_path / setting / f"seed-{seed}", seed, (20, 20 + seed))
    (result,) = judge_claims([make_claim("seven@1:nine@1", "same")], load_seed_sweep(tmp_path), 0.02).results
    assert result.verdict == "holds"


def test_the_packaged_claims_name_settings_and_iterations_that_exist() -> None:
    laboratory = load_laboratory()
    recipes = api.load_sweep(laboratory.sweep)
    for claim in laboratory.claims:
        for side in (side for contrast in claim.contrasts for side in contrast.split(":")):
            setting, _, iteration = side.partition("@")
            assert setting in recipes and int(iteration) <= recipes[setting].iterations, claim.id


def make_scored_run(path: Path, seed: int, num_right: tuple[int, ...], **fields: Any) -> Path:
    """Make a run whose models have so many of 50 items right, from the base on."""
    scores = [{"lamb": {"right": [number < count for number in range(50)]}} for count in num_right]
    return make_finished_run(path, scores=scores, seed=seed, evaluation=["lamb"], **fields)


def test_the_best_iteration_is_the_first_with_the_highest_score(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        make_scored_run(tmp_path / "small" / f"seed-{seed}", seed, (20, 30, 30, 25))
        make_scored_run(tmp_path / "large" / f"seed-{seed}", seed, (20, 30, 31, 31 + seed))
    (tmp_path / "large" / "seed-3" / "iter-2" / "eval" / "lamb.json").unlink()
    claim = make_claim("small@3:large@3", measure="best iteration", margin=0.5)
    (result,) = judge_claims([claim], load_seed_sweep(tmp_path), 0.02).results
    (test,) = result.tests
    assert test.seeds == [1, 2] and test.values == ([1, 1], [3, 3])
    assert result.missing == ["small@3:large@3: no best iteration for random seed 3"]


def test_every_base_model_has_its_own_line_of_scores(tmp_path: Path) -> None:
    for setting, model, num_right in (("plain", "lamb", 20), ("other", CHECKPOINT, 30)):
        make_scored_run(tmp_path / setting / "seed-1", 1, (num_right, 40), model=str(model))
    laboratory = Laboratory(sweep="s", measure="lamb right", margin=0.02, claims=(make_claim("plain@1:other@1"),))
    (_, score_figure) = make_findings(laboratory, tmp_path).figures
    values = {row["setting"]: row["value"] for row in score_figure.rows if row["score"] == "right"}
    assert values == {"base lamb": 40, f"base {CHECKPOINT}": 60, "plain": 80, "other": 80}


def make_run_with_pairs(path: Path, seed: int, has_foreign_words: bool) -> None:
    """Make a run whose pairs are seed tasks, others for each seed, or tasks of the same number with other words."""
    run = make_finished_run(path, [[]], seed=seed)
    tasks = load_seed_file(run / "seeds.jsonl").tasks[10 * seed :]
    texts = [("zip zap", f"zop {seed}") if has_foreign_words else (task.content, str(task.output)) for task in tasks]
    pairs = [make_pair(number, instruction, output) for number, (instruction, output) in enumerate(texts)]
    write_text(run / "iter-1/pairs.jsonl", "".join(f"{pair.model_dump_json()}\n" for pair in pairs))


def test_the_distance_to_the_seed_tasks_is_in_its_own_unit(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        make_run_with_pairs(tmp_path / "copied" / f"seed-{seed}", seed, has_foreign_words=False)
        make_run_with_pairs(tmp_path / "foreign" / f"seed-{seed}", seed, has_foreign_words=True)
    # A text and its copy are alike, so that the distance of the copies is below 0.
    fields = {"measure": "distance to the seed tasks", "margin": 5}
    claims = [make_claim(f"{setting}@0:{setting}@1", "same", **fields) for setting in ("copied", "foreign")]
    near, far = judge_claims(claims, load_seed_sweep(tmp_path), 0.02).results
    assert near.verdict == "holds" and abs(near.tests[0].comparison.difference) < 5
    assert far.verdict != "holds" and far.tests[0].comparison.difference > 10
    laboratory = Laboratory(sweep="s", measure="lamb right", margin=0.02, claims=tuple(claims))
    tables = make_findings(laboratory, tmp_path).page.partition("## Verdicts")[2].partition("## All runs")[0]
    assert "Margin: 5, in the unit of the distance to the seed tasks." in tables
    assert "%" not in tables.replace("95%", "")


def test_an_unknown_claim_is_refused(tmp_path: Path) -> None:
    assert "threshold" in refused("reproduce", "--claim", "treshold", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_quick_laboratory_runs_and_continues(tmp_path: Path) -> None:
    words = ("reproduce", "--quick", "--claim", "random-keep", "--out", tmp_path / "out")
    done = isheep(*words, "--jobs", "2")
    assert done.code == 0, done.err
    page = (tmp_path / "out" / "findings.md").read_text()
    assert page.count("| finished |") == 4 and "`random-keep@3:plain@3`" in page
    assert isheep(*words).code == 0 and (tmp_path / "out" / "findings.md").read_text() == page


@pytest.mark.slow
def test_processes_end_with_a_killed_command_and_a_second_one_counts_its_own_runs(tmp_path: Path) -> None:
    words = ["reproduce", "--quick", "--claim", "base", "--out", str(tmp_path), "--seeds", "1", "--jobs", "1"]
    command = [sys.executable, "-c", "from isheep.cli import main; main()", *words]
    for _ in range(2):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            line = next(text for text in process.stderr if text.startswith("random seed"))
            children = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            _, alive = psutil.wait_procs(children, timeout=60)
        # The guard and the command that it guards.
        assert len(children) >= 2 and not alive and "run 1 of 1" in line
