"""Every iteration's model on every benchmark of the recipe: one JSON file each, beside the model's adapter."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from isheep.benchmarks import Exam, asked, module
from isheep.chat import load_chat
from isheep.doors import open_engine, open_judge
from isheep.recipe import Benchmark, Recipe
from isheep.records import Model
from isheep.run import Folder


def home(run: Folder, t: int) -> Folder:
    """Where what belongs to M^t lies: its scores, and its adapter where it has one. The base is iteration 0."""
    return run / (f"iter-{t}" if t else "base")


def evaluate(recipe: Recipe, run: Folder, t: int, model: Model) -> dict[str, Any]:
    """The results of M^t by benchmark, computed where they are not there yet.

    A benchmark is a module of isheep/benchmarks. The dict that it gives is written as JSON, with "asked", a digest of
    the prompts. What `stop` judges by is kept apart from these results, in validation/.
    """
    with closing(open_engine(recipe, model)) as engine:

        def result(one: Benchmark, part: str, folder: str) -> Any:
            def make() -> Any:
                digest = {"asked": asked(one)} if part == "run" else {}
                chat, data = load_chat(recipe.chat, recipe.model), Path(one.data) if one.data else None
                place = home(run, t) / folder / one.name
                unsafe, judge = recipe.machine.unsafe_code, open_judge(recipe, one)
                exam = Exam(engine, chat, recipe.seed, place, data, t == 0, one, judge, unsafe)
                return {**digest, **getattr(module(one.name), part)(exam)}

            return home(run, t).json(f"{folder}/{one.name}.json", make)

        if recipe.stop:
            result(Benchmark(name=recipe.stop.benchmark), "validate", "validation")
        return {one.name: result(one, "run", "eval") for one in recipe.evaluation}


def ended(recipe: Recipe, run: Folder, t: int) -> bool:
    """Whether M^t is a run's last model: all T iterations are made, or `stop` ends it. Reads what `evaluate` wrote."""
    if not recipe.stop or t == recipe.iterations:
        return t == recipe.iterations
    scores = validated(run, recipe.stop.benchmark, t)
    return len(scores) > t and no_gain(scores, recipe.stop.patience)


def validated(run: Folder, benchmark: str, t: int) -> list[float]:
    """The validation scores of M^0 to M^t, as far as they are there."""
    name = f"validation/{benchmark}.json"
    return [home(run, s).json(name, dict)["score"] for s in range(t + 1) if home(run, s).has(name)]


def no_gain(scores: Sequence[float], patience: int) -> bool:
    """Whether the last `patience` scores hold no new best."""
    return len(scores) > patience and max(scores[-patience:]) <= max(scores[:-patience])
