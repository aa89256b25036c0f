"""Where a model's files lie, and its tokenizer: what the engine, the trainer and the chat template share."""

import re
from pathlib import Path
from typing import Any

from isheep.errors import UserError
from isheep.records import Model

LAMB_CHECKPOINT = Path(__file__).parents[1] / "lamb" / "base"


def find_checkpoint(base: str) -> str:
    """The folder of `base`, or `base` itself where it can only be a name on the Hub. "lamb" is the embedded model.

    Raises UserError where `base` is a path without a checkpoint.
    """
    folder = Path(base).expanduser()
    if base == "lamb" and not (folder / "config.json").is_file():
        folder = LAMB_CHECKPOINT
    if (folder / "config.json").is_file():
        return str(folder)
    if folder.exists():
        raise UserError(f"model {base!r} is no checkpoint: {folder} has no config.json; give the folder that has one")
    if folder == LAMB_CHECKPOINT or not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", base):
        raise UserError(f"model {base!r} not found: {folder} does not exist; give a checkpoint's folder or a Hub name")
    return base


def load_pretrained(base: str, kind: Any, **settings: Any) -> Any:
    """`kind.from_pretrained` of `base`: safetensors only, no remote code. Raises UserError where it can't be loaded."""
    from torch import OutOfMemoryError

    try:
        return kind.from_pretrained(find_checkpoint(base), trust_remote_code=False, **settings)
    except OutOfMemoryError:  # it says nothing about the files
        raise
    except Exception as error:  # a broken config may raise anything at all
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"model {base!r} can't be loaded: {reason} Give a folder that holds a safetensors checkpoint"
            " with its tokenizer, or the name of one on the Hub that this machine can reach"
        ) from error


def load_tokenizer(base: str) -> Any:
    """The tokenizer of `base`. Raises UserError where there is none."""
    find_checkpoint(base)  # a wrong path is told before transformers is imported
    from transformers import AutoTokenizer

    return load_pretrained(base, AutoTokenizer)


def load_local_tokenizer(base: str) -> Any:
    """The tokenizer of `base`; None where there is none on this machine. Nothing is downloaded."""
    from transformers import AutoTokenizer

    try:
        return load_pretrained(base, AutoTokenizer, local_files_only=True)
    except UserError:
        return None


def load_config(base: str) -> dict[str, Any]:
    """What the config.json of `base` says, of its language model alone. Raises UserError where there is none."""
    from transformers import AutoConfig

    found: dict[str, Any] = load_pretrained(base, AutoConfig).get_text_config().to_dict()
    return found


def generation_config(base: str) -> Any:
    """What `base` says of its generation, or what follows from its config.json."""
    from transformers import AutoConfig, GenerationConfig

    try:
        return GenerationConfig.from_pretrained(find_checkpoint(base))
    except OSError:  # it has none
        return GenerationConfig.from_model_config(load_pretrained(base, AutoConfig))


def end_token_ids(base: str, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer of `base`."""
    known = generation_config(base).eos_token_id
    return frozenset({tokenizer.eos_token_id} | set(known if isinstance(known, list) else [known])) - {None}


def start_token_ids(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before every text: [beginning of sequence], or nothing."""
    first: list[int] = tokenizer("a").input_ids[:1]
    return first if first == [tokenizer.bos_token_id] else []


def num_embeddings(base: str) -> int:
    """How many tokens `base` has embeddings for; no bound where its config doesn't say."""
    return _configured(base, "vocab_size")


def context_length(base: str) -> int:
    """The longest sequence in tokens that `base` reads; no bound where its config doesn't say."""
    return _configured(base, "max_position_embeddings")


def _configured(base: str, key: str) -> int:
    from transformers import AutoConfig

    return getattr(load_pretrained(base, AutoConfig).get_text_config(), key, None) or 2**30  # by any name that it has


def check_device(device: str | None) -> None:
    """Raises UserError where this machine has no `device`; None is what torch finds."""
    if device in (None, "cpu"):
        return
    import torch

    cards = [f"cuda:{n}" for n in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    known = ["cpu", *(["cuda", *cards] if cards else [])]
    if device not in known:
        raise UserError(f"machine.device {device!r} is not on this machine: take {' or '.join(known)}, or null")


def load_model(source: Model, dtype: str) -> Any:
    """The weights of `source` in `dtype`, with its adapter. Raises UserError where one can't be loaded.

    In float32 the adapter is merged into the weights; bfloat16 would round most of it away, so there it stays beside.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # it writes even where no terminal is
    model = load_pretrained(source.base, AutoModelForCausalLM, use_safetensors=True, dtype=getattr(torch, dtype))
    if source.adapter is None:
        return model
    if not (source.adapter / "adapter_model.safetensors").is_file():  # peft would unpickle an adapter_model.bin
        raise UserError(f"adapter {str(source.adapter)!r} has no adapter_model.safetensors: give a LoRA's folder")
    from peft import PeftModel

    adapted: Any = PeftModel.from_pretrained(model, str(source.adapter))
    return adapted.merge_and_unload() if dtype == "float32" else adapted.base_model.model
