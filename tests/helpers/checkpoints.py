"""Tiny randomly initialised checkpoints of Qwen2 and Llama architecture, with a tokenizer trained here."""

from pathlib import Path
from typing import Any

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


CORPUS = [
    "Name the capital of France. The capital of France is Paris.",
    "List three colours in lower case: red, green, blue. Write no commas!",
    "What is 12 plus 30? It is 42. Instruction: Input: <noinput> ### 1. 2. 3.",
    "Give the opposite of hot; cold. A small dog says woof, a cat says meow.",
    "You are a helpful assistant. user system assistant 10||A right and full answer.",
] * 20


def make_tokenizer(bos: bool) -> Any:
    """A byte-level BPE of about 400 tokens; with `bos`, one that starts every text with <|begin_of_text|>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    from isheep.prompts import FOLDER

    special = SPECIAL + ["<|begin_of_text|>"] * bos
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if bos:
        start = ("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{start[0]} $A", special_tokens=[start])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        bos_token="<|begin_of_text|>" if bos else None,
        additional_special_tokens=SPECIAL[1:],
        chat_template=(FOLDER / ("llama3.jinja" if bos else "qwen.jinja")).read_text(encoding="utf-8"),
    )


def make_checkpoint(folder: Path, architecture: str, seed: int = 0, **settings: Any) -> Path:
    """A checkpoint of `architecture` ("Qwen2" or "Llama"), about 0.1M random parameters, in `folder`."""
    import torch
    import transformers

    tokenizer = make_tokenizer(bos=architecture == "Llama")
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "tie_word_embeddings": True,
        "initializer_range": 0.2,
    }  # fmt: skip
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = getattr(transformers, f"{architecture}Config")(
        bos_token_id=tokenizer.bos_token_id, **ids, **(shape | settings)
    )
    torch.manual_seed(seed)
    getattr(transformers, f"{architecture}ForCausalLM")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
