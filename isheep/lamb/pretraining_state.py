"""The state of a pretraining: saved, read, and exported as a checkpoint."""

import copy
import re
import shutil
from pathlib import Path
from typing import Any

from isheep.errors import UserError
from isheep.lamb.model import make_model
from isheep.lamb.shapes import DEFAULT_SIZE, SHAPES

STATE_FILE = "state.pt"


def resume(model: Any, optimizers: list[Any], output_dir: Path) -> tuple[int, int]:
    """Load the state in `output_dir` and return its numbers of tokens and steps; (0, 0) if there is none."""
    state = read_state(output_dir)
    if state is None:
        return 0, 0
    model.load_state_dict(state["model"])
    for optimizer, values in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(values)
    return state["done"], state["step"]


def read_state(output_dir: Path) -> dict[str, Any] | None:
    """Return the state in a folder; None if there is none.

    States of earlier versions don't name their size and learning rate.
    """
    import torch

    path = output_dir / STATE_FILE
    return {"size": DEFAULT_SIZE, **torch.load(path, map_location="cpu", weights_only=True)} if path.exists() else None


def save(
    model: Any, optimizers: list[Any], num_tokens: int, step: int, size: str, learning_rate: float, output_dir: Path
) -> None:
    """Write the state so that the file is always complete."""
    import torch

    state = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "done": num_tokens,
        "step": step,
        "size": size,
        "learning_rate": learning_rate,
    }
    part = output_dir / f"{STATE_FILE}.part"
    torch.save(state, part)
    part.rename(output_dir / STATE_FILE)


def export(model: Any, output_dir: Path) -> None:
    """Write the checkpoint as isheep includes it: safetensors in bfloat16, computed in float32."""
    import torch

    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(output_dir)


def export_state(pretraining_dir: Path, output_dir: Path) -> Path:
    """Write the last saved state of a pretraining that is under way as a checkpoint, which can be probed."""
    from transformers import AutoTokenizer

    state = read_state(pretraining_dir)
    if state is None:
        raise UserError(f"{pretraining_dir} has no {STATE_FILE}: give the --out of isheep lamb pretrain")
    model = make_model(len(AutoTokenizer.from_pretrained(pretraining_dir)), SHAPES[state["size"]], 1)
    model.load_state_dict(state["model"])
    output_dir.mkdir(parents=True, exist_ok=True)
    for path in pretraining_dir.iterdir():
        if re.match(r"(tokenizer|chat_template)", path.name):
            shutil.copy(path, output_dir)
    export(model, output_dir)
    return output_dir
