"""What the config.json of a checkpoint declares, against its weights.

A config.json of a few bytes can ask for a model of terabytes. It is compared with the shapes in the files of weights,
of which the headers alone are read, before anything is made.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isheep.errors import UserError, excerpt

MAX_LAYERS = 10_000
"""The most layers of a model whose weights are not on this machine."""

MAX_FACTOR = 16
"""How many times larger a declared size may be than the weights show: quantized weights pack 16 numbers of 2 bits into
one, and layers may share weights."""


def check_model_size(config: Any, base: str, folder: Path) -> None:
    """Raise UserError if the configuration of `base` declares a far larger model than the weights in `folder` are.

    `config` is that of its language model, as transformers has read it. Without weights in the folder, as of a model on
    the Hub, only the number of layers is bounded.
    """
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    shapes = {name: shape for file in files for name, shape in read_shapes(file).items()}
    limits = {"num_hidden_layers": MAX_FACTOR * _num_layers(shapes) if shapes else MAX_LAYERS}
    if shapes:
        width = MAX_FACTOR * max(size for shape in shapes.values() for size in shape)
        limits |= dict.fromkeys(("hidden_size", "intermediate_size", "vocab_size"), width)
    for name, limit in limits.items():
        size = getattr(config, name, None)
        if isinstance(size, int) and size > limit:
            raise UserError(
                f"model {base!r}: config.json says {name} {excerpt(size)}, and its weights are those of a model with "
                f"at most {limit}: give the config.json that belongs to them"
            )


def _num_layers(shapes: Mapping[str, Any]) -> int:
    """Return the number of layers that the names of weights count; MAX_LAYERS if they count none."""
    numbers = [int(number) for name in shapes for number in re.findall(r"\.(\d{1,9})\.", name)]
    return max(numbers) + 1 if numbers else MAX_LAYERS


def read_shapes(file: Path) -> dict[str, list[int]]:
    """Return the shape of each tensor of a safetensors file by its name, from its header.

    Raises UserError if it is no such file; safetensors refuses a header that does not fit the file's size.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as tensors:
            return {name: list(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        reason = getattr(error, "strerror", None) or json.dumps(str(error))[1:-1]
        raise UserError(f"{file}: can't be read as safetensors: {reason}") from None
