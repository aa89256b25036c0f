"""Start the pretraining of a lamb from the weights of a lamb that is not larger, which saves tokens.

At first the larger model computes what the smaller one does (as in Net2Net, Chen et al. 2016, and bert2BERT, Chen et
al. 2022): its new dimensions are zero, and nothing reads its new heads and feed-forward units. Training then uses them.
"""

import math
from pathlib import Path
from typing import Any

from isheep.errors import UserError
from isheep.models.checkpoint import load_pretrained

RESIDUAL_WRITERS = ("o_proj", "down_proj")
"""The matrices whose output is added to the hidden states."""
SAME_SETTINGS = ("model_type", "num_hidden_layers", "head_dim", "vocab_size", "tie_word_embeddings")
"""What all lambs have in common, by the names of their configuration."""
WIDTHS = {"hidden_size": "width", "intermediate_size": "feed-forward width"}


def grow(larger: Any, smaller: Any) -> None:
    """Copy the weights of a smaller lamb into an untrained larger one, so that both compute the same.

    The old weights become the first rows and columns. New columns of old rows, and all new rows of the matrices that
    write hidden states, are zero. New rows of the query, key, value, gate and up projections keep their random values,
    so that new units differ from each other. New entries of norms stay 1.
    """
    import torch

    old_width = smaller.config.hidden_size
    # Zeros in new dimensions lower the mean square, so that RMSNorm would scale the old dimensions up.
    norm_scale = math.sqrt(old_width / larger.config.hidden_size)
    old_weights = smaller.state_dict()
    with torch.no_grad():
        for name, weights in larger.state_dict().items():
            old = old_weights[name]
            if weights.ndim == 1:
                weights[:old_width] = old * norm_scale
                continue
            num_rows, num_columns = old.shape
            weights[:num_rows, num_columns:] = 0
            if any(writer in name for writer in RESIDUAL_WRITERS):
                weights[num_rows:] = 0
            weights[:num_rows, :num_columns] = old


def check_start(folder: Path, larger: Any) -> None:
    """Raise UserError if the model in a folder is no lamb, or is larger than a model of the configuration `larger`."""
    from transformers import AutoConfig

    smaller = load_pretrained(str(folder), AutoConfig)
    for key in SAME_SETTINGS:
        value = getattr(smaller, key, None)
        if value != getattr(larger, key):
            raise UserError(
                f"--start-from: the model in {folder} is no lamb: its {key} is {value}, and lamb's is"
                f" {getattr(larger, key)}; give lamb, or the --out of a finished isheep lamb pretrain"
            )
    for key, noun in WIDTHS.items():
        if getattr(smaller, key) > getattr(larger, key):
            raise UserError(
                f"--start-from: the model in {folder} has {noun} {getattr(smaller, key)}, and the new one"
                f" {getattr(larger, key)}: give a lamb that is not larger, or a larger --size"
            )
