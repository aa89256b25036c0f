"""Merging on the CPU: the base's files as they are, with the adapter added in place, one tensor in memory at a time."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from isheep.models.adapter_files import WEIGHTS, load_training_tokenizer, save_tokenizer
from isheep.models.chat_template import ChatTemplate
from isheep.models.checkpoint import find_checkpoint, generation_config, load_pretrained
from isheep.records import Model

INDEX = "model.safetensors.index.json"
TYPES = ("F64", "F32", "F16", "BF16")  # stored as what they are: W can be added to
PREFIX = "base_model.model."  # of peft's names
# Keys of an adapter_config.json under which W + alpha/r B A is still all of it; any other that says something is not.
PLAIN = {
    "base_model_name_or_path", "bias", "exclude_modules", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "lora_alpha", "lora_dropout", "megatron_core", "peft_type", "peft_version",
    "qalora_group_size", "r", "revision", "target_modules", "task_type",
}  # fmt: skip
SAID: dict[str, list[Any]] = {"bias": ["none"], "init_lora_weights": [True, False, "gaussian"], "peft_type": ["LORA"]}


class Delta(NamedTuple):
    """What an adapter adds to a weight: scale B A."""

    a: str
    b: str
    scale: float


def merge_adapter(model: Model, chat: ChatTemplate, into: Path) -> None:
    """A checkpoint with the adapter of `model` in its weights, in the folder `into`: plain transformers loads it,
    knows the chat template, and stops where an answer ends.

    W + alpha/r B A is computed in float32 and rounded to the type that W is stored in: where that is bfloat16, base and
    adapter side by side are more exact. The base's safetensors files are copied and the weights changed in the copies,
    so one tensor is in memory and never the model. Where that can't be (an adapter other than plain LoRA, a checkpoint
    with other names or types than its model), peft merges the whole model in memory.
    """
    from transformers import AutoConfig

    tokenizer, config = load_training_tokenizer(model, chat), load_pretrained(model.base, AutoConfig)
    save_tokenizer(tokenizer, chat, into)
    files, deltas = _weights(model.base), _deltas(model.adapter)
    if deltas is None or not deltas.keys() <= {name for file in files for name in _places(file)}:
        return _merge_whole(model, tokenizer.eos_token_id, into)
    for file in files:
        shutil.copyfile(file, into / file.name)
        if model.adapter:
            _add(model.adapter / WEIGHTS, deltas, into / file.name)
    if len(files) > 1:
        shutil.copyfile(files[0].with_name(INDEX), into / INDEX)
    generation = generation_config(model.base)
    config.eos_token_id = generation.eos_token_id = tokenizer.eos_token_id
    config.save_pretrained(into)
    generation.save_pretrained(into)


def _weights(base: str) -> list[Path]:
    """The safetensors files of a base, on this disk; none where it has other ones."""
    if whole := _file(base, "model.safetensors"):
        return [whole]
    index = _file(base, INDEX)
    names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()) if index else set()
    return [found for name in sorted(names) if (found := _file(base, name))]


def _file(base: str, name: str) -> Path | None:
    from transformers.utils.hub import cached_file

    found = cached_file(find_checkpoint(base), name, _raise_exceptions_for_missing_entries=False)
    return Path(found) if found else None


def _deltas(adapter: Path | None) -> dict[str, Delta] | None:
    """What is added to which weight, by the weight's name; None where that is not all that the adapter does."""
    from safetensors import safe_open

    if adapter is None:
        return {}
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    other = {key for key, value in config.items() if value} - PLAIN
    if other or any(config.get(key) not in values for key, values in SAID.items()):
        return None
    with safe_open(adapter / WEIGHTS, "pt") as stored:
        names = list(stored.keys())
    halves = {name.removeprefix(PREFIX).rpartition(".lora_")[0] for name in names}
    scale = config["lora_alpha"] / config["r"]
    found = {
        f"{half}.weight": Delta(f"{PREFIX}{half}.lora_A.weight", f"{PREFIX}{half}.lora_B.weight", scale)
        for half in halves
    }
    return found if {name for one in found.values() for name in (one.a, one.b)} == set(names) else None


def _places(file: Path) -> dict[str, int]:
    """Where each tensor of a safetensors file begins in it, by its name; those that can't be added to left out.

    The file begins with the length of a JSON header in 8 bytes; the header has types, shapes and places after it.
    """
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
    return {
        name: 8 + length + told["data_offsets"][0]
        for name, told in header.items()
        if name != "__metadata__" and told["dtype"] in TYPES
    }


def _add(adapter: Path, deltas: Mapping[str, Delta], file: Path) -> None:
    """Change the weights in a file in place."""
    import torch
    from safetensors import safe_open

    places = _places(file)
    for name in sorted(deltas.keys() & places.keys(), key=places.__getitem__):
        delta = deltas[name]
        with safe_open(adapter, "pt") as added, safe_open(file, "pt") as stored:
            weight = stored.get_tensor(name)
            product = added.get_tensor(delta.b).float() @ added.get_tensor(delta.a).float() * delta.scale
        merged = (weight.float() + product).to(weight.dtype)
        with file.open("r+b") as opened:
            opened.seek(places[name])
            opened.write(merged.view(torch.uint8).numpy().data)


def _merge_whole(model: Model, end: int, into: Path) -> None:
    import torch
    from transformers import AutoConfig

    from isheep.models.checkpoint import load_model

    stored = load_pretrained(model.base, AutoConfig).dtype or torch.float32
    merged: Any = load_model(model, "float32").to(stored)
    merged.config.eos_token_id = merged.generation_config.eos_token_id = end
    merged.save_pretrained(into, safe_serialization=True)
