"""Checks of an adapter folder before it is loaded, so that a damaged one is named in one line."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isheep.errors import UserError, describe_exception, excerpt, is_out_of_memory, one_line
from isheep.files.json_files import parse_json
from isheep.files.reading import read_small_text
from isheep.models.declared_sizes import read_shapes

WEIGHTS, CONFIG, TRAINING_RECORD = "adapter_model.safetensors", "adapter_config.json", "training.json"


def check_adapter(adapter: Path) -> dict[str, Any]:
    """Return the content of adapter_config.json, after checking that the folder holds an adapter that can be loaded.

    Raises UserError if a file is missing or damaged, if the configuration asks for a rank that no matrix of the weights
    can have, or if rank or alpha are not those that the adapter was trained with. Of the weights only the header is
    read, which says how long the file must be.
    """
    config = _read_config(adapter)
    _check_ranks(adapter, config)
    trained = _trained_lora(adapter)
    for key, expected in (("r", trained.get("rank")), ("lora_alpha", trained.get("alpha"))):
        if expected is not None and config.get(key) != expected:
            raise UserError(
                f"{adapter / CONFIG}: {key} is {config.get(key)}, and the adapter was trained with {expected} "
                f"({TRAINING_RECORD} beside it): {_way_out(adapter)}"
            )
    return config


def load_adapter(model: Any, adapter: Path, is_trainable: bool = False) -> Any:
    """Return a model of transformers with a LoRA adapter. Raises UserError if the adapter does not fit the model."""
    check_adapter(adapter)
    from peft import PeftModel

    try:
        with warnings.catch_warnings():
            # peft reads a property of transformers that will have another name.
            warnings.simplefilter("ignore", FutureWarning)
            return PeftModel.from_pretrained(model, str(adapter), is_trainable=is_trainable)
    # A configuration of another base, or one that was edited, may raise any exception.
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = one_line(describe_exception(error))
        raise UserError(f"adapter {adapter} can't be put on its base: {reason}; {_way_out(adapter)}") from error


def _read_config(adapter: Path) -> dict[str, Any]:
    path = adapter / CONFIG
    if not path.is_file():
        raise UserError(f"adapter {str(adapter)!r} has no {CONFIG}: {_way_out(adapter)}")
    try:
        config = parse_json(read_small_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({one_line(error)}); {_way_out(adapter)}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: an object is needed, found {excerpt(config)}; {_way_out(adapter)}")
    if not _is_lora(config):
        return config
    alpha = config.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or alpha <= 0:
        raise UserError(f"{path}: lora_alpha must be a number above 0, found {excerpt(alpha)}; {_way_out(adapter)}")
    return config


def _is_lora(config: Mapping[str, Any]) -> bool:
    """Return whether an adapter is a LoRA. A trainer of the user's own may write another kind that peft loads."""
    return bool(config.get("peft_type", "LORA") == "LORA")


def _check_ranks(adapter: Path, config: Mapping[str, Any]) -> None:
    # Without this file peft would unpickle an adapter_model.bin, which can execute code.
    if not (adapter / WEIGHTS).is_file():
        raise UserError(f"adapter {str(adapter)!r} has no {WEIGHTS}: give a LoRA's folder")
    try:
        shapes = read_shapes(adapter / WEIGHTS)
    except UserError as error:
        raise UserError(f"{error}; {_way_out(adapter)}") from None
    if not shapes:
        raise UserError(f"{adapter / WEIGHTS}: it holds no weights; {_way_out(adapter)}")
    if not _is_lora(config):
        return
    largest = max((size for shape in shapes.values() for size in shape), default=0)
    pattern = config.get("rank_pattern") or {}
    ranks = {"r": config.get("r")} | (pattern if isinstance(pattern, dict) else {"rank_pattern": str(pattern)})
    for name, rank in ranks.items():
        if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= largest:
            raise UserError(
                f"{adapter / CONFIG}: {name} is {excerpt(rank)}, and {WEIGHTS} has no matrix of that rank; "
                f"{_way_out(adapter)}"
            )


def _trained_lora(adapter: Path) -> dict[str, Any]:
    """Return rank and alpha of the training that began this adapter; {} if there is no record, or it says nothing.

    A training that goes on with an earlier adapter keeps that one's.
    """
    try:
        record = json.loads((adapter / TRAINING_RECORD).read_text(encoding="utf-8"))
        lora = {} if record["starts_from_adapter"] else record["settings"]["lora"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return lora if isinstance(lora, dict) else {}


def _way_out(adapter: Path) -> str:
    if adapter.name != "adapter":
        return "give the folder of a LoRA that peft has written"
    return f"put it back as it was, or delete {adapter} and train it again (isheep run, or isheep redo --from training)"
