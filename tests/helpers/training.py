"""Training files and trainings for tests."""

import json
from collections.abc import Iterable
from pathlib import Path

from isheep.models.chat_template import ChatTemplate, load_chat_template
from isheep.recipe.machine import Machine
from isheep.recipe.schema import Training
from isheep.records import Model
from isheep.rundir.training_file import TrainingRow
from isheep.trainers import peft


def numbered_rows(count: int) -> list[TrainingRow]:
    """Return rows that all differ, with outputs of three lengths."""
    return [TrainingRow(instruction=f"Say {n}", output=f"It is {n}." * (1 + n % 3)) for n in range(count)]


def save_rows(path: Path, rows: Iterable[TrainingRow]) -> Path:
    """Write a training file and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([row.model_dump() for row in rows], ensure_ascii=False), encoding="utf-8")
    return path


def train_peft(
    model: Model,
    rows: Iterable[TrainingRow],
    chat_template: ChatTemplate,
    training: Training,
    output_dir: Path,
    machine: Machine | None = None,
) -> None:
    """Train with the peft trainer, seed 1, on a training file beside `output_dir`; by default on one thread."""
    training_file = save_rows(output_dir.with_name(f"{output_dir.name}.json"), rows)
    peft.train(model, training_file, chat_template, training, 1, output_dir, machine or Machine(threads=1))


def chat_of(checkpoint: Path) -> ChatTemplate:
    """Return the chat template of a checkpoint's tokenizer."""
    return load_chat_template("tokenizer", str(checkpoint))
