"""Fixed samples of a benchmark's items: the same whatever the order, and named wherever their scores are shown."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import isheep
from isheep.benchmarks import load_benchmark, select_items
from isheep.engines.function import SeededFunctionEngine
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.records import Completion, Sampling
from tests.helpers.benchmark_files import HUMANEVAL_TASK, mbpp_task, write_benchmark
from tests.helpers.command import isheep as run_isheep
from tests.helpers.command import refused
from tests.helpers.function_model import SMALL, write_texts
from tests.helpers.judged import exam, write_lines

ITEMS = [f"question {number}" for number in range(40)]


def sample(items: list[str], num_items: int) -> list[str]:
    return select_items(items, lambda item: item, BenchmarkSettings(name="ifeval", num_items=num_items))


def test_a_sample_depends_on_the_items_alone_and_larger_ones_contain_smaller_ones() -> None:
    small, large = sample(ITEMS, 5), sample(ITEMS, 20)
    assert len(small) == 5 and set(small) < set(large) and small == sorted(small, key=ITEMS.index)
    shuffled = random.Random(1).sample(ITEMS, len(ITEMS))
    assert set(sample(shuffled, 5)) == set(small) != set(ITEMS[:5])
    assert sample(ITEMS, 100) == ITEMS


def test_a_sample_is_named_in_results_and_tables(tmp_path: Path) -> None:
    data = str(write_benchmark(tmp_path / "data", "nq"))
    settings = {"name": "paper/nq", "data": data, "num_items": 1, "max_tokens": 9}
    sampled = load_benchmark("paper/nq").prompts(BenchmarkSettings.model_validate(settings))
    everything = load_benchmark("paper/nq").prompts(BenchmarkSettings(name="paper/nq", data=data))
    assert len(sampled) == 1 < len(everything) and set(sampled) < set(everything)
    recipe = isheep.load_recipe("lamb", {**SMALL, "evaluation": [settings]})
    for model in isheep.align(recipe, tmp_path / "run", engine=write_texts):
        result = isheep.evaluate(model, "paper/nq")
        assert result.part == "sample of 1, at most 9 tokens" and all(
            len(score.items) == 1 for score in result.scores.values()
        )
    stored = json.loads((tmp_path / "run/base/eval/paper/nq.json").read_text())
    assert stored["part"] == "sample of 1, at most 9 tokens"
    for command in ("status", "compare"):
        assert "(sample of 1, at most 9 tokens)" in " ".join(run_isheep(command, tmp_path / "run").out.split())


def test_a_sample_of_more_items_than_there_are_is_no_sample(tmp_path: Path) -> None:
    settings = {"name": "paper/nq", "data": str(write_benchmark(tmp_path / "data", "nq")), "num_items": 1000}
    for name, entry in (("a", settings), ("b", {**settings, "num_items": None})):
        isheep.align(
            isheep.load_recipe("lamb", {**SMALL, "evaluation": [entry]}), tmp_path / name, engine=write_texts
        ).run()
    for command in ("status", "contamination"):
        assert "(sample of" not in run_isheep(command, tmp_path / "a").out
    assert run_isheep("compare", tmp_path / "a", tmp_path / "b").code == 0


def test_a_benchmark_without_samples_is_refused(tmp_path: Path) -> None:
    line = refused("run", "lamb", "evaluation=[{name: lamb, num_items: 10}]", "--out", tmp_path / "run")
    assert "lamb has no samples: leave out num_items" in line and not (tmp_path / "run").exists()


class ListeningEngine(SeededFunctionEngine):
    """An engine that keeps the largest number of tokens that each call asks for."""

    def __init__(self) -> None:
        super().__init__(lambda prompt, seed: "no answer")
        self.limits: set[int] = set()

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        self.limits.add(sampling.max_tokens)
        return super().generate(prompts, sampling, seed)


def written_data(name: str, folder: Path) -> Path:
    """Return the file of a benchmark whose answers the model writes."""
    rows = {"humaneval": [HUMANEVAL_TASK], "mbpp": [mbpp_task(number) for number in (2, 3, 4, 11)]}
    if name not in rows:
        return write_benchmark(folder / "data", name.rpartition("/")[2])
    write_lines(folder / "tasks.jsonl", rows[name])
    return folder / "tasks.jsonl"


@pytest.mark.parametrize("name", ["humaneval", "mbpp", "paper/nq", "paper/squad2", "standard/nq", "standard/squad2"])
def test_the_recipe_decides_on_the_length_of_answers(tmp_path: Path, qwen2: Path, name: str) -> None:
    if name.startswith("standard/"):
        pytest.importorskip("lm_eval", reason="lm-eval is not installed: the extra eval")
    data, limits = written_data(name, tmp_path), []
    for max_tokens in (None, 7):
        settings = BenchmarkSettings(name=name, max_tokens=max_tokens)
        context, engine = exam(tmp_path / str(max_tokens), data, qwen2, settings=settings), ListeningEngine()
        load_benchmark(name).run(replace(context, engine=engine, unsafe_code=True))
        limits.append(engine.limits)
    assert limits[1] == {7} and min(limits[0]) > 7


def test_a_benchmark_without_answers_has_no_length(tmp_path: Path) -> None:
    entry = f"{{name: paper/piqa, max_tokens: 5, data: {write_benchmark(tmp_path / 'data', 'piqa')}}}"
    line = refused("run", "lamb", f"evaluation=[{entry}]", "--out", tmp_path / "run")
    assert "paper/piqa scores given texts, and the model writes no answers: leave out max_tokens" in line


def test_a_base_that_knows_the_template_can_be_asked_in_it(tmp_path: Path) -> None:
    """Otherwise the difference between the base and an iteration would have the template's effect in it."""
    settings = {"name": "paper/nq", "data": str(write_benchmark(tmp_path / "data", "nq"))}
    prompts: dict[bool, list[str]] = {}
    for base_in_template in (False, True):
        entry = {**settings, "base_in_template": base_in_template}
        recipe = isheep.load_recipe("lamb", {**SMALL, "evaluation": [entry]})
        base = next(iter(isheep.align(recipe, tmp_path / str(base_in_template), engine=write_texts)))
        result = isheep.evaluate(base, "paper/nq")
        assert (result.template == "plain") is not base_in_template
        answers = tmp_path / str(base_in_template) / "base/eval/paper/nq/answers.jsonl"
        prompts[base_in_template] = [json.loads(line)["prompt"] for line in answers.read_text().splitlines()]
    marks = "<user>", "<|user|>", "<|im_start|>"
    assert not any(mark in prompt for prompt in prompts[False] for mark in marks)
    assert prompts[True] != prompts[False] and len(prompts[True]) == len(prompts[False])
