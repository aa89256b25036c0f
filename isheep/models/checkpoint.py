"""A model's checkpoint: where its files are, its tokenizer, configuration and weights."""

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

from isheep.errors import UserError, is_out_of_memory
from isheep.models.adapter_check import check_adapter, load_adapter
from isheep.models.declared_sizes import check_model_size
from isheep.models.hub import HUB_NAME, cached_commit, check_hub
from isheep.recipe.packaged import PACKAGED_MODELS, similar_model
from isheep.records import Model
from isheep.rundir.digests import file_sha256

# The kinds of files that decide what a checkpoint or an adapter writes: weights, configuration, tokenizer, template.
MODEL_FILES = (".safetensors", ".json", ".jinja", ".model", ".txt")

ADAPTER_WEIGHTS = "adapter_model.safetensors"

UNBOUNDED = 2**30
"""Stands for a size that a model's configuration does not give."""

MIN_BFLOAT16_WIDTH = 256
"""The width from which on a model computes in bfloat16 on a CPU that has instructions for it."""


def find_checkpoint(base: str) -> str:
    """Return the folder of `base`, or `base` itself if it can only be a name on the Hub.

    A name in PACKAGED_MODELS stands for a model that isheep includes, unless a folder of that name holds a checkpoint.
    Raises UserError if `base` is a path without a checkpoint.
    """
    # Unlike Path.expanduser, it leaves a folder as it is whose user is not known.
    folder = Path(os.path.expanduser(base))
    packaged = PACKAGED_MODELS.get(base)
    if packaged and not (folder / "config.json").is_file():
        folder = packaged
    if (folder / "config.json").is_file():
        return str(folder)
    if folder.exists():
        raise UserError(
            f"model {base!r} is no checkpoint: {folder} has no config.json; give the folder that contains it"
        )
    # Beside run folders, a name is that of another one.
    is_run = "/" in base and any(folder.parent.glob("*/recipe.yaml"))
    if folder == packaged or is_run or not HUB_NAME.fullmatch(base):
        way_out = f"give a checkpoint's folder or a Hub name{similar_model(base)}"
        raise UserError(f"model {base!r} not found: {folder} does not exist; {way_out}")
    return base


def load_pretrained(base: str, auto_class: Any, **settings: Any) -> Any:
    """Return `auto_class.from_pretrained` of `base`, without remote code. Raises UserError if it can't be loaded."""
    checkpoint = find_checkpoint(base)
    if not settings.get("local_files_only"):
        check_hub(checkpoint)
    try:
        return auto_class.from_pretrained(checkpoint, trust_remote_code=False, **settings)
    # A broken configuration may raise any exception.
    except Exception as error:
        # It says nothing about the files.
        if is_out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"model {base!r} can't be loaded: {reason} Give a folder that holds a safetensors checkpoint"
            f" with its tokenizer, or the name of one on the Hub that this machine can reach{similar_model(base)}"
        ) from error


def load_tokenizer(base: str) -> Any:
    """Return the tokenizer of `base`. Raises UserError if there is none."""
    # A wrong name is reported before transformers is imported, which takes seconds.
    check_hub(find_checkpoint(base))
    from transformers import AutoTokenizer

    return load_pretrained(base, AutoTokenizer)


def load_local_tokenizer(base: str) -> Any:
    """Return the tokenizer of `base`, or None if it is not on this machine. Downloads nothing."""
    from transformers import AutoTokenizer

    try:
        return load_pretrained(base, AutoTokenizer, local_files_only=True)
    except UserError:
        return None


def load_config(base: str) -> dict[str, Any]:
    """Return the config.json of `base`, restricted to its language model. Raises UserError if there is none."""
    from transformers import AutoConfig

    config: dict[str, Any] = load_pretrained(base, AutoConfig).get_text_config().to_dict()
    return config


def generation_config(base: str) -> Any:
    """Return the generation settings of `base`; if it has none, those that follow from its config.json."""
    from transformers import AutoConfig, GenerationConfig

    checkpoint = find_checkpoint(base)
    check_hub(checkpoint)
    try:
        return GenerationConfig.from_pretrained(checkpoint)
    except OSError:
        return GenerationConfig.from_model_config(load_pretrained(base, AutoConfig))


def base_end_ids(base: str) -> list[int]:
    """Return the end tokens of the generation settings of `base`, or those of its config.json if they name none."""
    from transformers import AutoConfig

    ids = generation_config(base).eos_token_id
    if ids in (None, []):
        ids = getattr(load_pretrained(base, AutoConfig), "eos_token_id", None)
    return ids if isinstance(ids, list) else [] if ids is None else [ids]


def end_token_ids(base: str, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end an answer of `base`."""
    return frozenset({tokenizer.eos_token_id, *base_end_ids(base)}) - {None}


def start_token_ids(tokenizer: Any) -> list[int]:
    """Return the tokens that the tokenizer's post-processor puts before a text: none, <s>, or [gMASK]<sop>, ..."""
    ids: list[int] = tokenizer("a").input_ids
    text_ids: list[int] = tokenizer("a", add_special_tokens=False).input_ids
    starts = (start for start in range(len(ids)) if ids[start : start + len(text_ids)] == text_ids)
    return ids[: next(starts, 0)]


def start_text(tokenizer: Any) -> str:
    """Return the text of `start_token_ids`, as a template may write it."""
    return "".join(tokenizer.convert_ids_to_tokens(start_token_ids(tokenizer)))


def num_embeddings(base: str) -> int:
    """Return the number of tokens that `base` has embeddings for; UNBOUNDED if its configuration does not say."""
    return _configured_size(base, "vocab_size")


def context_length(base: str) -> int:
    """Return the longest sequence that `base` reads, in tokens; UNBOUNDED if its configuration does not say."""
    return _configured_size(base, "max_position_embeddings")


def _configured_size(base: str, key: str) -> int:
    from transformers import AutoConfig

    # The configuration object translates other names of the key, such as n_positions.
    return getattr(load_pretrained(base, AutoConfig).get_text_config(), key, None) or UNBOUNDED


def num_parameters(base: str) -> int | None:
    """Return the number of weights in the files of a checkpoint, tied ones once; None if they are not on this machine.

    Reads the headers of the files alone.
    """
    from safetensors import SafetensorError, safe_open

    folder = Path(find_checkpoint(base))
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    count = 0
    try:
        for file in files:
            with safe_open(file, framework="numpy") as weights:
                names = weights.keys()
                count += sum(math.prod(weights.get_slice(name).get_shape()) for name in names)
    # Loading the weights will say what is wrong with them.
    except (SafetensorError, OSError):
        return None
    return count or None


def checkpoint_digest(model: Model) -> str:
    """Return a digest of the files of a model and its adapter; of a name on the Hub, the commit of its files.

    Raises UserError if there is no such checkpoint.
    """
    digests = [_folder_digests(model.adapter)] if model.adapter else []
    folder = Path(find_checkpoint(model.base))
    if folder.is_dir():
        digests.append(_folder_digests(folder))
    else:
        # The files are here only after they have been loaded.
        load_config(model.base)
        digests.append({"commit": str(cached_commit(model.base))})
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def _folder_digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.iterdir()) if path.suffix in MODEL_FILES and path.is_file())
    return {path.name: file_sha256(path) for path in files}


def check_device(device: str | None) -> None:
    """Raise UserError if this machine has no `device`; None stands for the one that torch chooses."""
    if device in (None, "cpu"):
        return
    import torch

    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if device not in devices:
        raise UserError(f"machine.device {device!r} is not on this machine: take {' or '.join(devices)}, or null")


def has_bfloat16_instructions() -> bool:
    """Return whether this CPU multiplies matrices in bfloat16 by instructions of its own (AVX-512 BF16 or AMX)."""
    import torch

    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def choose_dtype(base: str, device: str) -> str:
    """Return the type in which `base` computes if nobody asks for another one: bfloat16 on CUDA.

    On a CPU it is bfloat16 if the checkpoint is stored in 16 bits and the CPU has instructions for it, otherwise
    float32. Small models such as lamb gain nothing and stay in float32, so that they write the same on more CPUs.
    """
    import torch
    from transformers import AutoConfig

    if device.startswith("cuda"):
        return "bfloat16"
    config = load_pretrained(base, AutoConfig)
    text_config = config.get_text_config()
    stored = config.dtype or text_config.dtype
    is_small = (getattr(text_config, "hidden_size", None) or 0) < MIN_BFLOAT16_WIDTH
    use_bfloat16 = stored in (torch.bfloat16, torch.float16) and not is_small and has_bfloat16_instructions()
    return "bfloat16" if use_bfloat16 else "float32"


def load_model(source: Model, dtype: str) -> Any:
    """Return the weights of `source` in `dtype`, with its adapter. Raises UserError if they can't be loaded.

    In float32 the adapter is merged into the weights. In bfloat16 it stays beside them, because rounding the sum would
    lose most of it.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    if source.adapter:
        # Before the base loads, which takes longer.
        check_adapter(source.adapter)
    # The progress bar is written even if there is no terminal.
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    check_size(source.base)
    model = load_pretrained(source.base, AutoModelForCausalLM, use_safetensors=True, dtype=getattr(torch, dtype))
    if source.adapter is None:
        return model
    adapted = load_adapter(model, source.adapter)
    return adapted.merge_and_unload() if dtype == "float32" else adapted.base_model.model


def check_size(base: str) -> None:
    """Raise UserError if the config.json of `base` declares a far larger model than its weights are."""
    from transformers import AutoConfig

    check_model_size(load_pretrained(base, AutoConfig).get_text_config(), base, Path(find_checkpoint(base)))
