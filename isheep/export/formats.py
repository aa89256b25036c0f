"""What others take away from a run: D^t in the usual forms, and checkpoints with the adapter merged in."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from isheep.errors import UserError
from isheep.models.chat_template import ChatTemplate
from isheep.recipe.schema import Recipe
from isheep.records import AssessedPair, Model, Pair
from isheep.rundir.atomic import commit_folder, write_json_list
from isheep.trainers import llamafactory as trainer


def write_dataset(pairs: Sequence[Pair], form: str, path: Path) -> None:
    """The pairs as one JSON list in `path`, each in `form`: a name in FORMS.

    Raises UserError where `form` is none of these, and where "paper" asks for ratings that the pairs don't have.
    """
    if form not in FORMATS:
        raise UserError(f"export form {form!r} is not known: take one of {', '.join(FORMATS)}")
    write_json_list(path, (FORMATS[form](pair) for pair in pairs))


def write_llamafactory_folder(recipe: Recipe, start: Model, pairs: Sequence[Pair], into: Path) -> None:
    """What LLaMA-Factory trains the next model from, for `cd into && llamafactory-cli train sft.yaml` on one GPU.

    `start` is the model that is trained. Of more rows than the recipe takes LLaMA-Factory takes the first.
    """
    training = recipe.training
    settings = trainer.sft_settings(start, recipe.chat_template, training, recipe.seed) | {
        "max_samples": training.num_rows or training.max_rows,
        "val_size": training.held_out,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": training.batch_size,
        "bf16": True,
    }
    trainer.write_input_files(into, {trainer.TRAIN_DATASET: pairs}, settings)


def write_merged_checkpoint(model: Model, chat: ChatTemplate, into: Path) -> None:
    """The base with the adapter of `model` in its weights, its tokenizer and template: plain transformers loads it.

    Complete or not there at all. Raises UserError where `into` exists.
    """
    from isheep.models.merge import merge_adapter

    if into.exists():
        raise UserError(f"{into} exists: give another folder for the merged checkpoint, or remove it")
    part = into.with_name(f"{into.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    merge_adapter(model, chat, part)
    commit_folder(part)


def sharegpt(pair: Pair) -> dict[str, Any]:
    """ShareGPT: a conversation of a human and gpt."""
    turns = {"human": pair.content, "gpt": pair.output}
    return {"conversations": [{"from": who, "value": text} for who, text in turns.items()]}


def messages(pair: Pair) -> dict[str, Any]:
    """Messages of a user and an assistant, as chat templates read them."""
    turns = {"user": pair.content, "assistant": pair.output}
    return {"messages": [{"role": role, "content": text} for role, text in turns.items()]}


def paper(pair: Pair) -> dict[str, Any]:
    """The keys of Appendix B, Table 6: Alpaca's and quality_score, following_score; null where it can't be read."""
    if not isinstance(pair, AssessedPair):
        raise UserError(f"pair {pair.id} has no ratings, which form 'paper' shows: export it as alpaca")
    scores = {f"{name}_score": _whole(grade.score) for name, grade in pair.grades.items()}
    return trainer.alpaca_row(pair) | scores


def _whole(score: float | None) -> float | None:
    """8 rather than 8.0, as the paper prints scores."""
    return int(score) if score is not None and score.is_integer() else score


FORMATS: dict[str, Callable[[Pair], dict[str, Any]]] = {
    "alpaca": trainer.alpaca_row,
    "sharegpt": sharegpt,
    "messages": messages,
    "paper": paper,
}
