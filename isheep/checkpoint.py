"""Where a model's files lie, and its tokenizer: what the engine, the trainer and the chat template share."""

import re
from pathlib import Path
from typing import Any

from isheep.errors import UserError

LAMB = Path(__file__).parent / "lamb" / "base"


def find(base: str) -> str:
    """The folder of `base`, or `base` itself where it can only be a name on the Hub. "lamb" is the embedded model.

    Raises UserError where `base` is a path without a checkpoint.
    """
    folder = LAMB if base == "lamb" and not Path(base).exists() else Path(base).expanduser()
    if (folder / "config.json").is_file():
        return str(folder)
    if folder.exists():
        raise UserError(f"model {base!r} is no checkpoint: {folder} has no config.json; give the folder that has one")
    if folder == LAMB or not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", base):
        raise UserError(f"model {base!r} not found: {folder} does not exist; give a checkpoint's folder or a Hub name")
    return base


def load(base: str, kind: Any, **settings: Any) -> Any:
    """`kind.from_pretrained` of `base`: safetensors only, no remote code. Raises UserError where it can't be loaded."""
    from safetensors import SafetensorError

    try:
        return kind.from_pretrained(find(base), trust_remote_code=False, **settings)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"model {base!r} can't be loaded: {reason} Give a folder that holds a safetensors checkpoint"
            " with its tokenizer, or the name of one on the Hub that this machine can reach"
        ) from error


def load_tokenizer(base: str) -> Any:
    """The tokenizer of `base`. Raises UserError where there is none."""
    find(base)  # a wrong path is told before transformers is imported
    from transformers import AutoTokenizer

    return load(base, AutoTokenizer)
