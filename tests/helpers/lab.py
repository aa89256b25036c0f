"""A fake engine and trainer that count their calls, for tests of runs and sweeps."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from isheep.backends import Backend
from isheep.batching import derive_seed
from isheep.benchmarks import Result, Score
from isheep.engines.function import SeededFunctionEngine
from isheep.recipe.schema import Recipe
from isheep.records import Model, Task
from isheep.rundir.events import read_events
from isheep.rundir.folder import RunFolder
from isheep.rundir.jsonl import read_rows
from isheep.rundir.training_file import read_training_file
from isheep.sweep import run_recipe, run_sweep
from tests.helpers.fakes import FakeChat
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


def right(*values: float) -> Result:
    return Result(scores={"right": Score(items=values)})
