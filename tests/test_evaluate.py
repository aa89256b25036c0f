"""`isheep eval` and `isheep compare` on run folders with fake engines: what is made, kept, printed and refused."""

import fcntl
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isheep.backends import DEFAULT_BACKEND
from isheep.engines.function import SeededFunctionEngine
from isheep.evaluation.statistics import compare, compare_over_seeds, estimate, holm, mcnemar
from isheep.recipe.schema import Recipe
from isheep.records import Model
from tests.helpers.backends import use_backend
from tests.helpers.command import isheep, refused
from tests.helpers.hashes import hash_files
from tests.helpers.runs import fake_models, is_narrow, make_run, write_result


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return fake_models(monkeypatch)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


# --- eval


def test_a_benchmark_that_the_recipe_does_not_name(engines: list[str], run: Path) -> None:
    done = isheep("eval", run, "lamb")
    assert done.code == 0 and engines == ["base", "iter-1", "iter-2"] and is_narrow(done.out)
    assert "p over items" in done.out and done.out.count("qwen") == 3
    before = hash_files(run)
    assert {f"{name}/eval/lamb.json" for name in ("base", "iter-1", "iter-2")} <= set(before)
    engines.clear()
    assert isheep("eval", run, "lamb").out == done.out and not engines and hash_files(run) == before
    # The recipe names neither of the two benchmarks.
    assert "prompt strict" in isheep("status", run).out
    write_result(run, "base", "ifeval", result(HALF))
    assert "ifeval" in isheep("status", run).out and isheep("eval", run, "lamb").out == done.out


def test_only_one_iteration_and_the_recipes_benchmarks(engines: list[str], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", evaluation=["lamb"])
    assert isheep("eval", run, "--iteration", "1").code == 0 and engines == ["iter-1"]
    assert isheep("eval", run).code == 0 and engines == ["iter-1", "base", "iter-2"]


def test_an_interrupted_evaluation_resumes(engines: list[str], run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete = Path(shutil.copytree(run, run.with_name("complete")))
    assert isheep("eval", complete, "lamb").code == 0
    with monkeypatch.context() as context:
        real = DEFAULT_BACKEND.open_engine

        def dies(recipe: Recipe, model: Model) -> SeededFunctionEngine:
            if model.adapter and "iter-1" in str(model.adapter):
                raise KeyboardInterrupt
            return real(recipe, model)

        use_backend(context, replace(DEFAULT_BACKEND, open_engine=dies))
        assert isheep("eval", run, "lamb").code == 130
    kept = (run / "base" / "eval" / "lamb.json").stat().st_mtime_ns
    assert isheep("eval", run, "lamb").code == 0 and hash_files(run) == hash_files(complete)
    assert (run / "base" / "eval" / "lamb.json").stat().st_mtime_ns == kept


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "has no benchmark in evaluation: name one of alpaca_eval, alpaca_eval_2"),
        (("lamp",), "benchmark 'lamp' is not known: did you mean 'lamb'?"),
        (("lamb", "--data", "mine.jsonl"), "benchmark lamb needs no data, and mine.jsonl is given"),
        (("lamb", "ifeval", "--data", "mine.jsonl"), "--data mine.jsonl is for one benchmark"),
        (("lamb", "--iteration", "3"), "has no model of iteration 3: give 0 (the base) to 2"),
        (("lamb", "--out", "there"), "--out is for --responses"),
    ],
)
def test_invalid_evaluations_are_refused(engines: list[str], run: Path, words: tuple[str, ...], message: str) -> None:
    before = hash_files(run)
    assert message in refused("eval", run, *words) and not engines and hash_files(run) == before


def test_a_folder_that_is_no_run_or_is_in_use(engines: list[str], run: Path, tmp_path: Path) -> None:
    assert "is not a run folder" in refused("eval", tmp_path, "lamb")
    assert "give a run folder: isheep eval DIR" in refused("eval")
    with (run / "lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "is in use by another process" in refused("eval", run, "lamb")


# --- compare


def items(number: int, right: Callable[[int], bool]) -> list[bool]:
    return [right(n) for n in range(number)]


HALF, MORE = items(100, lambda n: n % 2 == 0), items(100, lambda n: n % 2 == 0 or n % 10 == 1)
BY_PROMPT = [n // 2 for n in range(100)]


def result(values: list[Any], prompts: str = "a", template: str = "qwen") -> dict[str, Any]:
    scores = {"prompt": {"items": values}, "instruction": {"items": values, "clusters": BY_PROMPT}}
    return {"prompt_fingerprint": prompts, "template": template, "scores": scores}


def test_two_iterations_of_a_run(run: Path) -> None:
    write_result(run, "base", "ifeval", result(HALF, template="plain"))
    write_result(run, "iter-1", "ifeval", result(HALF))
    write_result(run, "iter-2", "ifeval", result(MORE))
    done = isheep("compare", run)
    plain, by_prompt = compare(HALF, MORE), compare(HALF, MORE, BY_PROMPT)
    corrected = holm([plain.p, by_prompt.p])
    assert plain.p == mcnemar(HALF, MORE) and done.code == 0
    for text in (f"{plain.p:.4f}", f"{by_prompt.p:.4f}", f"({corrected[0]:.4f})", f"({corrected[1]:.4f})"):
        assert text in done.out
    assert "+10.0" in done.out and f"({100 * plain.precision.detectable_at(0.025):.1f})" in done.out
    assert "2 tests" in " ".join(done.out.split())
    assert "plain" in done.out and "t over clusters" in done.out and "100 items" in done.out
    assert is_narrow("\n".join(line for line in done.out.splitlines() if str(run) not in line))
    # A family of one test is not corrected.
    single = isheep("compare", run, "--score", "ifeval prompt").out
    assert f"({plain.p:.4f})" in single and "one test" in single and f"({100 * plain.detectable:.1f})" in single
    assert isheep("compare", run, run, "--iteration", "0", "--iteration", "2").out == done.out
    assert isheep("compare", run, "--iteration", "2").out == done.out
    assert "+0.0" in isheep("compare", run, "--iteration", "1").out


def test_copies_count_as_one_test(run: Path) -> None:
    """Strict and loose accuracy are the same here: two tests with the clustered score, not three."""
    for folder, values in (("base", HALF), ("iter-2", MORE)):
        scores = {"strict": {"items": values}, "loose": {"items": values}}
        write_result(run, folder, "ifeval", {"scores": {**scores, **result(values)["scores"]}})
    done = isheep("compare", run, "--json")
    values = json.loads(done.out)
    plain, by_prompt = compare(HALF, MORE), compare(HALF, MORE, BY_PROMPT)
    strict, loose, _, instruction = (score["b_minus_a"] for score in values["scores"])
    assert values["num_tests"] == 2 and values["p_over"] == "items"
    assert strict["p_holm"] == loose["p_holm"] == holm([plain.p, by_prompt.p])[0]
    assert strict["minimum_detectable_difference"] == plain.precision.detectable_at(0.025) > plain.detectable
    assert instruction["minimum_detectable_difference"] == by_prompt.precision.detectable_at(0.025)
    text = " ".join(isheep("compare", run).out.split())
    assert "p over items" in text and "the 2 tests of this table, scores with the same values counted once" in text


def test_runs_are_paired_by_seed(tmp_path: Path) -> None:
    for name, more in (("a", 0), ("b", 10)):
        for seed in (1, 2, 3):
            run = make_run(tmp_path / name / f"seed-{seed}", 1, seed=seed)
            write_result(
                run, "iter-1", "ifeval", result(items(100, lambda n, limit=40 + 3 * seed + more * seed: n < limit))
            )
    make_run(tmp_path / "b" / "seed-4", 1, seed=4)
    write_result(tmp_path / "b" / "seed-4", "iter-1", "ifeval", result(HALF))
    done = isheep("compare", tmp_path / "a", tmp_path / "b")
    result_over_seeds = compare_over_seeds([0.43, 0.46, 0.49], [0.53, 0.66, 0.79])
    assert done.code == 0 and f"{result_over_seeds.p:.4f}" in done.out and "paired t over seeds" in done.out
    assert "sd 3.0" in done.out and "sd 13.0" in done.out and "+20.0" in done.out and "Holm" in done.out
    words = " ".join(done.out.split())
    assert "p over seeds" in words and "Random seeds are the unit" in words
    assert "only one side has them: random seeds 4" in done.out


def test_the_score_of_a_part_has_the_name_of_the_whole(run: Path) -> None:
    for iteration in ("base", "iter-2"):
        write_result(run, iteration, "ifeval", {**result(HALF), "part": "reported half"})
    for name in ("prompt", "ifeval prompt", "ifeval (reported half) prompt"):
        done = isheep("compare", run, "--score", name)
        assert done.code == 0 and "ifeval (reported half)" in done.out


def test_invalid_comparisons_are_refused(run: Path, tmp_path: Path) -> None:
    second = make_run(tmp_path / "second")
    assert "has no results to compare; make them with isheep eval" in refused("compare", run, second)
    write_result(run, "iter-2", "ifeval", result(HALF))
    write_result(second, "iter-2", "lamb", result(HALF))
    assert "the two have no score in common" in refused("compare", run, second)
    write_result(second, "iter-2", "ifeval", {**result(HALF), "part": "sample of 9"})
    message = refused("compare", run, second)
    assert "(A has ifeval; B has ifeval (sample of 9), lamb): take runs whose recipes have the same" in message
    write_result(second, "iter-2", "ifeval", result(HALF, prompts="b"))
    assert "ifeval: the two were asked other items" in refused("compare", run, second)
    assert "no score 'promt' on both sides: ifeval prompt" in refused("compare", run, run, "--score", "promt")
    assert "nowhere: no such folder; give the folder of a run, or of runs" in refused(
        "compare", run, tmp_path / "nowhere"
    )
    assert "--iteration is given 3 times" in refused("compare", run, *["--iteration", "1"] * 3)
    folder = tmp_path / "folder"
    for name in ("x", "y"):
        shutil.copytree(run, folder / name)
    assert "holds two runs with random seed 42" in refused("compare", folder, folder)
    shutil.rmtree(folder / "y")
    assert "1 random seed in common" in refused("compare", folder, folder)
    assert "a run is compared with a run" in refused("compare", run, folder)


def test_an_unreadable_item_is_left_out_and_counted(run: Path) -> None:
    write_result(run, "base", "judge", {"scores": {"score": {"items": [1.0, 2.0, None, 4.0, 5.0]}}})
    write_result(run, "iter-2", "judge", {"scores": {"score": {"items": [2.0, 4.0, 5.0, 7.0, None]}}})
    text = isheep("compare", run).out
    assert "3 items" in text and "2 unreadable" in text and "+2.00" in text and "sign flips" in text
    assert f"{estimate([1.0, 2.0, 4.0]).value:.3g} [" in text
