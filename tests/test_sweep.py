"""Sweeps, seeds and iterative settings on a fake engine and trainer: what is shared, what each setting changes."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isheep import prompts
from isheep.benchmarks import EvalContext, Result, Score, load_benchmark
from isheep.errors import UserError
from isheep.evaluation.file_sources import source_fingerprint
from isheep.recipe import loading
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.records import Sampling
from isheep.sweep import find_reusable_files, run_sweep, sibling_runs
from tests.helpers.backends import add_benchmark
from tests.helpers.lab import TASKS, Lab, own_files, recipe, result_hashes, shared

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

    copy_file = shutil.copyfile

    def stop(source: Path, to: Path) -> None:
        if source.name == "adapter_config.json":
            to.write_text("half")
            raise KeyboardInterrupt
        copy_file(source, to)

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(shutil, "copyfile", stop)
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
