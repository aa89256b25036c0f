"""Stop rules: halves of benchmarks, the test by which a run ends, and the iteration that is its result."""

import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import isheep
from isheep.backends import local_model
from isheep.benchmarks import (
    HalfSettings,
    as_half,
    evaluation_prompts,
    load_benchmark,
    reported_settings,
    validation_prompts,
)
from isheep.errors import UserError
from isheep.evaluation.statistics import compare, upper_bound
from isheep.evaluation.stopping import find_gain_test
from isheep.recipe.benchmark_names import packaged_names
from isheep.recipe.evaluation import BenchmarkSettings, Stop, StopRule
from isheep.recipe.loading import load_saved_recipe
from isheep.recipe.schema import Recipe
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import find_run_result
from isheep.rundir.run import open_run
from isheep.rundir.validation_scores import ValidationScore
from tests.helpers.backends import add_benchmark
from tests.helpers.command import isheep as command_line
from tests.helpers.data_files import DATA
from tests.helpers.function_model import SMALL, write_texts
from tests.helpers.halved_benchmark import halved_benchmark, judge_by_model
from tests.helpers.hashes import hash_files
from tests.helpers.runs import make_run, write_result

# --- the rule


def shares(*right: int, total: int = 500) -> list[ValidationScore]:
    """Return the scores of models that are right on the first items, up to a number."""
    return [ValidationScore([index < number for index in range(total)]) for number in right]


def stops(scores: Sequence[ValidationScore], largest: float = 1.0, **settings: float) -> bool:
    return find_gain_test(scores, StopRule(benchmark="lamb", **settings), largest).is_over  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("right", "patience", "is_over"),
    [([50], 1, False), ([50, 60], 1, False), ([50, 60, 60], 1, True), ([50, 40], 1, True), ([50, 40], 2, False),
     ([50, 40, 45], 2, True), ([50, 40, 51], 2, False)],
)  # fmt: skip
@pytest.mark.parametrize("in_clusters", [False, True])
def test_without_tolerance_every_iteration_without_a_new_best_counts(
    right: list[int], patience: int, is_over: bool, in_clusters: bool
) -> None:
    scores = shares(*right, total=100)
    if in_clusters:
        scores = [score._replace(clusters=[index // 2 for index in range(100)]) for score in scores]
    assert stops(scores, patience=patience, gain=0, confidence=0.5) is is_over


def alternating(num_gained: int, num_lost: int, total: int = 500) -> list[ValidationScore]:
    """Return two models of which the second gains some items and loses others."""
    before = [num_gained <= index < total // 2 for index in range(total)]
    after = [index < total // 2 - num_lost for index in range(total)]
    return [ValidationScore(before), ValidationScore(after)]


def test_a_loss_within_the_noise_does_not_end_a_run() -> None:
    # 14 items are gained and 16 lost: 0.4 points less, with a standard error of 1.1 points.
    assert not stops(alternating(14, 16))
    # One half of the confidence, and the loss itself decides.
    assert stops(alternating(14, 16), confidence=0.5, gain=0)
    # 26 of 30 changed items are lost: 4.4 points less.
    assert stops(alternating(4, 26))
    # Nothing changes: a gain of one point is refuted by 500 items, not by 50.
    assert stops(shares(250, 250)) and not stops(shares(25, 25, total=50))
    assert stops(shares(25, 25, total=50), gain=10)


def test_iterations_without_a_new_best_add_up() -> None:
    best, later = alternating(14, 16)
    assert not stops([best, later])
    # After two and three iterations, two and three points should have been gained.
    assert not stops([best, later], patience=2) and stops([best, later, later, later])


def test_values_that_are_numbers_or_in_clusters_are_compared_by_t() -> None:
    rng = random.Random(0)
    before = [float(rng.randint(1, 10)) for _ in range(80)]
    after = [value + (-4.0 if index % 2 else 3.5) for index, value in enumerate(before)]
    dialogues = [index // 2 for index in range(80)]
    ratings = [ValidationScore(before, dialogues), ValidationScore(after, dialogues)]
    # Each dialogue loses 0.5 in sum, without any spread: 2.5 points of ten.
    assert stops(ratings, largest=10.0)
    assert find_gain_test(ratings, StopRule(benchmark="lamb"), 10.0).bound == pytest.approx(-2.5)
    assert not stops([ValidationScore(before), ValidationScore(after)], largest=10.0)


def test_values_that_cannot_be_read_are_left_out() -> None:
    before, after = alternating(4, 26)
    assert stops([before, ValidationScore([*[None] * 20, *after.items[20:]])])
    assert not stops([ValidationScore([None, 1.0]), ValidationScore([0.5, None])], patience=1)


def test_the_upper_bound_is_that_of_the_printed_interval() -> None:
    before, after = alternating(14, 16)
    assert upper_bound(before.items, after.items, None, 0.975) == pytest.approx(compare(before.items, after.items).high)
    groups = [index // 3 for index in range(500)]
    clustered = compare(before.items, after.items, groups)
    assert upper_bound(before.items, after.items, groups, 0.975) == pytest.approx(clustered.high)


def test_a_recipe_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("model: lamb\nstop: {benchmark: lamb, patience: 2}\n")
    assert load_saved_recipe(tmp_path / "recipe.yaml").stop == Stop(benchmark="lamb", patience=2)


# --- halves


LOCAL_DATA = {
    "ifeval": "ifeval", "mt_bench": "mt_bench", "humaneval": "humaneval/HumanEval.jsonl.gz",
    "humaneval_plus": "humaneval_plus/HumanEvalPlus.jsonl.gz", "mbpp": "mbpp/mbpp.jsonl", "standard/piqa": "piqa",
    "paper/piqa": "piqa", "paper/nq": "nq_open", "standard/squad2": "squad2/cs224n_dev-v2.0.json",
    "paper/commonsense_qa": "commonsenseqa",
}  # fmt: skip


def test_every_packaged_benchmark_has_a_validation_part() -> None:
    assert [name for name in packaged_names() if load_benchmark(name).validation is None] == []


@pytest.mark.parametrize("name", ["lamb", "lamb_sampled", "lamb_turns", *LOCAL_DATA])
def test_the_items_of_a_stopping_rule_are_not_reported(name: str) -> None:
    if name in LOCAL_DATA and not (DATA / LOCAL_DATA[name]).exists():
        pytest.skip(f"needs {LOCAL_DATA[name]} of the public data files")
    entry = {"name": name, "data": str(DATA / LOCAL_DATA[name])} if name in LOCAL_DATA else name
    recipe = Recipe.model_validate({"model": "fake", "evaluation": [entry], "stop": {"benchmark": name}})
    [settings] = recipe.evaluation
    read = validation_prompts(recipe)
    reported = evaluation_prompts([reported_settings(recipe.stop_rule, settings)])
    assert read and reported and not {*read} & {*reported}
    if name in LOCAL_DATA:
        everything = evaluation_prompts([settings])
        assert Counter(read) + Counter(reported) == Counter(everything)
        assert 0.4 < len(read) / len(everything) < 0.6


@pytest.mark.skipif(not (DATA / "ifeval").exists(), reason="needs the public data file of IFEval")
def test_the_halves_depend_neither_on_the_order_nor_on_other_items(tmp_path: Path) -> None:
    lines = (DATA / "ifeval/input_data.jsonl").read_text().splitlines()
    random.Random(1).shuffle(lines)
    (tmp_path / "some.jsonl").write_text("\n".join(lines[:200]) + "\n")
    settings = BenchmarkSettings(name="ifeval", data=str(DATA / "ifeval"))
    half = {*evaluation_prompts([as_half(settings, "reported half")])}
    shuffled = settings.model_copy(update={"data": str(tmp_path / "some.jsonl")})
    all_prompts = evaluation_prompts([shuffled])
    assert {*evaluation_prompts([as_half(shuffled, "reported half")])} == half & {*all_prompts}
    assert validation_prompts(Recipe(model="x", evaluation=(shuffled,), stop=Stop(benchmark="ifeval"))) == [
        prompt for prompt in all_prompts if prompt not in half
    ]


def test_other_benchmarks_on_the_same_items_report_the_other_half_too() -> None:
    def is_halved(stop: str, name: str) -> bool:
        return isinstance(reported_settings(StopRule(benchmark=stop), BenchmarkSettings(name=name)), HalfSettings)

    assert is_halved("standard/piqa", "paper/piqa") and is_halved("humaneval", "humaneval_plus")
    assert is_halved("mbpp", "mbpp_sanitized") and is_halved("alpaca_eval_2", "alpaca_eval")
    assert not is_halved("standard/piqa", "paper/siqa") and not is_halved("lamb", "lamb")
    assert not is_halved("standard/arc_easy", "standard/arc_challenge")


def test_questions_about_the_same_passage_are_in_the_same_half(tmp_path: Path) -> None:
    rows = [{"context": f"Passage {n // 3}.", "question": f"Question {n}?", "answers": {"text": ["a"]}, "id": str(n)}
            for n in range(60)]  # fmt: skip
    (tmp_path / "dev.json").write_text(json.dumps(rows))
    settings = BenchmarkSettings(name="standard/squad2", data=str(tmp_path / "dev.json"))
    prompts = [
        evaluation_prompts([as_half(settings, "validation half")]),
        evaluation_prompts([as_half(settings, "reported half")]),
    ]
    passages = [{prompt.split("\n")[0] for prompt in half} for half in prompts]
    assert not passages[0] & passages[1] and len(passages[0] | passages[1]) == 20


def test_a_half_without_an_item_is_refused(tmp_path: Path) -> None:
    (tmp_path / "NQ-open.dev.jsonl").write_text('{"question": "who wrote it", "answer": ["Ann Lee"]}\n')
    settings = BenchmarkSettings(name="paper/nq", data=str(tmp_path))
    with pytest.raises(UserError, match="half has no item, because all 1 are in the other half: give more items"):
        evaluation_prompts([as_half(settings, half) for half in ("reported half", "validation half")])  # type: ignore[arg-type]


# --- a run


STOPPED: dict[str, Any] = {**SMALL, "iterations": 4, "evaluation": ["halved"], "stop": {"benchmark": "halved"}}
# Of 400 questions; iteration 2 is clearly worse than iteration 1, which is better than the base.
NUM_RIGHT = {"base": 200, "iter-1": 220, "iter-2": 100, "iter-3": 390, "iter-4": 390}


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that its stop rule ends after iteration 2."""
    with pytest.MonkeyPatch.context() as patch:
        add_benchmark(patch, halved_benchmark(judge_by_model(NUM_RIGHT)))
        run_dir = tmp_path_factory.mktemp("stopped") / "run"
        isheep.align(isheep.load_recipe("lamb", STOPPED), run_dir, engine=write_texts).run()
    return run_dir


@pytest.fixture
def halved(monkeypatch: pytest.MonkeyPatch) -> None:
    add_benchmark(monkeypatch, halved_benchmark(judge_by_model(NUM_RIGHT)))


def test_a_run_ends_by_one_half_and_reports_the_other(stopped_run: Path, halved: None) -> None:
    assert [path.name for path in sorted(stopped_run.glob("iter-*"))] == ["iter-1", "iter-2"]
    [note] = [
        json.loads(line)["note"] for line in (stopped_run / "run.jsonl").read_text().splitlines() if "stopped" in line
    ]
    assert note.startswith("stopped after iteration 2 of 4: on halved's validation part it is -3")
    assert "points from iteration 1, the best so far" in note
    parts = [json.loads((stopped_run / f"iter-1/{part}/halved.json").read_text()) for part in ("validation", "eval")]
    assert [result["part"] for result in parts] == ["validation half", "reported half"]
    assert sum(len(result["scores"]["right"]["items"]) for result in parts) == 400


def test_commands_take_the_best_iteration_and_say_so(stopped_run: Path, halved: None, tmp_path: Path) -> None:
    best = "iteration 1, the best by halved's validation part"
    status = command_line("status", stopped_run)
    assert f"result: {best}" in status.out and "halved (reported half)" in status.out
    assert "change: iteration 1 minus base" in " ".join(status.out.split())
    values = json.loads(command_line("status", stopped_run, "--json").out)
    assert values["result"] == {"iteration": 1, "reason": "the best by halved's validation part"}
    assert values["benchmarks"]["halved"]["part"] == "reported half" and values["is_finished"]
    merged = command_line("export", stopped_run, "--merged", "--out", tmp_path / "merged")
    assert merged.out.strip() == str(tmp_path / "merged") and f"exporting {best}" in merged.err
    assert "iter-1.alpaca.json" in command_line("export", stopped_run, "--as", "alpaca").out
    assert "iter-2.alpaca.json" in command_line("export", stopped_run, "--as", "alpaca", "--iteration", "2").out
    chat = command_line("chat", stopped_run, typed=b"Hello\n")
    assert chat.code == 0 and f"answers of {best}" in chat.err
    assert "answers of" not in command_line("chat", stopped_run, "--iteration", "2", typed=b"Hello\n").err
    compared = command_line("compare", stopped_run)
    assert best in " ".join(compared.out.split()) and "halved (reported half)" in compared.out


def test_the_gguf_of_the_best_iteration_is_named(stopped_run: Path, halved: None, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="the package gguf is not installed")
    done = command_line("export", stopped_run, "--as", "gguf", "--out", tmp_path / "gguf")
    assert done.code == 0 and "exporting iteration 1, the best by halved's validation part" in done.err


def test_python_takes_the_best_iteration(stopped_run: Path, halved: None) -> None:
    run = isheep.read_run(stopped_run)
    assert run.result.iteration == 1 and run.result.adapter == stopped_run / "iter-1/adapter"
    assert local_model(str(stopped_run))[0].adapter == stopped_run / "iter-1/adapter"
    assert isheep.evaluate(stopped_run, "halved") == run.results[1]["halved"]


def test_a_benchmark_that_is_scored_later_reports_the_other_half(
    stopped_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = judge_by_model(NUM_RIGHT)
    for name in ("halved", "other"):
        add_benchmark(monkeypatch, halved_benchmark(judge, name))
    result = isheep.evaluate(stopped_run, "other", iteration=2)
    reported = isheep.read_run(stopped_run).results[2]["halved"]
    assert result.part == "reported half" and result.scores == reported.scores


def test_a_finished_run_is_left_as_it_is(stopped_run: Path, halved: None) -> None:
    before = hash_files(stopped_run)
    isheep.align(isheep.load_recipe("lamb", STOPPED), stopped_run, engine=write_texts).run()
    assert hash_files(stopped_run) == before


@pytest.mark.parametrize("name", ["ifeval", "paper/nq"])
def test_a_run_stops_by_a_packaged_benchmark(name: str, tmp_path: Path) -> None:
    data = tmp_path / "items.jsonl"
    if name == "ifeval":
        if not (DATA / "ifeval").exists() or not (DATA / "nltk_data").exists():
            pytest.skip("needs the public data files of IFEval and NLTK")
        lines = (DATA / "ifeval/input_data.jsonl").read_text().splitlines()[:30]
    else:
        lines = [json.dumps({"question": f"who wrote book {n}", "answer": ["Ann Lee"]}) for n in range(30)]
    data.write_text("\n".join(lines) + "\n")
    entry = {"name": name, "data": str(data)}
    # No iteration changes an answer: of so few items, only a large gain is refuted.
    stop = {"benchmark": name, "gain": 20}
    settings = {**SMALL, "iterations": 2, "evaluation": [entry], "stop": stop}
    settings["filters"] = [*SMALL["filters"], {"kind": "contamination"}]
    run_dir = tmp_path / "run"
    run = isheep.align(isheep.load_recipe("lamb", settings), run_dir, engine=write_same).run()
    assert len(run.iterations) == 1 and run.result.iteration == 1
    files = [json.loads((run_dir / f"iter-1/{part}/{name}.json").read_text()) for part in ("validation", "eval")]
    sizes = [len(next(iter(file["scores"].values()))["items"]) for file in files]
    assert sum(sizes) == 30 and min(sizes) > 5
    assert f"{name} (reported half)" in command_line("status", run_dir).out
    contamination = command_line("contamination", run_dir)
    assert contamination.code == 0 and f"{name} (reported half)" in contamination.out
    # Other items under the same name are refused, of the validation half too.
    data.write_text("\n".join(reversed(lines)) + "\n")
    with pytest.raises(UserError, match=f"validation/{name}.json is about other items"):
        isheep.align(isheep.load_recipe("lamb", settings), run_dir, engine=write_same).run()


def write_same(prompts: list[str]) -> list[str]:
    """Write tasks and ratings as `write_texts`, and the same answer to every other prompt."""
    texts = write_texts(prompts)
    return ["Ann." if text.startswith("It is") else text for text in texts]


# --- the result of a run


def scored_run(path: Path, *right: int | None, **settings: Any) -> tuple[Recipe, RunFolder]:
    """Make a run whose base and iterations have these numbers of right answers, of 100; None: not scored yet."""
    changes = {"stop": {"benchmark": "lamb"}, **settings}
    make_run(path, len(right) - 1, **changes)
    for iteration, number in enumerate(right):
        if number is not None:
            items = [index < number for index in range(100)]
            name = f"iter-{iteration}" if iteration else "base"
            write_result(path, name, "lamb", {"scores": {"right": {"items": items}, "content": {"items": [True]}}})
            (path / name / "eval").rename(path / name / "validation")
    return open_run(path)


@pytest.mark.parametrize(
    ("right", "settings", "result"),
    [
        ((50, 60, 70, 65), {}, "iteration 2, the best by lamb's validation part"),
        ((50, 60, 70, 70), {}, "iteration 2, the best by lamb's validation part"),
        ((80, 60, 70, 65), {}, "iteration 2, the best by lamb's validation part, on which the base is better"),
        ((50, 70, 60, None), {}, "iteration 1, the best by lamb's validation part"),
        ((50, None), {}, "iteration 1, the newest, because none is scored on lamb's validation part yet"),
        ((50, 60, 70, 65), {"stop": None}, "iteration 3, the newest"),
        ((50,), {"stop": None, "iterations": 1}, "the base, because no iteration is trained yet"),
    ],
)
def test_the_result_of_a_run(
    tmp_path: Path, right: tuple[int | None, ...], settings: dict[str, Any], result: str
) -> None:
    if len(right) == 1:
        make_run(tmp_path / "run", 1, stop=None)
        (tmp_path / "run/iter-1/adapter").rmdir()
        recipe, run = open_run(tmp_path / "run")
    else:
        recipe, run = scored_run(tmp_path / "run", *right, **settings)
    assert str(find_run_result(recipe, run)) == result


def test_a_damaged_validation_result_is_named(tmp_path: Path) -> None:
    recipe, run = scored_run(tmp_path / "run", 50, 60)
    (tmp_path / "run/iter-1/validation/lamb.json").write_text("{")
    with pytest.raises(UserError, match="validation/lamb.json is damaged"):
        find_run_result(recipe, run)
