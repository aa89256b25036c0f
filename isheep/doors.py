"""Which library stands behind an engine and a trainer: what a recipe's `machine` names. Nothing heavy loads here."""

from collections.abc import Sequence
from pathlib import Path

from isheep.chat import Chat
from isheep.engines import Engine
from isheep.recipe import Recipe
from isheep.records import Model, Pair


def open_engine(recipe: Recipe, model: Model) -> Engine:
    """The recipe's engine on a model; its weights load at first use."""
    from isheep.engines import transformers

    machine = recipe.machine
    return transformers.open_engine(model, threads=machine.threads, device=machine.device, batch=machine.batch)


def train(recipe: Recipe, chat: Chat, start: Model, data: Sequence[Pair], seed: int, into: Path) -> None:
    """SFT(start, data): the adapter of the next model, in the folder `into`."""
    from isheep.trainers import peft

    machine = recipe.machine
    peft.train(start, data, chat, recipe.training, seed, into, machine.threads, machine.device, machine.rows)
