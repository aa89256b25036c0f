"""Benchmarks as a whole: their names come from files, recipes that can't work are refused, users bring their own."""

from pathlib import Path

import pytest

from isheep import benchmarks
from isheep.benchmarks import load_benchmark
from isheep.errors import UserError
from isheep.evaluation.results import load_result
from isheep.recipe.benchmark_names import benchmark_names
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.recipe.schema import Recipe
from isheep.rundir.run import open_run
from tests.helpers.backends import isolate_benchmarks
from tests.helpers.command import isheep, refused
from tests.helpers.runs import fake_models, make_run

OWN = """
from isheep.benchmarks import Benchmark, Result, Score
from isheep.records import Sampling

QUESTIONS = ["One?", "Two?", "Three?"]

def run(context):
    answers = context.answers([context.prompt(text) for text in QUESTIONS], Sampling(temperature=0))
    return Result(template=context.template, scores={"long": Score(items=[len(a.output) > 8 for a in answers])})

counted = Benchmark(
    name="counted", run=run, prompts=lambda settings: QUESTIONS, score_inputs=lambda settings: 8, items_from="package"
)
nothing = 5
"""


@pytest.mark.parametrize("name", benchmark_names())
def test_every_file_is_a_benchmark_of_its_name(name: str) -> None:
    assert load_benchmark(name).name == name


@pytest.mark.parametrize(
    ("keys", "path", "why"),
    [
        ({"evaluation": [{"name": "lamb", "judge": {"model": "x"}}]}, ("evaluation", 0), "lamb asks no judge"),
        ({"evaluation": ["lamb", "mt_bench"]}, ("evaluation", 1), "mt_bench reads the original's files"),
        (
            {"evaluation": [{"name": "mt_bench", "data": "x", "judge": {"config": "y"}}]},
            ("evaluation", 0),
            "judge.config names a judge configuration of AlpacaEval, and mt_bench has its own judge prompts",
        ),
        (
            {"evaluation": [{"name": "alpaca_eval", "data": "x", "judge": {"local": True}}]},
            ("evaluation", 0),
            "a local",
        ),
        ({"evaluation": ["lamb", "lamb"]}, ("evaluation",), "'lamb' is listed twice"),
        ({"stop": {"benchmark": "mt_bench"}}, ("stop", "benchmark"), "mt_bench needs its files: list it in evaluation"),
        ({"stop": {"benchmark": "lamb", "patience": 9}}, ("stop", "patience"), "9 iterations without a gain"),
    ],
)
def test_settings_that_cannot_work(keys: dict[str, object], path: tuple[str | int, ...], why: str) -> None:
    entries = keys.get("evaluation", [])
    assert isinstance(entries, list)
    options = [{"name": entry} if isinstance(entry, str) else entry for entry in entries]
    recipe = Recipe.model_validate({"model": "fake", **keys, "evaluation": options})
    first_path, message = next(iter(benchmarks.conflicts(recipe)))
    assert first_path == path and message.startswith(why)


def test_a_benchmark_of_the_user_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models, run = fake_models(monkeypatch), make_run(tmp_path / "run", 1)
    file = tmp_path / "own.py"
    file.write_text(OWN)
    assert "pass --allow-code" in refused("eval", run, f"{file}:counted") and not models
    assert "is of type int: make it an" in refused("eval", run, f"{file}:nothing", "--allow-code") and not models
    done = isheep("eval", run, f"{file}:counted", "--allow-code")
    assert done.code == 0 and "counted" in done.out and "long" in done.out, done.err
    result = load_result(open_run(run)[1], 1, "counted")
    assert result and result.scores["long"].items == [True, True, True] and result.prompt_fingerprint
    assert (run / "iter-1/eval/counted/answers.jsonl").is_file()


def test_a_benchmark_of_the_user_as_an_object(monkeypatch: pytest.MonkeyPatch) -> None:
    lamb = load_benchmark("lamb")
    with pytest.raises(UserError, match="'lamb' comes with isheep"):
        benchmarks.register_benchmark(lamb)
    isolate_benchmarks(monkeypatch)
    own = benchmarks.Benchmark("own", lamb.run, lamb.prompts, lamb.score_inputs)
    benchmarks.register_benchmark(own)
    assert load_benchmark(BenchmarkSettings(name="own").name).name == own.name and "own" in benchmark_names()
