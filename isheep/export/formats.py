"""Write pairs in the usual formats of datasets, and checkpoints with the adapter merged in."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from isheep.errors import UserError
from isheep.export import ollama
from isheep.models.chat_template import ChatTemplate
from isheep.models.checkpoint import start_text
from isheep.models.gguf_file import write_gguf
from isheep.recipe.schema import Recipe
from isheep.records import AssessedPair, Model, Pair, Turns, history_turns, user_turn
from isheep.rundir.atomic import commit_folder, write_json_list, write_text
from isheep.rundir.training_file import TrainingRow
from isheep.trainers import llamafactory
from isheep.trainers.adapter_dir import TRAINING_RECORD

Row = Pair | TrainingRow

GGUF_FILE = "model.gguf"
ADAPTER_CONFIG = "adapter_config.json"
CARD_FILE = "README.md"
"""The name of a card on the Hugging Face Hub."""


def write_dataset(rows: Sequence[Row], format_name: str, path: Path) -> None:
    """Write rows as one JSON list, each in a format of FORMATS.

    Raises UserError if there is no such format, and if "paper" is chosen for rows without ratings.
    """
    if format_name not in FORMATS:
        raise UserError(f"export format {format_name!r} is not known: take one of {', '.join(FORMATS)}")
    write_json_list(path, (FORMATS[format_name](row) for row in rows))


def write_llamafactory_folder(recipe: Recipe, start_model: Model, rows: Sequence[Row], output_dir: Path) -> None:
    """Write the files from which LLaMA-Factory trains the next model.

    It does so by `cd output_dir && llamafactory-cli train sft.yaml` on one GPU, beginning with `start_model`. Of more
    rows than the recipe takes LLaMA-Factory takes the first ones.
    """
    training = recipe.training
    settings = llamafactory.sft_settings(start_model, recipe.chat_template, training, recipe.seed) | {
        "max_samples": training.num_rows or training.max_rows,
        "val_size": training.held_out,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": training.batch_size,
        "bf16": True,
    }
    llamafactory.write_input_files(output_dir, {llamafactory.TRAIN_DATASET: rows}, settings)


def write_merged_checkpoint(model: Model, chat: ChatTemplate, output_dir: Path, card: str | None = None) -> None:
    """Write the base with the adapter of `model` merged into its weights, the tokenizer, the chat template and a card.

    Plain transformers loads the folder. It is written completely or not at all. Raises UserError if it exists.
    """
    from isheep.models.merge import merge_adapter

    with new_folder(output_dir, "the merged checkpoint") as part:
        merge_adapter(model, chat, part)
        if card:
            write_text(part / CARD_FILE, card)


def write_adapter_folder(adapter: Path, base: str, output_dir: Path, card: str) -> None:
    """Write the files of an adapter that others need, which name its base `base`, and its card.

    The folder is written completely or not at all. Raises UserError if it exists.
    """
    with new_folder(output_dir, "the adapter") as part:
        for path in adapter.iterdir():
            if path.name != TRAINING_RECORD:
                shutil.copyfile(path, part / path.name)
        config = json.loads((part / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = base
        write_text(part / ADAPTER_CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")
        write_text(part / CARD_FILE, card)


@contextlib.contextmanager
def new_folder(output_dir: Path, content: str) -> Iterator[Path]:
    """Yield the folder to write into; it gets the name `output_dir` at the end. Raises UserError if that exists."""
    if output_dir.exists():
        raise UserError(f"{output_dir} exists: give another folder for {content}, or remove it")
    part = output_dir.with_name(f"{output_dir.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    commit_folder(part)


def write_gguf_folder(model: Model, chat: ChatTemplate, output_dir: Path) -> None:
    """Write model.gguf with the adapter of `model` merged in, and a Modelfile for Ollama.

    The folder is written completely or not at all. Raises UserError if it exists.
    """
    from isheep.models.merge import merge_adapter

    if output_dir.exists():
        raise UserError(f"{output_dir} exists: give another folder for the GGUF file, or remove it")
    part, checkpoint = (output_dir.with_name(f"{output_dir.name}.{ending}") for ending in ("part", "checkpoint.part"))
    for folder in (part, checkpoint):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    try:
        merge_adapter(model, chat, checkpoint)
        write_gguf(checkpoint, chat.tokenizer, chat.end, part / GGUF_FILE)
    except BaseException:
        shutil.rmtree(part)
        raise
    finally:
        shutil.rmtree(checkpoint)
    write_text(part / "Modelfile", ollama.modelfile(GGUF_FILE, chat, start_text(chat.tokenizer)))
    commit_folder(part)


# --- formats of a row


def sharegpt_row(row: Row) -> dict[str, Any]:
    """Return a row in the form of ShareGPT: a conversation of a human and gpt."""
    speakers = {"user": "human", "assistant": "gpt"}
    return {"conversations": [{"from": speakers[role], "value": text} for role, text in _dialogue(row)]}


def messages_row(row: Row) -> dict[str, Any]:
    """Return a row as messages of a user and an assistant, as chat templates read them."""
    return {"messages": [{"role": role, "content": text} for role, text in _dialogue(row)]}


def _dialogue(row: Row) -> Turns:
    """Return all turns of a row with the output as the last one."""
    user_text = user_turn(row.instruction, row.input)
    return [*history_turns(row.history), ("user", user_text), ("assistant", row.output)]


def paper_row(row: Row) -> dict[str, Any]:
    """Return a row with the keys of Appendix B, Table 6: Alpaca's, and the scores, null if they can't be parsed.

    Raises UserError if the row has no ratings.
    """
    if not isinstance(row, AssessedPair):
        raise UserError("the pairs have no ratings, which the format 'paper' shows: export them as alpaca")
    scores = {f"{name}_score": _without_fraction(grade.score) for name, grade in row.grades.items()}
    return llamafactory.alpaca_row(row) | scores


def _without_fraction(score: float | None) -> float | None:
    """Return 8 rather than 8.0, as the paper prints scores."""
    return int(score) if score is not None and score.is_integer() else score


FORMATS: dict[str, Callable[[Row], dict[str, Any]]] = {
    "alpaca": llamafactory.alpaca_row,
    "sharegpt": sharegpt_row,
    "messages": messages_row,
    "paper": paper_row,
}
