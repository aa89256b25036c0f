"""Sweeps, seeds and iterative settings on a fake engine and trainer: what is shared, what each setting changes."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from rich.console import Console

import isheep.sweep
from isheep import api, benchmarks, prompts
from isheep.algorithm import align
from isheep.backends import Backend
from isheep.batching import derive_seed
from isheep.benchmarks import Benchmark, EvalContext, Result, Score, load_benchmark, validation_prompts
from isheep.cli import main
from isheep.engines.function import SeededFunctionEngine
from isheep.errors import UserError
from isheep.evaluation.file_sources import source_fingerprint
from isheep.evaluation.sweep_table import sweep_table
from isheep.recipe import loading
from isheep.recipe.evaluation import BenchmarkSettings, Stop
from isheep.recipe.schema import Recipe
from isheep.records import Drop, Model, Sampling, Task
from isheep.rundir.folder import RunFolder
from isheep.rundir.jsonl import read_rows
from isheep.rundir.run import open_run_for_writing, read_events
from isheep.rundir.training_file import read_training_file
from isheep.sweep import find_reusable_files, run_recipe, run_sweep, sibling_runs
from tests.helpers.backends import add_benchmark, use_backend
from tests.helpers.fakes import FakeChat
from tests.helpers.halved_benchmark import halved_benchmark, judge_by_model
from tests.helpers.hashes import hash_files

TASKS = {"tasks": 24, "batch_size": 8, "novelty": None}
EIGHT = {"batch_size": 8}
SMALL = {"model": "fake", "iterations": 2, "synthesis": TASKS, "response": EIGHT, "assessment": EIGHT}


def write(prompt: str, seed: int) -> str:
    if prompt.endswith("Classification:"):
        return (" Yes", " No", " both")[seed % 3]
    if prompt.endswith(("Input:", "Output:")):
        return f" text {seed}" if seed % 7 else ""
    if prompt.endswith("<|answer|>"):
        return f"The answer is {seed}.<|end|>"
    if prompt.endswith("Thoughts:"):
        return f" Think of {seed}.\n" + f"Assistant: It is {seed}.\nUser: And?" * bool(seed % 8)
    if prompt.endswith(";"):
        return f" topic {seed}; other {seed}"
    if "###" not in prompt:
        return f" {min(9, 6 + seed % 8)}||because"
    return f" Tell me at length about {seed}\nInput: <noinput>\n###\n7. Instruction: Draw {seed}\nInput: <noinput>"


class Trained(NamedTuple):
    """One call of the trainer: the weights that it starts from, and the ids of the rows' tasks."""

    start: str | None
    pairs: list[str]


class Lab:
    """A backend that counts its calls. A model's text depends on its adapter, the prompt and the request's seed."""

    def __init__(self) -> None:
        self.backend = Backend(self.open_engine, self.train, lambda name, model: FakeChat())  # type: ignore[arg-type, return-value]
        self.asked = 0
        self.trained: list[Trained] = []
        self.scores: dict[str, list[float]] = {}

    def open_engine(self, recipe: Recipe, model: Model) -> SeededFunctionEngine:
        learned = weights(model) or ""

        def answer(prompt: str, seed: int) -> str:
            self.asked += 1
            return write(prompt, derive_seed(prompt, seed, learned) % 10**6)

        return SeededFunctionEngine(answer)

    def train(self, recipe: Recipe, chat: Any, start: Model, training_file: Path, seed: int, into: Path) -> None:
        rows = read_training_file(training_file).rows
        paths = training_file.parents[1].glob("iter-*/tasks.jsonl")
        ids = {task.instruction: task.id for path in paths for task in read_rows(path, Task)}
        self.trained.append(Trained(weights(start), [ids.get(row.instruction, "") for row in rows]))
        settings = recipe.training.model_dump_json(exclude={"start", "data"})
        text = json.dumps([weights(start), [row.model_dump() for row in rows], settings, seed])
        (into / "adapter_model.safetensors").write_text(str(derive_seed(text)))
        (into / "adapter_config.json").write_text(recipe.training.lora.model_dump_json())

    def run_recipe(self, recipe: Recipe, out: Path) -> tuple[RunFolder, int]:
        return run_recipe(recipe, out, backend=self.backend)

    def run_sweep(self, recipes: Mapping[str, Recipe], out: Path) -> list[Path]:
        return run_sweep(recipes, out, backend=self.backend)


def weights(model: Model) -> str | None:
    return (model.adapter / "adapter_model.safetensors").read_text() if model.adapter else None


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    # The fake model has neither a tokenizer nor a context that prompts could fill.
    monkeypatch.setattr(isheep.sweep, "check_prompt_fits", lambda recipe, chat: None)
    return Lab()


@pytest.fixture
def command_lab(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Return a lab that the commands use."""
    use_backend(monkeypatch, lab.backend)
    return lab


def recipe(**changed: Any) -> Recipe:
    return Recipe.model_validate({**SMALL, **changed})


def own_files(run: Path) -> list[str]:
    """The files that a run made by itself, over all tries."""
    return [event["file"] for event in read_events(run) if "seconds" in event]


def shared(run: Path) -> dict[str, str]:
    return {event["file"]: event["shared_from"] for event in read_events(run) if "shared_from" in event}


def result_hashes(run: Path) -> dict[str, str]:
    """Return the hashes of the files that depend only on what the run computes, not on how it is configured."""
    return hash_files(run, ["recipe.yaml"])


# --- sharing

STAGES = {f"iter-1/{name}.jsonl" for name in ("replies", "pairs", "assessed")}


def test_eight_thresholds_write_and_rate_iteration_1_once(lab: Lab, tmp_path: Path) -> None:
    recipes = {str(n): recipe(iterations=1, filters=[{"kind": "score", "at_least": n}]) for n in range(2, 10)}
    runs = lab.run_sweep(recipes, tmp_path)
    for stage in STAGES:
        assert sum(own_files(run).count(stage) for run in runs) == 1
        assert [shared(run).get(stage) for run in runs[1:]] == [f"../2/{stage}"] * 7
    assert lab.asked == 24 * 4
    # Scores are 6 to 9: thresholds up to 6 keep the same pairs, and train the same model once.
    assert len(lab.trained) == 4 and len({result_hashes(run)["iter-1/train.json"] for run in runs}) == 4
    assert shared(runs[4])["iter-1/adapter"] == "../2/iter-1/adapter"


def test_a_shared_run_has_the_files_of_one_alone(lab: Lab, tmp_path: Path) -> None:
    recipes = {
        "one": recipe(),
        "less": recipe(filters=[{"kind": "score", "at_least": 7}]),
        "unrated": recipe(assessment=None, filters=[]),
        "simple": recipe(assessment={"batch_size": 8, "prompt": "simple"}),
        "one-last": recipe(training={"start": "last"}),
        "total-base": recipe(training={"data": "all"}),
        "long": recipe(training={"epochs": 3}),
        "more": recipe(synthesis={**TASKS, "tasks": 30}),
        "seed": recipe(seed=7),
    }
    for (name, settings), run in zip(recipes.items(), lab.run_sweep(recipes, tmp_path / "sweep"), strict=True):
        lab.run_recipe(settings, tmp_path / "alone" / name)
        assert result_hashes(run) == result_hashes(tmp_path / "alone" / name), name
    first_stages = {"iter-1/replies.jsonl", "iter-1/pairs.jsonl"}
    two = STAGES | {stage.replace("1", "2") for stage in STAGES} | {"iter-1/adapter"}
    expected = {"less": STAGES, "unrated": first_stages, "simple": first_stages, "one-last": two, "total-base": two}
    for name in recipes:
        assert shared(tmp_path / "sweep" / name).keys() == {**expected, "long": STAGES}.get(name, set()), name


DROMEDARY = {
    "synthesis": {**TASKS, "topics": {"share": 0.5, "rounds": 1}},
    "response": {"batch_size": 8, "prompt": "principles"},
    "assessment": None,
    "filters": [{"kind": "perplexity"}],
}


def then(**changed: Any) -> dict[str, Any]:
    """What iteration 2 does otherwise: Dromedary's second half, with changes."""
    section = {"synthesis": {"tasks_of": 1}, "response": {"prompt": "dromedary/verbose"}, "training": {"start": "last"}}
    return {"iteration": {2: {**section, **changed}}}


def test_an_iteration_with_other_settings_shares_only_equal_files(lab: Lab, tmp_path: Path) -> None:
    recipes = {
        "one": recipe(**DROMEDARY, **then()),
        "brief": recipe(**DROMEDARY, **then(response={"prompt": "chat"})),
        "new": recipe(**DROMEDARY, **then(synthesis={})),
        "base": recipe(**DROMEDARY, **then(training={})),
        "same": recipe(**DROMEDARY),
        "untold": recipe(**{**DROMEDARY, "response": {"batch_size": 8}}, **then()),
        "seeds": recipe(**{**DROMEDARY, "synthesis": TASKS}, **then()),
    }
    runs = lab.run_sweep(recipes, tmp_path / "sweep")
    for (name, settings), run in zip(recipes.items(), runs, strict=True):
        lab.run_recipe(settings, tmp_path / "alone" / name)
        assert result_hashes(run) == result_hashes(tmp_path / "alone" / name), name
    first_stages = {"iter-1/topics.jsonl", "iter-1/replies.jsonl"}
    first = first_stages | {f"iter-1/{name}" for name in ("pairs.jsonl", "perplexity.jsonl", "adapter")}
    second = {"iter-2/topics.jsonl", "iter-2/replies.jsonl"}
    second_stages = {"iter-2/pairs.jsonl", "iter-2/perplexity.jsonl"}
    expected = {
        "brief": first,
        "new": first,
        "base": first | second_stages,
        "same": first | second,
        "untold": first_stages,
    }
    for run in runs:
        assert shared(run).keys() == expected.get(run.name, set()), run.name


def test_answers_by_other_prompts_of_the_same_name_are_not_shared(lab: Lab, tmp_path: Path) -> None:
    prompt_file, out = tmp_path / "mine.yaml", tmp_path / "out"
    settings = recipe(**DROMEDARY, **then(response={"prompt": str(prompt_file)}))
    for name, words in (("a", "At length:"), ("b", "At length:"), ("c", "In full:")):
        prompt_file.write_text(f'chat: "{words} {{instruction}}"')
        prompts._load_prompt_file.cache_clear()
        lab.run_sweep({name: settings}, out)
    pairs = "iter-2/pairs.jsonl"
    assert shared(out / "b")[pairs] == f"../a/{pairs}" and "iter-1/adapter" in shared(out / "c")
    assert pairs in own_files(out / "c") and result_hashes(out / "c")[pairs] != result_hashes(out / "a")[pairs]
    with pytest.raises(UserError, match=r"prompt file .*mine\.yaml is not what run folder .*/a was made with"):
        lab.run_recipe(settings, out / "a")


OWN = {"tasks": 24, "batch_size": 8, "novelty": None, "inputs": False, "generated": 2}
INSTANCES = {"batch_size": 8, "prompt": "instances", "examples": 2}


def test_self_instructs_own_pipeline_is_shared_as_far_as_it_is_the_same(lab: Lab, tmp_path: Path) -> None:
    own = {"synthesis": OWN, "response": INSTANCES, "assessment": None, "filters": []}
    recipes = {
        "own": recipe(**own),
        "again": recipe(**own, training={"epochs": 3}),
        "seeds alone": recipe(**own | {"synthesis": {**OWN, "generated": 0}}),
        "more shown": recipe(**own | {"response": {**INSTANCES, "examples": 4}}),
        "answers": recipe(**own | {"response": {"batch_size": 8}}),
        "with inputs": recipe(**own | {"response": {"batch_size": 8}, "synthesis": {**OWN, "inputs": True}}),
    }
    for (name, settings), run in zip(recipes.items(), lab.run_sweep(recipes, tmp_path / "sweep"), strict=True):
        lab.run_recipe(settings, tmp_path / "alone" / name)
        assert result_hashes(run) == result_hashes(tmp_path / "alone" / name), name
    first = {f"iter-1/{name}.jsonl" for name in ("replies", "task_kinds", "instances", "pairs")}
    expected = {"again": first, "more shown": {"iter-1/replies.jsonl"}, "answers": {"iter-1/replies.jsonl"}}
    for name in recipes:
        assert shared(tmp_path / "sweep" / name).keys() == expected.get(name, set()), name
    first_iteration = tmp_path / "sweep/own/iter-1"
    kinds = [json.loads(line) for line in (first_iteration / "task_kinds.jsonl").read_text().splitlines()]
    assert {row["classification"] for row in kinds} == {True, False, None}
    assert (first_iteration / "unanswered.jsonl").read_text()


def test_one_iteration_may_write_instances_for_the_tasks_of_another(lab: Lab, tmp_path: Path) -> None:
    start = {"synthesis": {**OWN, "topics": {"share": 0.5, "rounds": 1}}, "assessment": None, "filters": []}
    then = {2: {"synthesis": {"tasks_of": 1, "topics": None}, "response": INSTANCES}}
    lab.run_recipe(recipe(**start, iteration=then), tmp_path)
    first, second = tmp_path / "iter-1", tmp_path / "iter-2"
    assert (first / "tasks.jsonl").read_text() == (second / "tasks.jsonl").read_text()
    assert not (first / "task_kinds.jsonl").exists() and (second / "instances.jsonl").read_text()
    assert '"input":""' in (first / "pairs.jsonl").read_text()
    assert '"input":"text' in (second / "pairs.jsonl").read_text()


def test_a_finished_sweep_generates_nothing(lab: Lab, tmp_path: Path) -> None:
    recipes = {"a": recipe(), "b": recipe(training={"epochs": 1})}
    contents_before = [result_hashes(run) for run in lab.run_sweep(recipes, tmp_path)]
    num_calls, trained = lab.asked, len(lab.trained)
    assert [result_hashes(run) for run in lab.run_sweep(recipes, tmp_path)] == contents_before
    assert (lab.asked, len(lab.trained)) == (num_calls, trained)


def test_a_stopped_sweep_continues(lab: Lab, tmp_path: Path) -> None:
    recipes = {"a": recipe(), "b": recipe(training={"epochs": 1})}
    expected = [result_hashes(run) for run in lab.run_sweep(recipes, tmp_path / "whole")]

    def stop(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(recipes, tmp_path / "stopped", backend=replace(lab.backend, train=stop))
    assert [result_hashes(run) for run in lab.run_sweep(recipes, tmp_path / "stopped")] == expected


def test_a_run_does_not_resume_from_an_incomplete_copy(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped as an adapter is copied, and gone on with alone."""
    settings = recipe(iterations=1)
    [complete] = lab.run_sweep({"a": settings}, tmp_path)

    def stop(source: Path, to: Path) -> None:
        to.mkdir()
        (to / "adapter_config.json").write_text("half")
        raise KeyboardInterrupt

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(shutil, "copytree", stop)
        lab.run_sweep({"a": settings, "b": settings}, tmp_path)
    assert not (tmp_path / "b/iter-1/adapter.part").exists()
    lab.run_recipe(settings, tmp_path / "b")
    hashes = {name: digest for name, digest in result_hashes(tmp_path / "b").items() if ".copy.part" not in name}
    assert hashes == result_hashes(complete)
    (tmp_path / "b/iter-1/pairs.jsonl.part").write_text("begun")
    (tmp_path / "b/iter-1/pairs.jsonl").unlink()
    lab.run_sweep({"a": settings, "b": settings}, tmp_path)
    assert not (tmp_path / "b/iter-1/pairs.jsonl.part").exists()


def test_a_setting_that_fails_does_not_stop_the_others(lab: Lab, tmp_path: Path) -> None:
    recipes = {"none": recipe(filters=[{"kind": "score", "above": 9}]), "some": recipe()}
    with pytest.raises(UserError, match="1 of 2 settings could not be finished: none: iteration 1: 0 of 24 pairs left"):
        lab.run_sweep(recipes, tmp_path)
    assert (tmp_path / "some/iter-2/adapter").exists()


def test_ratings_by_other_prompts_of_the_same_name_are_not_shared(lab: Lab, tmp_path: Path) -> None:
    prompt_file, out = tmp_path / "mine.yaml", tmp_path / "out"
    settings = recipe(iterations=1, assessment={"batch_size": 8, "prompt": str(prompt_file), "criteria": ["quality"]})
    for name, words in (("a", "Rate"), ("b", "Rate"), ("c", "Please rate")):
        prompt_file.write_text(f'quality: "{words} {{instruction}} {{output}}"')
        prompts._load_prompt_file.cache_clear()
        lab.run_sweep({name: settings}, out)
    assert shared(out / "b")["iter-1/assessed.jsonl"] == "../a/iter-1/assessed.jsonl"
    assert "iter-1/pairs.jsonl" in shared(out / "c") and "iter-1/assessed.jsonl" in own_files(out / "c")


def test_a_file_with_another_source_is_not_shared(lab: Lab, tmp_path: Path) -> None:
    """Change one source of a file at a time, in a run that is otherwise the same."""
    lab.run_sweep(dict.fromkeys("ab", recipe(training={"data": "all"})), tmp_path)
    settings = recipe(training={"data": "all"}, evaluation=["lamb"])
    files = (
        "iter-1/replies.jsonl",
        "iter-2/pairs.jsonl",
        "iter-2/adapter",
        "base/eval/lamb.json",
        "iter-2/eval/lamb.json",
    )
    made_of = {name: source_fingerprint(settings, tmp_path / "a", name) for name in files}
    assert None not in made_of.values()
    assert made_of == {name: source_fingerprint(settings, tmp_path / "b", name) for name in files}

    def differ(file: str, old: str, new: str) -> set[str]:
        path = tmp_path / "b" / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        # The modification time must differ, although the clock may not have advanced.
        os.utime(path, ns=(0, 0))
        changed = {name for name in files if source_fingerprint(settings, tmp_path / "b", name) != made_of[name]}
        path.write_text(text)
        return changed

    # `finish` is a part of the training file: it decides whether an end token is learned.
    assert differ("iter-2/train.json", '"finish": "stop"', '"finish": "length"') == {"iter-2/adapter"}
    assert differ("iter-1/adapter/adapter_config.json", '"alpha":16', '"alpha":32') == {"iter-2/pairs.jsonl"}
    assert differ("iter-2/adapter/adapter_config.json", '"rank":8', '"rank":9') == {"iter-2/eval/lamb.json"}
    assert differ("iter-2/tasks.jsonl", "Tell", "Say") == {"iter-2/pairs.jsonl"}
    assert differ("seeds.jsonl", "a", "b") == set(files)
    for name in ("lamb", "standard/piqa"):
        first, second = (
            settings.model_copy(update={"evaluation": (BenchmarkSettings(name=name, data=data),)})
            for data in ("here", "elsewhere")
        )
        for file in (f"iter-2/eval/{name}.json", f"iter-2/eval/{name}/answers.jsonl"):
            assert source_fingerprint(first, tmp_path / "a", file) not in (
                None,
                source_fingerprint(second, tmp_path / "a", file),
            )


def test_a_benchmark_s_files_are_shared_with_its_result(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer_two(context: EvalContext) -> Result:
        answers = context.answers(["One?", "Two?"], Sampling())
        return Result(scores={"right": Score(items=[bool(answer.tokens % 2) for answer in answers])})

    add_benchmark(monkeypatch, replace(load_benchmark("lamb"), name="own", run=answer_two))
    recipes = {n: recipe(iterations=1, evaluation=["own"], training={"epochs": len(n)}) for n in ("a", "bb", "a ")}
    first, second, killed = (tmp_path / name for name in recipes)
    lab.run_sweep({"a": recipes["a"]}, tmp_path)
    # The evaluation of this run was killed.
    (killed / "base/eval/own").mkdir(parents=True)
    (killed / "base/eval/own/answers.jsonl.part").write_text('{"out')
    (killed / "version.json").write_text('{"format": 2}')
    (killed / "recipe.yaml").write_text(loading.dump_recipe(recipes["a "]))
    lab.run_sweep(recipes, tmp_path)
    assert shared(second)["base/eval/own.json"] == "../a/base/eval/own.json"
    for run in (second, killed):
        assert {n for n in result_hashes(run) if "base" in n} == {n for n in result_hashes(first) if "base" in n}
    assert "iter-1/eval/own/answers.jsonl" in own_files(second)

    # A result about other items than the benchmark has now is not shared, and its answers are not.
    result = first / "base/eval/own.json"
    result.write_text(result.read_text().replace('"prompt_fingerprint": "', '"prompt_fingerprint": "0'))
    find = find_reusable_files(recipes["bb"], second, sibling_runs(second))
    for name in ("base/eval/own.json", "base/eval/own/answers.jsonl"):
        assert find(name) == killed / name
    # Without the result, it is not known what the answers are about.
    (killed / "base/eval/own.json").unlink()
    assert not find("base/eval/own.json") and not find("base/eval/own/answers.jsonl")


def test_a_sweep_over_a_run_is_refused(lab: Lab, tmp_path: Path) -> None:
    lab.run_recipe(recipe(iterations=1), tmp_path)
    with pytest.raises(UserError, match="is a run folder"):
        lab.run_sweep({"a": recipe()}, tmp_path)


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


def right(*values: float) -> Result:
    return Result(scores={"right": Score(items=values)})


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


# --- at the command line


def command(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return int(end.value.code or 0)


BASE = "model: fake\niterations: 1\nsynthesis: {tasks: 24, batch_size: 8, novelty: null}\nresponse: {batch_size: 8}\n"


def test_seeds_get_a_folder_each(command_lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(BASE)
    assert command("run", tmp_path / "mine.yaml", "--seeds", "3", "--out", tmp_path / "out", "seed=5") == 0
    runs = sorted(path for path in (tmp_path / "out").iterdir())
    assert [run.name for run in runs] == ["seed-5", "seed-6", "seed-7"]
    assert len({result_hashes(run)["iter-1/pairs.jsonl"] for run in runs}) == 3
    num_calls, contents_before = command_lab.asked, [result_hashes(run) for run in runs]
    assert command("run", tmp_path / "mine.yaml", "--seeds", "4", "--out", tmp_path / "out", "seed=5") == 0
    assert [result_hashes(run) for run in runs] == contents_before and (tmp_path / "out/seed-8/iter-1/adapter").exists()
    assert command_lab.asked == num_calls + num_calls // 3 and len(command_lab.trained) == 4


def test_a_grid_and_names_make_folders(command_lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "grid.yaml").write_text(
        "like: base.yaml\nfilters: [{kind: score, at_least: 6}]\n"
        "settings: {base: {}, last: {training: {start: last}}}\ngrid: {filters.0.at_least: [6, 7]}\n"
    )
    out = tmp_path / "out"
    assert command("sweep", tmp_path / "grid.yaml", "--out", out, "response.batch_size=4") == 0
    names = {f"{name},filters.0.at_least={n}" for name in ("base", "last") for n in (6, 7)}
    assert {path.name for path in out.iterdir()} == names
    assert len(command_lab.trained) == 2
    output = capsys.readouterr().out
    assert "rows" in output and "runs     " in output
    saved = api.load_recipe(out / "last,filters.0.at_least=7" / "recipe.yaml")
    assert saved.training.start == "last" and saved.response.batch_size == 4 and saved.filters[0].at_least == 7


@pytest.mark.parametrize("count", [0, 1, 5])
def test_runs_side_by_side_fit_80_columns(tmp_path: Path, count: int) -> None:
    names = ["lamb", "ifeval", "alpaca_eval", "mt_bench", "harness"][:count]
    settings = recipe(iterations=1).model_copy(
        update={"evaluation": tuple(map(BenchmarkSettings.model_construct, [None] * count))}
    )
    for benchmark, name in zip(settings.evaluation, names, strict=True):
        vars(benchmark)["name"] = name
    long = "one-last-uncapped,filters.0.at_least=7,training.epochs=3"
    for setting in (long, "[b]b"):
        for t, right in ((0, 235), (1, 800)):
            folder = RunFolder(tmp_path / setting, tmp_path / setting) / (f"iter-{t}" if t else "base")
            (folder.path / "adapter").mkdir(parents=True)
            for name in names:
                folder.json(
                    f"eval/{name}.json",
                    lambda right=right: {"scores": {"a": {"items": [n < right for n in range(1000)]}}},
                )
    with (console := Console(width=80)).capture() as capture:
        console.print(sweep_table({long: settings, "[b]b": settings}, tmp_path))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= 80 and "…" not in capture.get()
    assert (
        capture.get().count("[b]b") == 1 and capture.get().count("23.5") == capture.get().count("[77,82]") == 2 * count
    )


def test_a_sweep_may_list_recipe_files(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("model: lamb\nseed: 1\n")
    (tmp_path / "two.yaml").write_text("like: one.yaml\niterations: 7\n")
    (tmp_path / "both.yaml").write_text("seed: 3\nsettings: [one.yaml, two.yaml]\n")
    recipes = api.load_sweep(tmp_path / "both.yaml", ["training.epochs=1"])
    values = {
        name: (settings.iterations, settings.seed, settings.training.epochs) for name, settings in recipes.items()
    }
    assert values == {"one": (3, 3, 1), "two": (7, 3, 1)}


WRONG = {
    "model: lamb": "is no sweep, it has neither settings nor grid",
    "model: lamb\ngrid: {training.epoch: [1]}": "s.yaml line 2: unknown key 'epoch' in training: did you mean 'epochs'",
    "model: lamb\ngrid: {training.epochs: 3}": "s.yaml line 2: grid.training.epochs must be a list of values",
    "model: lamb\ngrid: [1]": "s.yaml line 2: grid must map",
    "model: lamb\nsettings: 3": "s.yaml line 2: settings must map",
    "model: lamb\nsettings: {a: 3}": "s.yaml line 2: setting 'a' must be a mapping",
    "model: lamb\nsettings:\n  a: {}\n  b: {sed: 1}": "s.yaml line 4: unknown key 'sed': did you mean 'seed'",
    "model: lamb\nsettings: {a/b: {}, a b: {}}": "two settings are named 'a-b'",
    "model: lamb\ngrid: {}": "s.yaml: the folder of a setting would be named '': 1 to 200 characters are needed; name",
    "model: lamb\nsettings: {..: {}}": "s.yaml: the folder of a setting would be named '': 1 to",
    f"model: lamb\ngrid: {{model: [{'x' * 201}]}}": "s.yaml: the folder of a setting would be named 'model=x",
    "settings: [s.yaml]": "s.yaml: s.yaml is a sweep itself: list the recipes that it is made of",
    "settings: [one.yaml, ./one.yaml]": "s.yaml: two settings are named 'one'",
    "settings: []": "s.yaml: the folder of a setting would be named ''",
    "model: lamb\ngrid: {1: [1]}": "s.yaml line 2: there is nothing at 1 in this recipe to set it in",
    "model: lamb\ngrid: {filters.0.at_least: [7]}": "s.yaml line 2: there is nothing at 0 in this recipe to set it in",
    "like: s.yaml\ngrid: {seed: [1]}": "s.yaml line 1: like leads round in a circle",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_sweep_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(text)
    (tmp_path / "one.yaml").write_text("model: lamb")
    with pytest.raises(UserError) as error:
        api.load_sweep(tmp_path / "s.yaml")
    assert WRONG[text] in str(error.value) and "\n" not in str(error.value)


def test_values_that_are_texts_are_named_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "model: lamb\ngrid: {assessment.read: [generate, expected], seed: [1], response.prompt: [chat, {text: 'a b'}]}"
    )
    assert list(api.load_sweep(tmp_path / "s.yaml"))[::2] == [
        "assessment.read=generate,seed=1,response.prompt=chat", "assessment.read=expected,seed=1,response.prompt=chat",
    ]  # fmt: skip


def test_a_folder_with_the_name_of_an_earlier_version_is_continued(lab: Lab, tmp_path: Path) -> None:
    settings = recipe(training={"scheduler": "linear"})
    name, older = "seed=1,training.scheduler=linear", "seed=1,training.scheduler=-linear-"
    lab.run_sweep({older: settings}, tmp_path)
    before = result_hashes(tmp_path / older)
    assert lab.run_sweep({name: settings}, tmp_path) == [tmp_path / older]
    assert [path.name for path in tmp_path.iterdir()] == [older] and result_hashes(tmp_path / older) == before
    with (console := Console(width=100)).capture() as capture:
        console.print(sweep_table({name: settings}, tmp_path))
    assert "seed=1" in capture.get() and " 1 " in capture.get()


def test_a_sweep_is_not_run_as_a_recipe() -> None:
    with pytest.raises(UserError, match="is a sweep over many settings: run it with isheep sweep"):
        api.load_recipe(loading.find_recipe("paper/table2"))


# --- every recipe on lamb, to its end

ON_LAMB = [name for name in loading.recipe_names() if name.startswith("lamb/")]


def recipes_of(name: str) -> dict[str, Recipe]:
    path = loading.find_recipe(name)
    return api.load_sweep(path) if loading.is_sweep(path) else {"": api.load_recipe(path)}


# The recipes that run in the quick suite: one for each way to start, to read a score, to filter and to stop.
QUICK_ON_LAMB = ("one-base", "one-last", "total-base-uncapped", "direct-20k", "read-expected", "density", "stop")


def mark_slow(name: str) -> object:
    """Return a parameter of a test: a recipe, with the mark `slow` if another recipe stands for it."""
    return name if name.removeprefix("lamb/") in QUICK_ON_LAMB else pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "name", [mark_slow(name) for name in ON_LAMB if not loading.is_sweep(loading.find_recipe(name))]
)
def test_every_recipe_on_lamb_runs(name: str, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from isheep.benchmarks import lamb

    part = replace(lamb.BENCHMARK.validation, run=lambda context: right(*[True, False] * 200))  # type: ignore[type-var]
    stub = replace(lamb.BENCHMARK, run=lambda context: right(True), validation=part)
    monkeypatch.setattr(lamb, "BENCHMARK", stub)
    [settings] = recipes_of(name).values()
    run, t = lab.run_recipe(settings, tmp_path)
    assert (
        t == (1 if settings.stop else settings.iterations)
        and run.has(f"iter-{t}/adapter")
        and run.has("base/eval/lamb.json")
    )
    assert len(lab.trained[0].pairs) >= (settings.training.num_rows or 2)


def test_recipes_differ_as_far_as_they_say_so() -> None:
    """No recipe is another one's copy, but for Table 2 to 4's rows that are one setting under two names."""
    for folder in ("paper", "lamb"):
        names = [name for name in loading.recipe_names() if name.startswith(f"{folder}/")]
        names_by_recipe: dict[str, list[str]] = {}
        for name in (name for name in names if not loading.is_sweep(loading.find_recipe(name))):
            names_by_recipe.setdefault(loading.dump_recipe(recipes_of(name)[""]), []).append(
                name.removeprefix(f"{folder}/")
            )
        equal = {tuple(names) for names in names_by_recipe.values() if len(names) > 1}
        assert equal == {("one-base", "prompt-combined"), ("assess-both", "prompt-simple")}


@pytest.fixture
def short_exam(monkeypatch: pytest.MonkeyPatch) -> None:
    """lamb's exam and validation part, 20 quests each."""
    from isheep.benchmarks import lamb
    from isheep.lamb.suite import suite, validation

    monkeypatch.setattr(lamb, "suite", lambda: suite()[:20])
    monkeypatch.setattr(lamb, "validation", lambda: validation()[:20])


def finished(recipes: dict[str, Recipe], out: Path) -> None:
    """Run them on lamb itself: each ends with a model and its scores, and iteration 1 was written once."""
    for run, settings in zip(run_sweep(recipes, out), recipes.values(), strict=True):
        last = (
            settings.iterations
            if not settings.stop
            else max(int(p.parent.name[5:]) for p in run.glob("iter-*/adapter"))
        )
        rows = json.loads((run / f"iter-{last}/adapter/training.json").read_text())["rows"]
        assert 0 < rows["trained"] <= len(json.loads((run / f"iter-{last}/train.json").read_text()))
        assert len(json.loads((run / f"iter-{last}/eval/lamb.json").read_text())["scores"]["right"]["items"]) == 20


BRIEF = ["synthesis.tasks=36", "synthesis.budget=80", "training.epochs=1"]
# A recipe for each way to filter, to read a score, to start.
FEW = {
    "lamb/one-last": [],
    "lamb/density-perplexity": ["filters.1.clusters=12", "iterations=1"],
    "lamb/read-expected": ["filters.1.at_least=4", "iterations=1"],
    "lamb/stop": ["iterations=2"],
}


@pytest.mark.slow
def test_recipes_on_lamb_run_for_real(short_exam: None, tmp_path: Path) -> None:
    recipes = {name[5:]: api.load_recipe(loading.find_recipe(name), [*BRIEF, *words]) for name, words in FEW.items()}
    finished(recipes, tmp_path)
    for stage in ("iter-1/replies.jsonl", "iter-1/pairs.jsonl", "base/eval/lamb.json"):
        assert [name for name in recipes if stage in own_files(tmp_path / name)] == ["one-last"]


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all runs of the recipes on lamb, which share what they can."""
    return tmp_path_factory.mktemp("field")


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_LAMB)
def test_every_recipe_on_lamb_runs_for_real(name: str, short_exam: None, field: Path) -> None:
    finished({label or name[5:]: settings for label, settings in recipes_of(name).items()}, field)
