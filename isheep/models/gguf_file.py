"""A checkpoint as a GGUF file, which llama.cpp and Ollama read: weights, byte-level BPE tokenizer, chat template.

The package `gguf` writes the file (the extra isheep[gguf]). The names and the order of the weights are those of
llama.cpp's own converter, which reads many more kinds of model: what is not known here is refused, never guessed.
"""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isheep.errors import UserError
from isheep.models.checkpoint import start_token_ids

CONVERTER = "convert the checkpoint of isheep export --merged with llama.cpp's convert_hf_to_gguf.py"

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""llama.cpp's name of the architecture for each model_type."""

# How the pre-tokenizer splits a text: the regular expressions of tokenizer.json, and llama.cpp's name for them.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLITS = {
    (_WORDS % "{1,3}",): "llama-bpe",
    (_WORDS % "",): "qwen2",
    (r"\p{N}+", r"(?=(\d{3})+(?!\d))"): "superbpe",
}


def check_gguf_package() -> None:
    """Raise UserError if the package that writes GGUF files is not installed."""
    if importlib.util.find_spec("gguf") is None:
        raise UserError("--as gguf needs the package gguf: pip install 'isheep[gguf]'")


def write_gguf(checkpoint: Path, tokenizer: Any, end: str, file: Path, keep_bfloat16: bool = True) -> None:
    """Write a checkpoint folder as a GGUF file. `end` is the token that ends an answer.

    Everything is float32, except for matrices that are bfloat16, unless `keep_bfloat16` is False. Raises UserError for
    a kind of model, of tokenizer or of positions that this module does not know.
    """
    import gguf

    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    architecture = _architecture(config)
    writer = gguf.GGUFWriter(file, architecture)
    _add_sizes(writer, config)
    _add_tokenizer(writer, checkpoint, tokenizer, end, config["vocab_size"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], config["num_hidden_layers"])
    for name, tensor in _tensors(checkpoint):
        gguf_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if gguf_name is None:
            raise UserError(f"{checkpoint} has a tensor {name} that GGUF has no name for: {CONVERTER}")
        if architecture == "llama" and ".self_attn." in name and name.split(".")[-2] in ("q_proj", "k_proj"):
            tensor = _interleave_halves(tensor, _head_width(config))
        _add_tensor(writer, gguf_name, tensor, keep_bfloat16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _architecture(config: dict[str, Any]) -> str:
    """Return llama.cpp's name of the architecture. Raises UserError if the model is of another kind."""
    model_type = config.get("model_type")
    if model_type not in ARCHITECTURES:
        raise UserError(f"--as gguf knows models of type {', '.join(ARCHITECTURES)}, not {model_type}: {CONVERTER}")
    rope_type = _rope(config).get("rope_type") or _rope(config).get("type") or "default"
    if rope_type != "default":
        raise UserError(f"--as gguf knows no positions of rope_type {rope_type}: {CONVERTER}")
    return ARCHITECTURES[model_type]


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    rope: dict[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return rope


def _head_width(config: dict[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def _add_sizes(writer: Any, config: dict[str, Any]) -> None:
    width = _head_width(config)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config.get("num_key_value_heads") or config["num_attention_heads"])
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(_rope(config).get("rope_theta") or config.get("rope_theta") or 10000.0)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def _add_tokenizer(writer: Any, checkpoint: Path, tokenizer: Any, end: str, num_embeddings: int) -> None:
    """Add the vocabulary, which has a text for every embedding, the merges, the special tokens and the template."""
    from gguf import TokenType

    content = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    texts = {id: f"[PAD{id}]" for id in range(num_embeddings)} | {id: text for text, id in vocabulary.items()}
    types = {id: TokenType.UNUSED for id in texts} | dict.fromkeys(vocabulary.values(), TokenType.NORMAL)
    for token in content["added_tokens"]:
        texts[token["id"]] = token["content"]
        types[token["id"]] = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_split_name(content))
    writer.add_token_list([texts[id] for id in sorted(texts)])
    writer.add_token_types([types[id] for id in sorted(texts)])
    merges = content["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    end_id = tokenizer.convert_tokens_to_ids(end)
    writer.add_eos_token_id(end_id)
    writer.add_eot_token_id(end_id)
    start_ids = start_token_ids(tokenizer)
    if start_ids:
        writer.add_bos_token_id(start_ids[0])
    writer.add_add_bos_token(bool(start_ids))
    writer.add_chat_template((checkpoint / "chat_template.jinja").read_text(encoding="utf-8"))


def _split_name(content: dict[str, Any]) -> str:
    """Return llama.cpp's name for the way in which a tokenizer splits a text before the merges."""
    model, splitter = content["model"], content["pre_tokenizer"] or {}
    parts = splitter.get("pretokenizers", [splitter])
    kinds = [part.get("type") for part in parts]
    is_byte_level = model.get("type") == "BPE" and kinds[-1] == "ByteLevel" and not parts[-1].get("add_prefix_space")
    name = None
    if is_byte_level and kinds == ["ByteLevel"]:
        name = "gpt-2"
    elif is_byte_level and kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits"):
        name = "smollm"
    elif is_byte_level and set(kinds[:-1]) == {"Split"}:
        name = SPLITS.get(tuple(part.get("pattern", {}).get("Regex") for part in parts[:-1]))
    if name is None:
        raise UserError(f"--as gguf does not know how this model's tokenizer splits a text: {CONVERTER}")
    return name


def _tensors(checkpoint: Path) -> Iterator[tuple[str, Any]]:
    """Yield the tensors of all safetensors files by name, one in memory at a time."""
    from safetensors import safe_open

    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            names = tensors.keys()
            for name in names:
                yield name, tensors.get_tensor(name)


def _interleave_halves(tensor: Any, width: int) -> Any:
    """Return the rows of queries or keys in GGUF's order, which has the two halves of a rotated pair side by side."""
    halves = tensor.reshape(-1, 2, width // 2, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape)


def _add_tensor(writer: Any, name: str, tensor: Any, keep_bfloat16: bool) -> None:
    import gguf
    import torch

    values = tensor.float().contiguous().numpy()
    if keep_bfloat16 and tensor.dtype == torch.bfloat16 and tensor.ndim > 1:
        kind = gguf.GGMLQuantizationType.BF16
        writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
    else:
        writer.add_tensor(name, values)
