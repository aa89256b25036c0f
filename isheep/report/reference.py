"""The reference texts of Figure 4, and how texts become vectors: by their words, or by the run's base model."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isheep.backends import DEFAULT_BACKEND, Backend
from isheep.diagnostics.two_sample import WordFeatures, sample_texts
from isheep.errors import UserError, option
from isheep.models.chat_template import plain_prompt
from isheep.recipe.schema import Recipe
from isheep.records import Model, user_turn
from isheep.seeds import SeedTask, load_seed_file

# With fewer texts there are no two halves to compare.
MIN_TEXTS = 4
# A function from texts to their vectors, a row each.
Vectors = Callable[[Sequence[str]], Any]


@dataclass(frozen=True)
class ReferenceTexts:
    """Texts that generated pairs are compared with: instruction, input and output of each task as one text.

    `label` names them in a caption. `by_model`: the run's base model embeds all texts; otherwise their words do.
    """

    label: str
    texts: tuple[str, ...]
    by_model: bool = False


def load_reference(path: Path | None, default: Path, by_model: bool = False) -> ReferenceTexts:
    """Read the reference of the user's choice, or `default`, the seed tasks of a run, without one.

    A file has a form of seed tasks (docs/seeds.md), such as Alpaca's. Raises UserError in one line if it can't be read,
    or if a file of the user's choice has fewer than MIN_TEXTS tasks.
    """
    if path is None and not default.is_file():
        raise UserError(
            f"{default} is missing, and Figure 4 compares the generated pairs with the seed tasks in it: put the file "
            f"back, or name other tasks with {option('reference')} FILE"
        )
    tasks = load_seed_file(path or default, name="reference" if path else "seed tasks").tasks
    if path and len(tasks) < MIN_TEXTS:
        raise UserError(f"reference {path}: {len(tasks)} found, {MIN_TEXTS} needed; give a file with more tasks")
    texts = tuple(task_text(task) for task in tasks)
    name = path.name if path else "the run's own seed tasks"
    return ReferenceTexts(f"{name} ({len(texts)} texts)", texts, by_model)


def task_text(task: SeedTask) -> str:
    """Return instruction, input and output as one text, as stages/measure.py embeds a pair."""
    return f"{user_turn(task.instruction, task.input)}\n{task.output}"


@contextlib.contextmanager
def open_vectors(reference: ReferenceTexts, recipe: Recipe, backend: Backend = DEFAULT_BACKEND) -> Iterator[Vectors]:
    """Yield the function that turns texts into vectors, in the way that the reference asks for."""
    if not reference.by_model:
        yield WordFeatures(sample_texts(reference.texts), recipe.language)
        return
    chat = backend.load_chat_template(*recipe.chat_arguments)
    engine = backend.open_engine(recipe, Model(recipe.model))
    try:
        yield lambda texts: engine.embed([plain_prompt(text, chat) for text in texts])
    finally:
        engine.close()
