"""The files of an adapter folder that trainers, engines and merging share: weights, tokenizer and chat template."""

from pathlib import Path
from typing import Any

from isheep.models.chat_template import ChatTemplate
from isheep.models.checkpoint import load_tokenizer, start_token_ids
from isheep.records import Model

WEIGHTS = "adapter_model.safetensors"


def load_training_tokenizer(model: Model, chat_template: ChatTemplate) -> Any:
    """Return the base's tokenizer with a padding token.

    TRL would set a missing one only if it trains, and a training that resumes after its last step never calls TRL.
    """
    tokenizer = load_tokenizer(model.base)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token or chat_template.end
    return tokenizer


def save_tokenizer(tokenizer: Any, chat_template: ChatTemplate, output_dir: Path) -> None:
    """Save the tokenizer so that its `apply_chat_template` gives training's tokens and its end token ends an answer."""
    template = chat_template.template
    # apply_chat_template adds no beginning-of-sequence token by itself.
    if start_token_ids(tokenizer) and not chat_template.prompt("").startswith(tokenizer.bos_token):
        template = "{{- bos_token }}" + template
    tokenizer.chat_template = template
    tokenizer.eos_token = chat_template.end
    tokenizer.save_pretrained(output_dir)
