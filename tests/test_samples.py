"""Fixed samples of a benchmark's items: the same whatever the order, and named wherever their scores are shown."""

import json
import random
from pathlib import Path

import isheep
from isheep.benchmarks import load_benchmark, select_items
from isheep.recipe.evaluation import BenchmarkSettings
from tests.helpers.benchmark_files import write_benchmark
from tests.helpers.command import isheep as run_isheep
from tests.helpers.command import refused
from tests.helpers.function_model import SMALL, write_texts

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
    settings = {"name": "paper/nq", "data": str(write_benchmark(tmp_path / "data", "nq")), "num_items": 1}
    sampled = load_benchmark("paper/nq").prompts(BenchmarkSettings.model_validate(settings))
    everything = load_benchmark("paper/nq").prompts(BenchmarkSettings(name="paper/nq", data=settings["data"]))
    assert len(sampled) == 1 < len(everything) and set(sampled) < set(everything)
    recipe = isheep.load_recipe("lamb", {**SMALL, "evaluation": [settings]})
    for model in isheep.align(recipe, tmp_path / "run", engine=write_texts):
        result = isheep.evaluate(model, "paper/nq")
        assert result.part == "sample of 1" and all(len(score.items) == 1 for score in result.scores.values())
    stored = json.loads((tmp_path / "run/base/eval/paper/nq.json").read_text())
    assert stored["part"] == "sample of 1"
    for command in ("status", "compare"):
        assert "(sample of 1)" in run_isheep(command, tmp_path / "run").out


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
