"""A judge that is blind in one kind of task is named by the run, the calibration and the report, and stops nothing."""

import json
from pathlib import Path

import pytest

from isheep.backends import DEFAULT_BACKEND
from isheep.benchmarks import Benchmark, EvalContext, Result, Score, register_benchmark
from isheep.engines.function import SeededFunctionEngine
from isheep.recipe.schema import Recipe
from isheep.records import Model, Pair
from tests.helpers.command import isheep
from tests.helpers.damage import use_fake_models

RECIPE = """
model: fake
iterations: 1
synthesis: {tasks: 160, novelty: null}
assessment: {criteria: [quality]}
filters: [{kind: score, at_least: 8}]
evaluation: [two-kinds]
"""


def write(prompt: str, seed: int) -> str:
    """Answer right or wrong by chance, rate answers about colours by the truth, and those about sums by chance."""
    if "Please rate" in prompt:
        is_high = seed % 2 if "this sum" in prompt else "truly" in prompt
        return "9||good" if is_high else "3||bad"
    if prompt.endswith("Instruction:"):
        return f" Tell me about this {('sum', 'colour')[seed % 2]}, number {seed}\nInput: <noinput>\n###\n"
    return ("It is truly so.", "It is not so.")[seed % 2]


def measure_nothing(context: EvalContext) -> Result:
    return Result(scores={"nothing": Score(items=[True])})


@pytest.fixture
def finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a run whose judge is blind for sums."""

    def open_engine(recipe: Recipe, model: Model) -> SeededFunctionEngine:
        return SeededFunctionEngine(write)

    use_fake_models(monkeypatch.setattr)
    monkeypatch.setattr(DEFAULT_BACKEND, "open_engine", open_engine)
    register_benchmark(
        Benchmark(
            name="two-kinds",
            run=measure_nothing,
            prompts=lambda settings: ["What is it?"],
            score_inputs=lambda settings: 1,
            items_from="package",
            is_right=lambda pair: "truly" in pair.output,
            kinds_of=lambda pair: [kind_of(pair)],
        )
    )
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    done = isheep("run", tmp_path / "recipe.yaml", "machine.report=false", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert done.err.count("high ratings do not mean right answers in sums (AUROC 0.") == 1
    return tmp_path / "run"


def kind_of(pair: Pair) -> str:
    return "sums" if "this sum" in pair.instruction else "colours"


def test_a_blind_kind_is_named_and_the_other_one_is_not(finished_run: Path) -> None:
    status = json.loads(isheep("status", finished_run, "--json").out)
    (finding,) = [finding for finding in status["findings"] if finding["name"] != "few_rows"]
    assert finding["name"] == "blind_judge" and "colours" not in finding["text"]
    done = isheep("judge-calibration", finished_run, "--pairs", "20")
    assert done.code == 0, done.err
    rows = {line.split()[1]: line for line in done.out.splitlines() if " sums " in line or " colours " in line}
    assert rows["sums"].rstrip().endswith("blind") and "1.00" in rows["colours"] and "blind" not in rows["colours"]
    kinds = json.loads((finished_run / "iter-1" / "judge_calibration.json").read_text())["kinds"]["two-kinds"]
    assert kinds["colours"]["auroc"][0] == 1 and kinds["sums"]["auroc"][1] < 0.5 < kinds["sums"]["auroc"][2]
    assert isheep("report", finished_run).code == 0
    assert "The same by kind of task (two-kinds, iteration 1)" in (finished_run / "report.html").read_text()


def test_no_rule_can_stop_a_run_by_what_it_must_not_know(finished_run: Path) -> None:
    done = isheep("run", finished_run, "stop.on=[blind_judge]", "--fork", finished_run.with_name("fork"))
    assert done.code == 2 and "blind_judge" in done.err
