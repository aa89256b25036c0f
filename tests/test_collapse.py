"""The collapse monitor: figures counted by hand, warnings at their limits, and a run that narrows."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import isheep.algorithm
from isheep.algorithm import align
from isheep.cli import main
from isheep.diagnostics.diversity import figures, narrower
from isheep.engines.function import SeededFunctionEngine
from isheep.recipe.schema import Recipe
from isheep.records import Model, Pair, Rejected
from isheep.rundir.folder import open_run_for_writing


def pair(n: int, instruction: str, output: str, tokens: int = 4, finish: str = "stop") -> Pair:
    return Pair(id=f"t1-{n}", instruction=instruction, output=output, finish=finish, tokens=tokens, seed=1)


def test_figures_are_what_counting_gives() -> None:
    pairs = [
        pair(0, "Name a red fruit", "An apple is red", tokens=2),
        pair(1, "name a RED fruit!", "An apple is red", tokens=4, finish="length"),
        pair(2, "Write one poem", "Roses", tokens=6),
        pair(3, "", "", tokens=8),
    ]
    rejected = [Rejected(id=str(n), text="", by=by, why="") for n, by in enumerate(["novelty", "rules"])]
    found = figures(pairs, rejected, "en")
    assert (found["near_duplicates"], found["answers_near_duplicates"], found["refused_by_novelty"]) == (0.5, 0.5, 0.2)
    assert [found[f"distinct_{n}"] for n in (1, 2, 3)] == [round(7 / 11, 4), round(5 / 8, 4), round(3 / 5, 4)]
    assert [found[f"answers_distinct_{n}"] for n in (1, 2, 3)] == [round(5 / 9, 4), 0.5, 0.5]
    assert found["first_words"] == {"name": round(2 / 3, 4), "write": round(1 / 3, 4)}
    assert found["first_word_entropy"] == round(math.log2(3) - 2 / 3, 4) and found["vocabulary"] == 7
    assert [found[f"tokens_{q}"] for q in ("quarter", "median", "three_quarters")] == [3.5, 5, 6.5]
    assert found["stopped"] == 0.75


def test_words_of_every_script_and_nothing_at_all() -> None:
    found = figures([pair(0, "Назови реку", "Обь"), pair(1, "Назови реку", "")], [], "any")
    assert found["first_words"] == {"назови": 1.0} and found["first_word_entropy"] == 0
    nothing = figures([], [], "en")
    assert nothing["near_duplicates"] is None and nothing["tokens_median"] is None and nothing["first_words"] == {}


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
        ({"refused_by_novelty": 0.3}, "instructions: refused as near a known one 20% -> 30% (since iteration 1)"),
        ({"answers_near_duplicates": 0.2}, "answers: near duplicates 10% -> 20% (since iteration 1)"),
        ({"first_word_entropy": 3.4}, "instructions: entropy of first words, bits 4.00 -> 3.40 (since iteration 1)"),
        ({"first_word_entropy": 3.6}, None),
        ({"tokens_median": 19}, "answers: tokens, median 30 -> 19 (since iteration 1)"),
        ({"tokens_median": 21}, None),
        ({"tokens_median": 300}, None),
        ({"stopped": 0.8}, "answers: stopped by themselves 95% -> 80% (since iteration 1)"),
        ({"vocabulary": 700}, "instructions: vocabulary 1000 -> 700 (since iteration 1)"),
        ({"vocabulary": 700, "pairs": 500}, None),  # less text has fewer words
        ({"distinct_2": 0.4}, "instructions: distinct-2 0.500 -> 0.400 (since iteration 1)"),
        ({"distinct_2": 0.4, "pairs": 800}, None),
        ({"near_duplicates": 0.9, "pairs": 99}, None),  # chance
        ({"near_duplicates": None}, None),
    ],
)
def test_warnings_at_their_limits(change: dict[str, Any], line: str | None) -> None:
    assert list(narrower({**BEFORE, **change}, {1: BEFORE})) == ([line] if line else [])


def test_slow_narrowing_is_seen_against_the_first_iteration() -> None:
    steps = {t: {**BEFORE, "near_duplicates": 0.1 + 0.03 * t} for t in (1, 2, 3)}
    assert list(narrower(steps[2], {1: steps[1]})) == []
    [line] = narrower(steps[3], {2: steps[2], 1: steps[1]})
    assert line == "instructions: near duplicates 13% -> 19% (since iteration 1)"


# --- a run whose second model says the same again and again


class Chat(NamedTuple):
    end: str = "<|end|>"
    special: frozenset[str] = frozenset({"<|end|>"})

    def prompt(self, content: str) -> str:
        return f"<|user|>{content}<|answer|>"


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_engine(recipe: Recipe, model: Model) -> SeededFunctionEngine:
        def write(prompt: str, seed: int) -> str:
            if prompt.endswith("<|answer|>"):
                return "Yes.<|end|>" if model.adapter else " ".join(f"w{seed // 7**n % 97}" for n in range(12))
            if model.adapter:
                return f" Tell me about thing {seed}\nInput: <noinput>\n###\n"
            return " " + " ".join(f"v{seed // 5**n % 89}" for n in range(8)) + "\nInput: <noinput>\n###\n"

        return SeededFunctionEngine(write)

    def train(recipe: Recipe, chat: Chat, start: Model, data: Sequence[Pair], seed: int, into: Path) -> None:
        (into / "training.json").write_text("{}")

    monkeypatch.setattr(isheep.algorithm, "load_chat_template", lambda name, model: Chat())
    monkeypatch.setattr(isheep.algorithm, "open_engine", open_engine)
    monkeypatch.setattr(isheep.algorithm, "train", train)


def test_a_run_says_that_it_narrows_once_and_status_shows_it(
    lab: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    synthesis = {"tasks": 120, "size": 40, "novelty": None, "rules": False}
    settings = {"model": "fake", "iterations": 2, "synthesis": synthesis, "assessment": None, "filters": []}
    recipe, path = Recipe.model_validate(settings), tmp_path / "run" / "iter-2" / "collapse.json"
    with open_run_for_writing(tmp_path / "run", recipe) as folder:
        list(align(recipe, folder))
    said = capsys.readouterr().err
    found = json.loads(path.read_text())
    assert found["near_duplicates"] == 1 and found["stopped"] == 1 and found["tokens_median"] == 1
    assert len(found["narrower"]) == 5 and "narrower" not in said.split("iter-2/tasks.jsonl")[0]
    for line in found["narrower"]:
        assert f"iteration 2 is narrower: {line}" in " ".join(said.split())
    whole = path.read_bytes()
    with open_run_for_writing(tmp_path / "run", recipe) as folder:
        list(align(recipe, folder))
    assert "narrower" not in capsys.readouterr().err
    path.unlink()
    with open_run_for_writing(tmp_path / "run", recipe) as folder:
        list(align(recipe, folder))
    assert path.read_bytes() == whole
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["status", str(tmp_path / "run")])
    shown = capsys.readouterr().out
    assert end.value.code == 0 and "iteration 2 is narrower: answers: tokens, median 12 -> 1" in shown
    assert max(map(len, shown.split("what was written")[1].splitlines()[:20])) <= 80
