"""The adapter folder that every trainer writes: weights, tokenizer with the chat template, training.json."""

import json
import shutil
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from isheep.errors import UserError
from isheep.models.adapter_files import WEIGHTS, save_tokenizer
from isheep.models.chat_template import ChatTemplate
from isheep.recipe.schema import Training
from isheep.records import Model
from isheep.rundir.atomic import write_text
from isheep.rundir.training_file import TrainingData, training_file_sha256
from isheep.trainers.rows import TrainingExamples

TRAINING_RECORD = "training.json"
"""Written last: if it exists, the adapter folder is complete."""

TRAINING_FILE_HASH = "training_file.sha256"
"""Exists while a training runs: the hash of the training file that the checkpoints beside it learned from."""

NEWER_SETTINGS = ("quantize", "order", "weigh", "end", "steps_of")
LOSS_NAMES = {"loss": "loss", "eval_loss": "held-out loss"}
"""What the losses of training.json and of transformers' logs are called in the progress and in trackers."""

Losses = dict[str, list[list[float]]]
"""loss and eval_loss, each as a list of [step, value]."""


@dataclass(frozen=True)
class TrainingRequest:
    """What a trainer learns, from which model it starts, and the folder in which it writes the adapter."""

    start_model: Model
    data: TrainingData
    chat_template: ChatTemplate
    training: Training
    seed: int
    output_dir: Path


class TrainingResult(NamedTuple):
    """The number of optimizer steps, the step whose weights are kept, and the losses."""

    num_steps: int
    kept_step: int
    losses: Losses


def is_complete(output_dir: Path) -> bool:
    return (output_dir / TRAINING_RECORD).exists()


def pin_training_file(request: TrainingRequest) -> None:
    """Record the hash of the training file at the start of a training.

    Raises UserError if an earlier call, whose checkpoints this one would resume from, began with another content.
    """
    data, path = request.data, request.output_dir / TRAINING_FILE_HASH
    if is_complete(request.output_dir):
        check_training_file(request.output_dir, data.path)
    elif not path.exists():
        write_text(path, f"{data.sha256}\n")
    elif path.read_text(encoding="utf-8").strip() != data.sha256:
        raise UserError(
            f"{data.path} has changed since training on it began: "
            f"restore it, or delete {request.output_dir} to train on the changed file"
        )


def check_training_file(adapter_dir: Path, training_file: Path) -> None:
    """Raise UserError if a finished adapter was trained on another content of the training file.

    An adapter whose training.json holds no hash (isheep 0.1.0 wrote none) is accepted.
    """
    path = adapter_dir / TRAINING_RECORD
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    recorded_sha256 = record.get("training_file_sha256")
    if recorded_sha256 is not None and recorded_sha256 != training_file_sha256(training_file):
        raise UserError(
            f"{training_file} has changed since {adapter_dir} was trained on it: "
            f"restore it, or delete {adapter_dir} and everything made with it to train on the changed file"
        )


def read_result(trainer_state: Path, training: Training) -> TrainingResult:
    """Read steps and losses from a trainer_state.json of transformers. Raises UserError if a loss is not finite."""
    state = json.loads(trainer_state.read_text(encoding="utf-8"))
    losses = _read_losses(state["log_history"])
    last_step: int = state["global_step"]
    keep_best = training.keep == "best" and losses["eval_loss"]
    return TrainingResult(last_step, state["best_global_step"] if keep_best else last_step, losses)


def _read_losses(log_history: list[dict[str, Any]]) -> Losses:
    losses: Losses = {
        name: [[entry["step"], entry[name]] for entry in log_history if name in entry] for name in LOSS_NAMES
    }
    for name, values in losses.items():
        for step, value in values:
            if not isfinite(value):
                raise UserError(
                    f"the training's {name} is {value} at step {step}: "
                    "start again with a new run folder and a lower training.learning_rate"
                )
    return losses


def write_adapter(
    request: TrainingRequest, examples: TrainingExamples, tokenizer: Any, result: TrainingResult, weights_dir: Path
) -> None:
    """Write the adapter folder, its weights copied from `weights_dir`; training.json last."""
    output_dir = request.output_dir
    shutil.copyfile(weights_dir / WEIGHTS, output_dir / WEIGHTS)
    config = json.loads((weights_dir / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = request.start_model.base
    # peft keeps the modules in a set, whose order differs from one process to the next.
    config["target_modules"] = sorted(config["target_modules"])
    write_text(output_dir / "adapter_config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_tokenizer(tokenizer, request.chat_template, request.start_model.base, output_dir)
    record = _training_record(request, examples, result)
    write_text(output_dir / TRAINING_RECORD, json.dumps(record, indent=1) + "\n")


def _training_record(request: TrainingRequest, examples: TrainingExamples, result: TrainingResult) -> dict[str, Any]:
    """Return the content of training.json: what was trained, on what, and how the losses went."""
    # Keys that isheep did not have from the start are written only if they are set, so that old records stay equal.
    newer = {name for name in NEWER_SETTINGS if getattr(request.training, name) == getattr(Training(), name)}
    # `start` and `data` only decide which model and which rows the trainer is given.
    excluded = {"start", "data", *newer}
    return {
        "base": request.start_model.base,
        "chat": request.chat_template.name,
        "seed": request.seed,
        "training_file_sha256": request.data.sha256,
        "starts_from_adapter": request.start_model.adapter is not None,
        "settings": request.training.model_dump(exclude=excluded),
        "rows": {
            "sampled": examples.num_selected,
            "prompt_too_long": examples.num_too_long,
            "trained": len(examples.train),
            "held_out": len(examples.held_out),
        },
        "steps": result.num_steps,
        "kept_step": result.kept_step,
        **result.losses,
    }


def remove_training_files(output_dir: Path, names: tuple[str, ...]) -> None:
    """Remove the files that only a training in progress needs: those in `names`, and the training file's hash."""
    for name in (*names, TRAINING_FILE_HASH):
        (output_dir / name).unlink(missing_ok=True)
