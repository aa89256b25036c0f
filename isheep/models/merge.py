"""Merge an adapter on the CPU, in copies of the base's files, with one tensor in memory at a time."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from isheep.models.adapter_check import check_adapter
from isheep.models.adapter_files import WEIGHTS, load_training_tokenizer, save_tokenizer
from isheep.models.chat_template import ChatTemplate
from isheep.models.checkpoint import base_end_ids, find_checkpoint, generation_config, load_pretrained
from isheep.models.hub import check_hub
from isheep.records import Model

INDEX = "model.safetensors.index.json"

FLOAT_TYPES = ("F64", "F32", "F16", "BF16")
"""The types of tensors to which a product can be added; quantized ones are not among them."""

PEFT_PREFIX = "base_model.model."
"""What peft puts before the names of weights."""

LORA_KEYS = {
    "base_model_name_or_path", "bias", "exclude_modules", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "lora_alpha", "lora_dropout", "megatron_core", "peft_type", "peft_version",
    "qalora_group_size", "r", "revision", "target_modules", "task_type",
}  # fmt: skip
"""Keys of adapter_config.json under which the adapter is W + alpha/r B A; any other key that is set changes that."""

LORA_VALUES: dict[str, list[Any]] = {
    "bias": ["none"],
    "init_lora_weights": [True, False, "gaussian"],
    "peft_type": ["LORA"],
}
"""The values that these keys must have for the same reason."""


class Delta(NamedTuple):
    """What an adapter adds to a weight: scale B A, with A and B by their names in the adapter's file."""

    a: str
    b: str
    scale: float


def merge_adapter(model: Model, chat_template: ChatTemplate, output_dir: Path) -> None:
    """Write a checkpoint with the adapter of `model` in its weights, which plain transformers loads.

    It has the chat template, whose end token ends an answer, as do the base's own end tokens. W + alpha/r B A is
    computed in float32 and rounded to the type in which W is stored; with bfloat16, base and adapter side by side are
    more exact. The base's safetensors files are copied and the weights changed in the copies, so one tensor is in
    memory and never the model. If that is not possible (an adapter other than plain LoRA, a checkpoint with other names
    or types than its model), peft merges the whole model in memory.
    """
    from transformers import AutoConfig

    tokenizer, config = load_training_tokenizer(model, chat_template), load_pretrained(model.base, AutoConfig)
    save_tokenizer(tokenizer, chat_template, model.base, output_dir)
    end_ids = merged_end_ids(model.base, tokenizer.convert_tokens_to_ids(chat_template.end))
    files, deltas = _weight_files(model.base), _read_deltas(model.adapter)
    if deltas is None or not deltas.keys() <= {name for file in files for name in _tensor_offsets(file)}:
        return _merge_whole(model, end_ids, output_dir)
    for file in files:
        shutil.copyfile(file, output_dir / file.name)
        if model.adapter:
            _add_deltas(model.adapter / WEIGHTS, deltas, output_dir / file.name)
    if len(files) > 1:
        shutil.copyfile(files[0].with_name(INDEX), output_dir / INDEX)
    generation = generation_config(model.base)
    config.eos_token_id = generation.eos_token_id = end_ids
    config.save_pretrained(output_dir)
    generation.save_pretrained(output_dir)


def merged_end_ids(base: str, end_id: int) -> int | list[int]:
    """Return the ids that end an answer of a merged checkpoint: the base's own and `end_id`, as a config holds them."""
    base_ids = base_end_ids(base)
    end_ids = base_ids if end_id in base_ids else [*base_ids, end_id]
    return end_ids if len(end_ids) > 1 else end_ids[0]


def _weight_files(base: str) -> list[Path]:
    """Return the safetensors files of a base on this disk; an empty list if it has other ones."""
    if single := _find_file(base, "model.safetensors"):
        return [single]
    index = _find_file(base, INDEX)
    if index is None:
        return []
    names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return [path for name in sorted(names) if (path := _find_file(base, name))]


def _find_file(base: str, name: str) -> Path | None:
    from transformers.utils.hub import cached_file

    checkpoint = find_checkpoint(base)
    check_hub(checkpoint)
    path = cached_file(checkpoint, name, _raise_exceptions_for_missing_entries=False)
    return Path(path) if path else None


def _read_deltas(adapter: Path | None) -> dict[str, Delta] | None:
    """Return what is added to each weight, by the weight's name; None if the adapter is more than plain LoRA."""
    from safetensors import safe_open

    if adapter is None:
        return {}
    config = check_adapter(adapter)
    unknown_keys = {key for key, value in config.items() if value} - LORA_KEYS
    if unknown_keys or any(config.get(key) not in values for key, values in LORA_VALUES.items()):
        return None
    with safe_open(adapter / WEIGHTS, "pt") as tensors:
        names = set(tensors.keys())
    modules = {name.removeprefix(PEFT_PREFIX).rpartition(".lora_")[0] for name in names}
    scale = config["lora_alpha"] / config["r"]
    deltas = {
        f"{module}.weight": Delta(f"{PEFT_PREFIX}{module}.lora_A.weight", f"{PEFT_PREFIX}{module}.lora_B.weight", scale)
        for module in modules
    }
    covered_names = {name for delta in deltas.values() for name in (delta.a, delta.b)}
    return deltas if covered_names == names else None


def _tensor_offsets(file: Path) -> dict[str, int]:
    """Return the byte offset of each tensor of FLOAT_TYPES in a safetensors file, by its name.

    The file begins with the length of a JSON header in 8 bytes; the header gives types, shapes, and offsets relative to
    its own end.
    """
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    return {
        name: 8 + length + tensor["data_offsets"][0]
        for name, tensor in header.items()
        if name != "__metadata__" and tensor["dtype"] in FLOAT_TYPES
    }


def _add_deltas(adapter: Path, deltas: Mapping[str, Delta], file: Path) -> None:
    """Add the adapter to the weights in a file, in place."""
    import torch
    from safetensors import safe_open

    offsets = _tensor_offsets(file)
    for name in sorted(deltas.keys() & offsets.keys(), key=offsets.__getitem__):
        delta = deltas[name]
        with safe_open(adapter, "pt") as adapter_tensors, safe_open(file, "pt") as base_tensors:
            weight = base_tensors.get_tensor(name)
            a, b = adapter_tensors.get_tensor(delta.a).float(), adapter_tensors.get_tensor(delta.b).float()
            product = b @ a * delta.scale
        merged = (weight.float() + product).to(weight.dtype)
        with file.open("r+b") as stream:
            stream.seek(offsets[name])
            stream.write(merged.view(torch.uint8).numpy().data)


def _merge_whole(model: Model, end_ids: int | list[int], output_dir: Path) -> None:
    """Let peft merge the whole model in memory."""
    import torch
    from transformers import AutoConfig

    from isheep.models.checkpoint import load_model

    dtype = load_pretrained(model.base, AutoConfig).dtype or torch.float32
    merged: Any = load_model(model, "float32").to(dtype)
    merged.config.eos_token_id = merged.generation_config.eos_token_id = end_ids
    merged.save_pretrained(output_dir, safe_serialization=True)
