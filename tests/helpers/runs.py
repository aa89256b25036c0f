"""Run folders that are made by hand, and fake models that answer on them."""

import json
from pathlib import Path
from typing import Any

import pytest

from isheep.backends import Backend
from isheep.benchmarks import lamb
from isheep.engines.function import SeededFunctionEngine
from isheep.lamb.suite import suite
from isheep.recipe.schema import Recipe
from isheep.records import Model
from isheep.rundir.run import open_run_for_writing
from tests.helpers.backends import use_backend
from tests.helpers.fakes import FakeChat


def fake_models(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let commands use fake engines and a fake template, and shorten lamb's test; return the names of the models that
    have answered, in order."""
    models: list[str] = []

    def open_engine(recipe: Recipe, model: Model) -> SeededFunctionEngine:
        name = model.adapter.parent.name if model.adapter else "base"

        def answer(prompt: str, seed: int) -> str:
            if name not in models:
                models.append(name)
            return f"{name}, {len(prompt)}"

        return SeededFunctionEngine(answer)

    chat = FakeChat(name="qwen", template="<|user|>...<|answer|>")
    use_backend(monkeypatch, Backend(open_engine, load_chat_template=lambda name, model: chat))  # type: ignore[arg-type, return-value]
    monkeypatch.setattr(lamb, "suite", lambda: suite()[:30])
    return models


def make_run(path: Path, iterations: int = 2, **settings: Any) -> Path:
    """Make a run folder that has the adapter of each iteration and nothing else; return its path."""
    with open_run_for_writing(
        path, Recipe.model_validate({"model": "fake", "iterations": iterations, **settings})
    ) as run:
        for iteration in range(1, iterations + 1):
            (run.path / f"iter-{iteration}" / "adapter").mkdir(parents=True)
    return path


def is_narrow(text: str) -> bool:
    """Return whether no line is longer than 80 characters."""
    return all(len(line) <= 80 for line in text.splitlines())


def write_result(run: Path, name: str, benchmark: str, result: dict[str, Any]) -> None:
    """Write the result of a benchmark into a run folder; `name` is "base" or "iter-1" and so on."""
    path = run / name / "eval" / f"{benchmark}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result))
