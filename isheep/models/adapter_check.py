"""Checks of an adapter folder before it is loaded, so that a damaged one is named in one line."""

import json
from pathlib import Path
from typing import Any

from isheep.errors import UserError, describe_exception, excerpt, is_out_of_memory, one_line

WEIGHTS, CONFIG, TRAINING_RECORD = "adapter_model.safetensors", "adapter_config.json", "training.json"


def check_adapter(adapter: Path) -> dict[str, Any]:
    """Return the content of adapter_config.json, after checking that the folder holds an adapter that can be loaded.

    Raises UserError if a file is missing or damaged, or if rank or alpha are not those that the adapter was trained
    with. Of the weights only the header is read, which says how long the file must be.
    """
    config = _read_config(adapter)
    _check_weights(adapter)
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
        return PeftModel.from_pretrained(model, str(adapter), is_trainable=is_trainable)
    except (RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
        if is_out_of_memory(error):
            raise
        reason = one_line(describe_exception(error))
        raise UserError(f"adapter {adapter} can't be put on its base: {reason}; {_way_out(adapter)}") from error


def _read_config(adapter: Path) -> dict[str, Any]:
    path = adapter / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"adapter {str(adapter)!r} has no {CONFIG}: {_way_out(adapter)}") from None
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path}: not JSON ({one_line(error)}); {_way_out(adapter)}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: an object is needed, found {excerpt(config)}; {_way_out(adapter)}")
    result: dict[str, Any] = config
    # A trainer of the user's own may write another kind of adapter that peft loads.
    for key in ("r", "lora_alpha") if config.get("peft_type", "LORA") == "LORA" else ():
        value = config.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise UserError(f"{path}: {key} must be a number above 0, found {value!r}; {_way_out(adapter)}")
    return result


def _check_weights(adapter: Path) -> None:
    from safetensors import SafetensorError, safe_open

    # Without this file peft would unpickle an adapter_model.bin, which can execute code.
    if not (adapter / WEIGHTS).is_file():
        raise UserError(f"adapter {str(adapter)!r} has no {WEIGHTS}: give a LoRA's folder")
    try:
        with safe_open(adapter / WEIGHTS, framework="numpy") as weights:
            names = weights.keys()
    except (SafetensorError, OSError) as error:
        raise UserError(f"{adapter / WEIGHTS} is damaged ({one_line(error)}); {_way_out(adapter)}") from None
    if not names:
        raise UserError(f"{adapter / WEIGHTS} is damaged: it holds no weights; {_way_out(adapter)}")


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
