"""Every iteration's model on every benchmark of the recipe: one JSON file each, beside the model's adapter."""

from contextlib import closing
from functools import partial
from typing import Any

from isheep.benchmarks import module
from isheep.chat import load_chat
from isheep.doors import open_engine
from isheep.engines import Engine
from isheep.recipe import Recipe
from isheep.records import Model
from isheep.run import Folder


def home(run: Folder, t: int) -> Folder:
    """Where what belongs to M^t lies: its scores, and its adapter where it has one. The base is iteration 0."""
    return run / (f"iter-{t}" if t else "base")


def evaluate(recipe: Recipe, run: Folder, t: int, model: Model) -> dict[str, Any]:
    """The results of M^t by benchmark, computed where they are not there yet.

    A benchmark is a module of isheep/benchmarks with `run(engine, chat, seed) -> dict`. The dict is written as JSON;
    its "items" give, for each score, one truth value per item, in the same order for every model.
    """
    with closing(open_engine(recipe, model)) as engine:
        return {
            name: home(run, t).json(f"eval/{name}.json", partial(_score, recipe, name, engine))
            for name in recipe.evaluation
        }


def _score(recipe: Recipe, name: str, engine: Engine) -> Any:
    benchmark = module(name)
    return benchmark.run(engine, load_chat(recipe.chat, recipe.model), recipe.seed)
