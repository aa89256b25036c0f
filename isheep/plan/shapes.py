"""A model's shape: how many numbers it has and where, from its config.json or from shapes.yaml. No weights are read."""

import difflib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from isheep.errors import UserError
from isheep.models import checkpoint
from isheep.records import Record

KINDS = ("llama", "mistral", "qwen2", "qwen3")  # dense decoders with a gated MLP: what the sums below are right for


class Shape(Record):
    """Layers with `heads` queries and `kv_heads` keys and values of `width` numbers each, and a gated MLP of `ffn`."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    width: int
    ffn: int
    vocabulary: int
    tied: bool
    biases: int  # numbers in a layer beside its matrices and its two norms
    context: int  # the longest sequence in tokens

    @property
    def matrices(self) -> int:
        """Numbers in the layers' matrices: each is multiplied once for every token."""
        return self.layers * sum(a * b for a, b in self._linear())

    @property
    def head(self) -> int:
        """Numbers in the matrix that gives logits."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        norms = (2 * self.layers + 1) * self.hidden
        return self.matrices + norms + self.layers * self.biases + self.head * (1 if self.tied else 2)

    @property
    def cache(self) -> int:
        """Numbers that a token leaves in the cache: a key and a value for each layer and head of theirs."""
        return 2 * self.layers * self.kv_heads * self.width

    def lora(self, rank: int) -> int:
        """Numbers in adapters on all linear layers (Appendix E), the head left out, as peft's all-linear has it."""
        return self.layers * rank * sum(a + b for a, b in self._linear())

    def _linear(self) -> list[tuple[int, int]]:
        """(in, out) of a layer's matrices: queries, keys, values, out; gate, up, down."""
        q, kv = self.heads * self.width, self.kv_heads * self.width
        attention = [(self.hidden, q), (self.hidden, kv), (self.hidden, kv), (q, self.hidden)]
        return [*attention, (self.hidden, self.ffn), (self.hidden, self.ffn), (self.ffn, self.hidden)]


def shape_of(model: str) -> Shape:
    """The shape of a checkpoint's folder, of a name in shapes.yaml, or of a name on the Hub that can be reached.

    Raises UserError where it can't be found, or is no dense decoder of KINDS.
    """
    name = checkpoint.find_checkpoint(model)
    if name in known() and not Path(name).is_dir():
        return from_config(known()[name], model)
    try:
        return from_config(checkpoint.load_config(name), model)
    except UserError as error:
        if near := difflib.get_close_matches(model, known(), n=1):
            raise UserError(
                f"model {model!r} is not here, on the Hub or in shapes.yaml: did you mean {near[0]}?"
            ) from (error)
        raise


@cache
def known() -> dict[str, dict[str, Any]]:
    """The configurations of shapes.yaml by name."""
    text = (Path(__file__).parent / "shapes.yaml").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return found


def from_config(config: Mapping[str, Any], model: str) -> Shape:
    """The shape that a config.json spells out. Raises UserError for a kind of model that the sums are wrong for."""
    kind = config.get("model_type")
    if kind not in KINDS:
        raise UserError(f"model {model!r} is a {kind}: a plan knows dense decoders only ({', '.join(KINDS)})")
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    width = config.get("head_dim") or hidden // heads
    kv_heads = config.get("num_key_value_heads") or heads
    q, kv = heads * width, kv_heads * width
    biases = q + 2 * kv if kind == "qwen2" or config.get("attention_bias") else 0
    biases += hidden if config.get("attention_bias") else 0  # of the way out; Qwen2 has none there
    biases += 2 * config["intermediate_size"] + hidden if config.get("mlp_bias") else 0
    biases += 2 * width if kind == "qwen3" else 0  # norms of queries and keys
    return Shape(
        layers=config["num_hidden_layers"],
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        width=width,
        ffn=config["intermediate_size"],
        vocabulary=config["vocab_size"],
        tied=config.get("tie_word_embeddings", False),
        biases=biases,
        context=config.get("max_position_embeddings") or 2**30,
    )
