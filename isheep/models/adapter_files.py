"""The files of an adapter folder that every reader needs: the weights' name, the tokenizer with its chat template."""

from pathlib import Path
from typing import Any

from isheep.models.chat_template import ChatTemplate
from isheep.models.checkpoint import load_tokenizer, start_token_ids
from isheep.records import Model

WEIGHTS = "adapter_model.safetensors"


def load_training_tokenizer(model: Model, chat: ChatTemplate) -> Any:
    """The tokenizer, with a token to pad with: TRL would set one, where a resumed training may not come by."""
    tokenizer = load_tokenizer(model.base)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token or chat.end
    return tokenizer


def save_tokenizer(tokenizer: Any, chat: ChatTemplate, into: Path) -> None:
    """The tokenizer, whose `apply_chat_template` gives the tokens of training and whose end token ends an answer."""
    template = chat.template
    if start_token_ids(tokenizer) and not chat.prompt("").startswith(tokenizer.bos_token):
        template = "{{- bos_token }}" + template  # apply_chat_template adds none by itself
    tokenizer.chat_template = template
    tokenizer.eos_token = chat.end
    tokenizer.save_pretrained(into)
