"""The sizes of lambs. Imports nothing heavy, so that the command line can name them in its help."""

from typing import NamedTuple


class LambShape(NamedTuple):
    """The shape of a Llama whose heads have 32 dimensions. Two query heads share one key head and one value head."""

    width: int
    feed_forward: int
    num_layers: int


SHAPES = {
    "0.4m": LambShape(128, 320, 1),
    "0.6m": LambShape(128, 320, 2),
    "1.3m": LambShape(128, 320, 6),
    "2.8m": LambShape(192, 512, 6),
    "4.9m": LambShape(256, 704, 6),
}
"""The shapes of the lambs, by their millions of parameters."""
DEFAULT_SIZE = "1.3m"
HEAD_SIZE = 32
