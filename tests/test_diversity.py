"""Diversity: metrics counted by hand, warnings at their limits, and a run that narrows."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from isheep.algorithm import align
from isheep.backends import Backend
from isheep.cli import main
from isheep.diagnostics.diversity import find_narrowing, measure_diversity
from isheep.engines.function import SeededFunctionEngine
from isheep.recipe.schema import Recipe
from isheep.records import Model, Rejected
from isheep.rundir.run import open_run_for_writing
from tests.helpers.fakes import FakeChat
from tests.helpers.rows import make_pair


def test_metrics_equal_hand_counts() -> None:
    pairs = [
        make_pair(0, "Name a red fruit", "An apple is red", tokens=2),
        make_pair(1, "name a RED fruit!", "An apple is red", tokens=4, finish="length"),
        make_pair(2, "Write one poem", "Roses", tokens=6),
        make_pair(3, "", "", tokens=8),
    ]
    rejected = [Rejected(id=str(n), text="", by=by, why="") for n, by in enumerate(["novelty", "rules"])]
    metrics = measure_diversity(pairs, rejected, "en")
    assert (metrics["near_duplicates"], metrics["answers_near_duplicates"], metrics["refused_by_novelty"]) == (
        0.5,
        0.5,
        0.2,
    )
    assert [metrics[f"distinct_{n}"] for n in (1, 2, 3)] == [round(7 / 11, 4), round(5 / 8, 4), round(3 / 5, 4)]
    assert [metrics[f"answers_distinct_{n}"] for n in (1, 2, 3)] == [round(5 / 9, 4), 0.5, 0.5]
    assert metrics["first_words"] == {"name": round(2 / 3, 4), "write": round(1 / 3, 4)}
    assert metrics["first_word_entropy"] == round(math.log2(3) - 2 / 3, 4) and metrics["vocabulary"] == 7
    assert [metrics[f"tokens_{q}"] for q in ("quarter", "median", "three_quarters")] == [3.5, 5, 6.5]
    assert metrics["stopped"] == 0.75


def test_words_of_every_script_and_no_pairs() -> None:
    metrics = measure_diversity([make_pair(0, "Назови реку", "Обь"), make_pair(1, "Назови реку", "")], [], "any")
    assert metrics["first_words"] == {"назови": 1.0} and metrics["first_word_entropy"] == 0
    empty = measure_diversity([], [], "en")
    assert empty["near_duplicates"] is None and empty["tokens_median"] is None and empty["first_words"] == {}


BEFORE = {
    "pairs": 700, "near_duplicates": 0.1, "refused_by_novelty": 0.2, "distinct_1": 0.1, "distinct_2": 0.5,
    "distinct_3": 0.8, "first_word_entropy": 4.0, "vocabulary": 1000, "answers_near_duplicates": 0.1,
    "answers_distinct_1": 0.1, "answers_distinct_2": 0.5, "answers_distinct_3": 0.8, "tokens_quarter": 10,
    "tokens_median": 30, "tokens_three_quarters": 60, "stopped": 0.95,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"near_duplicates": 0.16}, "instructions: near duplicates 10% -> 16% (since iteration 1)"),
        ({"near_duplicates": 0.14}, None),
        ({"near_duplicates": 0.01}, None),
        ({"refused_by_novelty": 0.3}, "instructions: rejected: near a known one 20% -> 30% (since iteration 1)"),
        ({"answers_near_duplicates": 0.2}, "answers: near duplicates 10% -> 20% (since iteration 1)"),
        ({"first_word_entropy": 3.4}, "instructions: entropy of first words, bits 4.00 -> 3.40 (since iteration 1)"),
        ({"first_word_entropy": 3.6}, None),
        ({"tokens_median": 19}, "answers: tokens, median 30 -> 19 (since iteration 1)"),
        ({"tokens_median": 21}, None),
        ({"tokens_median": 300}, None),
        ({"stopped": 0.8}, "answers: ended with a stop token 95% -> 80% (since iteration 1)"),
        ({"vocabulary": 700}, "instructions: vocabulary 1000 -> 700 (since iteration 1)"),
        ({"vocabulary": 700, "pairs": 500}, None),
        ({"distinct_2": 0.4}, "instructions: distinct-2 0.500 -> 0.400 (since iteration 1)"),
        ({"distinct_2": 0.4, "pairs": 800}, None),
        ({"near_duplicates": 0.9, "pairs": 99}, None),
        ({"near_duplicates": None}, None),
    ],
)
def test_warnings_at_their_limits(change: dict[str, Any], line: str | None) -> None:
    assert list(find_narrowing({**BEFORE, **change}, {1: BEFORE})) == ([line] if line else [])


def test_slow_narrowing_is_detected_against_the_first_iteration() -> None:
    steps = {t: {**BEFORE, "near_duplicates": 0.1 + 0.03 * t} for t in (1, 2, 3)}
    assert list(find_narrowing(steps[2], {1: steps[1]})) == []
    [line] = find_narrowing(steps[3], {2: steps[2], 1: steps[1]})
    assert line == "instructions: near duplicates 13% -> 19% (since iteration 1)"


# --- a run whose second model repeats itself


@pytest.fixture
def backend() -> Backend:
    def open_engine(recipe: Recipe, model: Model) -> SeededFunctionEngine:
        def write(prompt: str, seed: int) -> str:
            if prompt.endswith("<|answer|>"):
                return "Yes.<|end|>" if model.adapter else " ".join(f"w{seed // 7**n % 97}" for n in range(12))
            if model.adapter:
                return f" Tell me about thing {seed}\nInput: <noinput>\n###\n"
            return " " + " ".join(f"v{seed // 5**n % 89}" for n in range(8)) + "\nInput: <noinput>\n###\n"

        return SeededFunctionEngine(write)

    def train(recipe: Recipe, chat: Any, start: Model, training_file: Path, seed: int, into: Path) -> None:
        (into / "training.json").write_text("{}")

    return Backend(open_engine, train, lambda name, model: FakeChat())  # type: ignore[arg-type, return-value]


def test_a_run_warns_once_about_narrowing_and_status_shows_it(
    backend: Backend, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    synthesis = {"tasks": 120, "batch_size": 40, "novelty": None, "rules": False}
    settings = {"model": "fake", "iterations": 2, "synthesis": synthesis, "assessment": None, "filters": []}
    recipe, path = Recipe.model_validate(settings), tmp_path / "run" / "iter-2" / "diversity.json"
    with open_run_for_writing(tmp_path / "run", recipe) as folder:
        list(align(recipe, folder, backend=backend))
    log = capsys.readouterr().err
    metrics = json.loads(path.read_text())
    assert metrics["near_duplicates"] == 1 and metrics["stopped"] == 1 and metrics["tokens_median"] == 1
    assert len(metrics["narrower"]) == 5 and "narrower" not in log.split("iter-2/tasks.jsonl")[0]
    for line in metrics["narrower"]:
        assert f"iteration 2 is narrower: {line}" in " ".join(log.split())
    complete = path.read_bytes()
    with open_run_for_writing(tmp_path / "run", recipe) as folder:
        list(align(recipe, folder, backend=backend))
    assert "narrower" not in capsys.readouterr().err
    path.unlink()
    with open_run_for_writing(tmp_path / "run", recipe) as folder:
        list(align(recipe, folder, backend=backend))
    assert path.read_bytes() == complete
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["status", "--full", str(tmp_path / "run")])
    output = capsys.readouterr().out
    assert end.value.code == 0 and "iteration 2 is narrower: answers: tokens, median 12 -> 1" in output
    assert max(map(len, output.split("generated data")[1].splitlines()[:20])) <= 80
