"""Start the pretraining of a lamb from the weights of another lamb, which saves tokens.

A wider lamb at first computes what the narrower one does (as in Net2Net, Chen et al. 2016, and bert2BERT, Chen et al.
2022): its new dimensions are zero, and nothing reads its new heads and feed-forward units. Training then uses them. A
lamb with fewer layers takes some of the layers, and has to be trained before it is of use.
"""

import math
from pathlib import Path
from typing import Any

from isheep.errors import UserError
from isheep.models.checkpoint import load_pretrained

LAYERS = "model.layers."
"""The beginning of the names of weights in layers. The number of the layer follows."""
RESIDUAL_WRITERS = ("o_proj", "down_proj")
"""The matrices whose output is added to the hidden states."""
SAME_SETTINGS = ("model_type", "head_dim", "vocab_size", "tie_word_embeddings")
"""What all lambs have in common, by the names of their configuration."""
WIDTHS = {"hidden_size": "width", "intermediate_size": "feed-forward width"}


def copy_weights(model: Any, source: Any) -> None:
    """Copy the weights of a lamb into an untrained one that is as wide or wider, and has as many layers or fewer.

    Where the model is wider, the source's weights become the first rows and columns. New columns of these rows, and all
    new rows of the matrices that write hidden states, are zero. New rows of the query, key, value, gate and up
    projections keep their random values, so that new units differ from each other. New entries of norms stay 1.
    """
    import torch

    source_width = source.config.hidden_size
    # Zeros in new dimensions lower the mean square, so that RMSNorm would scale the other dimensions up.
    norm_scale = math.sqrt(source_width / model.config.hidden_size)
    source_weights = source.state_dict()
    layers = spread_layers(source.config.num_hidden_layers, model.config.num_hidden_layers)
    with torch.no_grad():
        for name, weights in model.state_dict().items():
            copied_weights = source_weights[source_name(name, layers)]
            if weights.ndim == 1:
                weights[:source_width] = copied_weights * norm_scale
                continue
            num_rows, num_columns = copied_weights.shape
            weights[:num_rows, num_columns:] = 0
            if any(writer in name for writer in RESIDUAL_WRITERS):
                weights[num_rows:] = 0
            weights[:num_rows, :num_columns] = copied_weights


def spread_layers(num_layers: int, num_copied: int) -> list[int]:
    """Return the numbers of the layers to copy: the first, the last, and layers about evenly between them."""
    if num_copied == 1:
        return [0]
    return [round(index * (num_layers - 1) / (num_copied - 1)) for index in range(num_copied)]


def source_name(name: str, layers: list[int]) -> str:
    """Return the name, in the source, of the weights that are copied to `name`."""
    if not name.startswith(LAYERS):
        return name
    layer, rest = name.removeprefix(LAYERS).split(".", 1)
    return f"{LAYERS}{layers[int(layer)]}.{rest}"


def check_start(folder: Path, config: Any) -> None:
    """Raise UserError if the model in a folder is no lamb, or is wider or has fewer layers than `config` says."""
    from transformers import AutoConfig

    source = load_pretrained(str(folder), AutoConfig)
    for key in SAME_SETTINGS:
        value = getattr(source, key, None)
        if value != getattr(config, key):
            raise UserError(
                f"--start-from: the model in {folder} is no lamb: its {key} is {value}, and lamb's is"
                f" {getattr(config, key)}; give lamb, or the --out of a finished isheep lamb pretrain"
            )
    for key, noun in WIDTHS.items():
        if getattr(source, key) > getattr(config, key):
            raise UserError(
                f"--start-from: the model in {folder} has {noun} {getattr(source, key)}, and the new one"
                f" {getattr(config, key)}: give a lamb that is not wider, or a wider --size"
            )
    if source.num_hidden_layers < config.num_hidden_layers:
        raise UserError(
            f"--start-from: the model in {folder} has {source.num_hidden_layers} layers, and the new one"
            f" {config.num_hidden_layers}: give a lamb with as many layers or more, or a --size with fewer"
        )
