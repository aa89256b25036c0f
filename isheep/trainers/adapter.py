"""What an adapter folder holds, whoever trained it: weights, tokenizer with the chat template, training.json."""

import json
import shutil
from math import isfinite
from pathlib import Path
from typing import Any

from isheep.errors import UserError
from isheep.models.adapter_files import WEIGHTS, save_tokenizer
from isheep.models.chat_template import ChatTemplate
from isheep.recipe.schema import Training
from isheep.records import Model
from isheep.rundir.atomic import write_text
from isheep.trainers.rows import TokenizedRows

TRAINING_RECORD = "training.json"  # written last: where it is, the adapter is complete


def training_record(
    model: Model, rows: TokenizedRows, chat: ChatTemplate, training: Training, seed: int
) -> dict[str, Any]:
    """What training.json says of what was trained, on what."""
    # What says only what this training was given, and what is not asked for.
    unsaid = {"start", "data"} | ({"quantize"} if training.quantize is None else set())
    return {
        "base": model.base,
        "chat": chat.name,
        "seed": seed,
        "goes_on": model.adapter is not None,
        "settings": training.model_dump(exclude=unsaid),
        "rows": {
            "sampled": rows.sampled,
            "prompt_too_long": rows.too_long,
            "trained": len(rows.train),
            "held_out": len(rows.held_out),
        },
    }


def read_losses(state: dict[str, Any]) -> dict[str, list[list[float]]]:
    """loss and eval_loss as [step, value] from a trainer_state.json. Raises UserError where one is no number."""
    losses = {
        name: [[entry["step"], entry[name]] for entry in state["log_history"] if name in entry]
        for name in ("loss", "eval_loss")
    }
    for name, values in losses.items():
        for step, value in values:
            if not isfinite(value):
                way = "with a new --out, lower training.learning_rate"
                raise UserError(f"training's {name} is {value} at step {step}: {way}")
    return losses


def write_adapter(
    into: Path, kept: Path, model: Model, chat: ChatTemplate, tokenizer: Any, result: dict[str, Any]
) -> None:
    """The adapter folder from the weights in the folder `kept`; training.json last."""
    shutil.copyfile(kept / WEIGHTS, into / WEIGHTS)
    config = json.loads((kept / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = model.base
    config["target_modules"] = sorted(config["target_modules"])  # peft keeps a set: its order differs from run to run
    write_text(into / "adapter_config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_tokenizer(tokenizer, chat, into)
    write_text(into / TRAINING_RECORD, json.dumps(result, indent=1) + "\n")
