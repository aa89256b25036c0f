"""What others take away from a run: D^t in the usual forms, and checkpoints with the adapter merged in."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from isheep.chat import Chat
from isheep.checkpoint import find
from isheep.errors import UserError
from isheep.files import finish_tree, write_text
from isheep.recipe import Recipe
from isheep.records import AssessedPair, Model, Pair

SYSTEM = "You are a helpful assistant."  # the system turn of qwen.jinja (Appendix E)


def write(pairs: Sequence[Pair], form: str, path: Path) -> None:
    """The pairs as one JSON list in `path`, each in `form`: a name in FORMS.

    Raises UserError where `form` is none of these, and where "paper" asks for ratings that the pairs don't have.
    """
    if form not in FORMS:
        raise UserError(f"export form {form!r} is not known: take one of {', '.join(FORMS)}")
    rows = [FORMS[form](pair) for pair in pairs]
    write_text(path, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")


def llamafactory(recipe: Recipe, start: Model, pairs: Sequence[Pair], into: Path) -> None:
    """What LLaMA-Factory trains the next model from: dataset_info.json, the pairs as Alpaca, and sft.yaml, Appendix E's
    settings as this recipe has them, for `cd into && llamafactory-cli train sft.yaml` on one GPU.

    `start` is the model that is trained. Of more rows than the recipe takes LLaMA-Factory takes the first.
    """
    training = recipe.training
    system = {"system": SYSTEM} if recipe.chat == "qwen" else {}  # whichever one its own template has
    rows = [alpaca(pair) | system for pair in pairs]
    columns = {"prompt": "instruction", "query": "input", "response": "output"} | {key: key for key in system}
    settings = {
        "model_name_or_path": find(start.base),
        "adapter_name_or_path": start.adapter and str(start.adapter.resolve()),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_target": "all",
        "lora_rank": training.lora.rank,
        "lora_alpha": training.lora.alpha,
        "lora_dropout": training.lora.dropout,
        "dataset_dir": ".",
        "dataset": "isheep",
        "template": None if recipe.chat == "tokenizer" else recipe.chat,  # without one it takes the tokenizer's
        "cutoff_len": training.cutoff,
        "max_samples": training.rows or training.at_most,
        "val_size": training.held_out,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": training.batch,
        "learning_rate": training.learning_rate,
        "num_train_epochs": training.epochs,
        "max_steps": training.max_steps,
        "lr_scheduler_type": training.scheduler,
        "warmup_steps": training.warmup_steps,
        "logging_steps": 10,
        "save_steps": training.eval_every,
        "eval_strategy": "steps" if training.held_out else "no",
        "eval_steps": training.eval_every,
        "load_best_model_at_end": training.keep == "best" and bool(training.held_out),
        "seed": recipe.seed,
        "bf16": True,
        "output_dir": "adapter",
    }
    info = {"isheep": {"file_name": "isheep.json", "formatting": "alpaca", "columns": columns}}
    write_text(into / "isheep.json", json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
    write_text(into / "dataset_info.json", json.dumps(info, indent=1) + "\n")
    said = {key: value for key, value in settings.items() if value is not None}
    write_text(into / "sft.yaml", yaml.safe_dump(said, sort_keys=False, allow_unicode=True))


def merged(model: Model, chat: Chat, into: Path) -> None:
    """The base with the adapter of `model` in its weights, its tokenizer and template: plain transformers loads it.

    Complete or not there at all. Raises UserError where `into` exists.
    """
    from isheep.trainers.merge import merge

    if into.exists():
        raise UserError(f"{into} exists: give another folder for the merged checkpoint, or remove it")
    part = into.with_name(f"{into.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    merge(model, chat, part)
    finish_tree(part)


def alpaca(pair: Pair) -> dict[str, Any]:
    """Stanford Alpaca: instruction, input, output."""
    return {"instruction": pair.instruction, "input": pair.input, "output": pair.output}


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
    return alpaca(pair) | scores


def _whole(score: float | None) -> float | None:
    """8 rather than 8.0, as the paper prints scores."""
    return int(score) if score is not None and score.is_integer() else score


FORMS: dict[str, Callable[[Pair], dict[str, Any]]] = {
    "alpaca": alpaca,
    "sharegpt": sharegpt,
    "messages": messages,
    "paper": paper,
}
