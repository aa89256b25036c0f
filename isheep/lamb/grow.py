"""Start a lamb from another one that is not larger, so that it does not learn everything anew.

At first the larger model computes what the smaller one does (as in Net2Net, Chen et al. 2016, and bert2BERT, Chen et
al. 2022): its new dimensions are zero, and nothing reads its new heads and feed-forward units. Training then uses them.
"""

import math
from pathlib import Path
from typing import Any

from isheep.errors import UserError
from isheep.models.checkpoint import find_checkpoint, load_pretrained

WRITERS = ("embed_tokens", "lm_head", "o_proj", "down_proj")
"""The matrices that add to the hidden states."""


def grow(larger: Any, smaller: Any) -> None:
    """Set the weights of an untrained Llama so that it computes what another one does, of as many layers and no wider.

    The weights of that one are the first rows and columns. Of the rest, the new rows of queries, keys, values and gates
    keep their random values, so that new units differ from each other; all others are zero.
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
            if any(writer in name for writer in WRITERS):
                weights[num_rows:] = 0
            weights[:num_rows, :num_columns] = old


def check_width(folder: Path, width: int) -> None:
    """Raise UserError if there is no lamb in a folder, or if it is wider than `width`."""
    from transformers import AutoConfig

    old_width = load_pretrained(find_checkpoint(str(folder)), AutoConfig).hidden_size
    if old_width > width:
        raise UserError(
            f"--start-from: the model in {folder} has width {old_width}, and the new one {width}:"
            " give a lamb that is not larger, or a larger --size"
        )
