"""Benchmarks: a module each, with `run(engine, chat, seed) -> dict` and `prompts() -> list[str]`.

A result's "items" hold, for each score, one truth value per item, in the same order for every model. A benchmark that a
recipe's `stop` can name also has `validate(engine, chat, seed) -> dict`: other items, and a "score" that is better the
higher it is.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any


def module(name: str) -> Any:
    """The benchmark of that name in a recipe's `evaluation`."""
    return import_module(f"isheep.benchmarks.{name}")


def prompts(names: Sequence[str]) -> list[str]:
    """What these benchmarks ask, in their validation parts too."""
    return [prompt for name in names for prompt in module(name).prompts()]
