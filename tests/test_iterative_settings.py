"""The iterative settings of Section 4.5 and the stop rule on a fake engine and trainer."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from isheep import benchmarks
from isheep.algorithm import align
from isheep.benchmarks import Benchmark, EvalContext, Result, Score, load_benchmark, validation_prompts
from isheep.cli import main
from isheep.evaluation.sweep_table import sweep_table
from isheep.recipe.evaluation import BenchmarkSettings, Stop
from isheep.records import Drop, Task
from isheep.rundir.run import open_run_for_writing
from tests.helpers.backends import add_benchmark
from tests.helpers.halved_benchmark import halved_benchmark, judge_by_model
from tests.helpers.lab import Lab, Trained, own_files, recipe, right

# --- the iterative settings of Section 4.5


def test_each_iterative_setting_trains_on_its_rows(lab: Lab, tmp_path: Path) -> None:
    def run(**training: Any) -> list[Trained]:
        num_trained = len(lab.trained)
        lab.run_recipe(recipe(iterations=3, training=training), tmp_path / repr(training))
        return lab.trained[num_trained:]

    def iterations(call: Trained) -> set[str]:
        return {row[:2] for row in call.pairs}

    one_base, one_last, total_base = run(), run(start="last"), run(data="all")
    assert [call.start for call in one_base] == [None] * 3 == [call.start for call in total_base]
    assert [iterations(call) for call in one_base] == [{"t1"}, {"t2"}, {"t3"}] == [iterations(c) for c in one_last]
    assert [iterations(call) for call in total_base] == [{"t1"}, {"t1", "t2"}, {"t1", "t2", "t3"}]
    models = [(tmp_path / repr({"start": "last"}) / f"iter-{t}/adapter/adapter_model.safetensors") for t in (1, 2)]
    assert [call.start for call in one_last] == [None, *(path.read_text() for path in models)]


def test_the_data_of_all_iterations_are_written_and_exported(lab: Lab, tmp_path: Path) -> None:
    from isheep.export import ExportFormat, ExportRows
    from isheep.export.iteration import export_dataset

    lab.run_recipe(recipe(training={"data": "all"}), tmp_path)
    rows = json.loads((tmp_path / "iter-2/train.json").read_text())
    assert len(rows) == len(lab.trained[1].pairs) > len(lab.trained[0].pairs)
    export_dataset(tmp_path, ExportFormat.alpaca, ExportRows.kept, None, tmp_path / "data.json")
    exported = json.loads((tmp_path / "data.json").read_text())
    assert [row | {"finish": "stop"} for row in exported] == rows


# --- the stop rule


# Every iteration without a new best counts, as in earlier versions.
NO_TOLERANCE = {"gain": 0, "confidence": 0.5}


@pytest.fixture
def add_scored_benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """Return a function that adds a benchmark "own", whose validation part gives these scores to M^0, M^1, ..."""

    def add(*scores: float) -> list[float]:
        remaining, packaged = list(scores), load_benchmark("lamb")
        part = replace(packaged.validation, run=lambda context: right(remaining.pop(0)))  # type: ignore[type-var]
        add_benchmark(monkeypatch, replace(packaged, name="own", validation=part))
        return remaining

    return add


def test_a_run_stops_when_it_has_no_new_best(
    lab: Lab, add_scored_benchmark: Callable[..., list[float]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remaining = add_scored_benchmark(0.3, 0.4, 0.4, 0.5, 0.6, 0.7)
    settings = recipe(iterations=5, stop={"benchmark": "own", "patience": 1, **NO_TOLERANCE})
    assert lab.run_recipe(settings, tmp_path)[1] == 2 and len(remaining) == 3
    # A resumed run ends at the same iteration without another evaluation.
    assert lab.run_recipe(settings, tmp_path)[1] == 2 and len(remaining) == 3
    assert "stopped after iteration 2 of 5" in capsys.readouterr().err
    assert not (tmp_path / "iter-3").exists() and not list(tmp_path.rglob("eval"))
    with pytest.raises(SystemExit) as end:
        main(["status", str(tmp_path)])
    assert end.value.code in (0, None)
    assert "to continue" not in capsys.readouterr().out


@pytest.mark.parametrize(("patience", "last"), [(1, 2), (2, 3)])
def test_patience_is_how_long_a_run_waits(
    lab: Lab, add_scored_benchmark: Callable[..., list[float]], tmp_path: Path, patience: int, last: int
) -> None:
    # Iteration 1 is the best; two iterations in a row without a new best end the run at iteration 3.
    add_scored_benchmark(0.3, 0.5, 0.4, 0.5, 0.4, 0.6)
    settings = recipe(iterations=5, stop={"benchmark": "own", "patience": patience, **NO_TOLERANCE})
    assert lab.run_recipe(settings, tmp_path)[1] == last


def test_a_benchmark_gets_its_settings_and_its_folder(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts: list[EvalContext] = []

    def run(context: EvalContext) -> Result:
        contexts.append(context)
        return Result(scores={"accuracy": Score(items=[True])})

    own = Benchmark("own", run, prompts=lambda settings: ["What is 2 + 2?"], score_inputs=lambda settings: [])
    add_benchmark(monkeypatch, own)
    lab.run_recipe(recipe(iterations=1, evaluation=[{"name": "own", "data": "my/copy"}], seed=5), tmp_path)
    assert [(exam.data, exam.is_base, exam.seed) for exam in contexts] == [
        (Path("my/copy"), True, 5),
        (Path("my/copy"), False, 5),
    ]
    assert [exam.folder.path for exam in contexts] == [tmp_path / t / "eval" / "own" for t in ("base", "iter-1")]


def test_a_run_that_gains_goes_on_to_the_end(
    lab: Lab, add_scored_benchmark: Callable[..., list[float]], tmp_path: Path
) -> None:
    add_scored_benchmark(0.3, 0.4, 0.5)
    assert lab.run_recipe(recipe(stop={"benchmark": "own"}), tmp_path)[1] == 2


def test_a_run_that_reports_a_half_shares_no_scores_with_one_that_reports_all(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_right = {"base": 200, "iter-1": 300, "iter-2": 390}
    add_benchmark(monkeypatch, halved_benchmark(judge_by_model(num_right)))
    stop = {"benchmark": "halved"}
    recipes = {
        "all": recipe(evaluation=["halved"]),
        "half": recipe(evaluation=["halved"], stop=stop),
        "patient": recipe(evaluation=["halved"], stop={**stop, "confidence": 0.9}),
    }
    lab.run_sweep(recipes, tmp_path)
    files = {name: tmp_path / name / "iter-2/eval/halved.json" for name in recipes}
    numbers = {name: len(json.loads(file.read_text())["scores"]["right"]["items"]) for name, file in files.items()}
    assert numbers["all"] == 400 > numbers["half"] == numbers["patient"]
    assert {"iter-1/eval/halved.json", "iter-1/validation/halved.json"}.isdisjoint(own_files(tmp_path / "patient"))
    assert "iter-1/eval/halved.json" in own_files(tmp_path / "half")
    console = Console(width=120, record=True)
    console.print(sweep_table(recipes, tmp_path))
    assert "halved (reported half)" in " ".join(console.export_text().split())


@pytest.mark.parametrize("stop", [None, Stop(benchmark="lamb")])
def test_prompts_of_the_validation_part_are_dropped_if_it_stops_the_run(
    lab: Lab, tmp_path: Path, stop: Stop | None
) -> None:
    exam, part = (
        benchmarks.evaluation_prompts([BenchmarkSettings(name="lamb")])[0],
        validation_prompts(recipe(stop={"benchmark": "lamb"}))[0],
    )
    tasks = [Task(id=f"t1-{n}", instruction=text) for n, text in enumerate([exam, part, "Another task", "A fourth"])]
    settings = recipe(iterations=1, evaluation=["lamb"], filters=[{"kind": "contamination"}], stop=stop)
    with open_run_for_writing(tmp_path, settings) as folder:
        (folder / "iter-1").write("tasks.jsonl", Task, tasks)
        list(align(settings, folder, backend=lab.backend))
        assert [drop.row for drop in folder.read("iter-1/dropped.jsonl", Drop)] == ["t1-0", "t1-1"][: 1 + bool(stop)]
