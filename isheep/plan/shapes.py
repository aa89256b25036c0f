"""The shape of a model, from its config.json or from shapes.yaml: the sizes of its matrices. No weights are read."""

import difflib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from isheep.errors import UserError
from isheep.files.yaml_files import read_yaml
from isheep.models import checkpoint
from isheep.records import Record

# The model types that the formulas below are right for: dense decoders with a gated MLP.
MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")


class Shape(Record):
    """The sizes of a decoder: `heads` queries, `kv_heads` keys and values of `width` numbers, a gated MLP of `ffn`."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    width: int
    ffn: int
    vocabulary: int
    tied: bool
    biases: int
    """Parameters of a layer besides its matrices and its two norms."""
    context: int
    """The length in tokens of the longest sequence that the model reads."""

    @property
    def matrices(self) -> int:
        """Parameters of the layers' matrices. Each is multiplied once for every token."""
        return self.layers * sum(num_inputs * num_outputs for num_inputs, num_outputs in self._linear())

    @property
    def head(self) -> int:
        """Parameters of the matrix that computes logits."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters of the model."""
        norms = (2 * self.layers + 1) * self.hidden
        return self.matrices + norms + self.layers * self.biases + self.head * (1 if self.tied else 2)

    @property
    def cache(self) -> int:
        """Numbers that a token adds to the cache: a key and a value for each layer and each of `kv_heads`."""
        return 2 * self.layers * self.kv_heads * self.width

    def lora(self, rank: int) -> int:
        """Parameters of an adapter on all linear layers except the head (Appendix E; peft's all-linear)."""
        return self.layers * rank * sum(num_inputs + num_outputs for num_inputs, num_outputs in self._linear())

    def _linear(self) -> list[tuple[int, int]]:
        """Return (inputs, outputs) of a layer's matrices: queries, keys, values, output; gate, up, down."""
        q, kv = self.heads * self.width, self.kv_heads * self.width
        attention = [(self.hidden, q), (self.hidden, kv), (self.hidden, kv), (q, self.hidden)]
        return [*attention, (self.hidden, self.ffn), (self.hidden, self.ffn), (self.ffn, self.hidden)]


def shape_of(model: str) -> Shape:
    """Return the shape of a checkpoint folder, of a name in shapes.yaml, or of a name on the Hub.

    Raises UserError if it can't be found, or if its type is none of MODEL_TYPES.
    """
    name = checkpoint.find_checkpoint(model)
    if name in known_configs() and not Path(name).is_dir():
        return from_config(known_configs()[name], model)
    try:
        return from_config(checkpoint.load_config(name), model)
    except UserError as error:
        if near := difflib.get_close_matches(model, known_configs(), n=1):
            raise UserError(
                f"model {model!r} is not here, on the Hub or in shapes.yaml: did you mean {near[0]}?"
            ) from error
        raise


@cache
def known_configs() -> dict[str, dict[str, Any]]:
    """Return the configurations of shapes.yaml by name."""
    configs: dict[str, dict[str, Any]] = read_yaml(Path(__file__).parent / "shapes.yaml")
    return configs


def from_config(config: Mapping[str, Any], model: str) -> Shape:
    """Return the shape in a config.json. Raises UserError for a model type that the formulas are wrong for."""
    model_type = config.get("model_type")
    if model_type not in MODEL_TYPES:
        types = ", ".join(MODEL_TYPES)
        raise UserError(f"model {model!r} is a {model_type}: a plan knows dense decoders only ({types})")
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    width = config.get("head_dim") or hidden // heads
    kv_heads = config.get("num_key_value_heads") or heads
    q, kv = heads * width, kv_heads * width
    biases = q + 2 * kv if model_type == "qwen2" or config.get("attention_bias") else 0
    # Qwen2 has no bias in the output projection of attention.
    biases += hidden if config.get("attention_bias") else 0
    biases += 2 * config["intermediate_size"] + hidden if config.get("mlp_bias") else 0
    # Qwen3 has norms of queries and keys.
    biases += 2 * width if model_type == "qwen3" else 0
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
