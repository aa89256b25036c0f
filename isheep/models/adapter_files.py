"""The files of an adapter folder that trainers, engines and merging share: weights, tokenizer and chat template."""

import json
import shutil
import tempfile
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from isheep.errors import UserError
from isheep.models.chat_template import ChatTemplate
from isheep.models.checkpoint import find_checkpoint, load_tokenizer, num_embeddings
from isheep.models.hub import check_hub
from isheep.models.template_frame import with_start
from isheep.models.tokenization import encode, prompt_ids
from isheep.records import Model
from isheep.rundir.atomic import write_text

WEIGHTS = "adapter_model.safetensors"

TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP = "tokenizer_config.json", "special_tokens_map.json"

TEMPLATE_FILE = "chat_template.jinja"

TOKENIZER_FILES = (
    "tokenizer.json", TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, "added_tokens.json", "tokenizer.model", "vocab.json",
    "merges.txt", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tekken.json",
)  # fmt: skip
"""The files that a tokenizer may have, without its chat template."""

PROBES = ("Name a city.", "  Sort: 10, 8 and 9\n\n    return x  ", "Größe: 8² 日本 🙂")
"""Texts whose tokens are compared after a tokenizer is saved."""


def load_training_tokenizer(model: Model, chat_template: ChatTemplate) -> Any:
    """Return the base's tokenizer with a padding token that the model has an embedding for.

    TRL would set a missing one only if it trains, and a training that resumes after its last step never calls TRL.
    """
    tokenizer, size = load_tokenizer(model.base), num_embeddings(model.base)
    candidates = (tokenizer.pad_token, tokenizer.eos_token, chat_template.end)
    tokenizer.pad_token = next(token for token in candidates if token and tokenizer.convert_tokens_to_ids(token) < size)
    return tokenizer


def save_tokenizer(tokenizer: Any, chat_template: ChatTemplate, base: str, output_dir: Path) -> None:
    """Save the base's tokenizer with the chat template.

    Its `apply_chat_template` gives training's tokens, and its end token ends an answer. The base's own files are
    copied: what transformers writes for a loaded tokenizer may read as another one, and holds settings of the process
    that loaded it. Raises UserError if the saved files give other tokens.
    """
    template = with_start(tokenizer, chat_template.template, chat_template.prompt("a"))
    write_text(output_dir / TEMPLATE_FILE, template)
    for write in (_copy_tokenizer, _write_tokenizer):
        write(tokenizer, base, output_dir)
        _set_roles(tokenizer, chat_template.end, output_dir)
        difference = _find_difference(tokenizer, chat_template, output_dir)
        if difference is None:
            return
    raise UserError(
        f"the tokenizer of {base!r} gives other tokens after it is saved with its chat template: {difference};"
        " give a base with a tokenizer.json and a tokenizer_config.json of its own"
    )


def check_tokenizer_files(model: str, chat_template: ChatTemplate) -> None:
    """Raise UserError if an adapter's saved tokenizer would give other tokens than training has. Before a run."""
    _check_tokenizer_files(model, replace(chat_template, tokenizer=None))


@lru_cache(maxsize=64)
def _check_tokenizer_files(model: str, chat_template: ChatTemplate) -> None:
    """Check a template, given without its tokenizer, once for all runs of a sweep."""
    tokenizer = load_training_tokenizer(Model(model), chat_template)
    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(tokenizer, replace(chat_template, tokenizer=tokenizer), model, Path(folder))


def _copy_tokenizer(tokenizer: Any, base: str, output_dir: Path) -> None:
    """Copy the tokenizer's files of a base."""
    from transformers.utils.hub import cached_file

    checkpoint = find_checkpoint(base)
    check_hub(checkpoint)
    for name in TOKENIZER_FILES:
        path = cached_file(
            checkpoint,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if path:
            shutil.copyfile(path, output_dir / name)


def _write_tokenizer(tokenizer: Any, base: str, output_dir: Path) -> None:
    """Write a loaded tokenizer's files as transformers does, in place of copied ones."""
    for name in TOKENIZER_FILES:
        (output_dir / name).unlink(missing_ok=True)
    template = (output_dir / TEMPLATE_FILE).read_bytes()
    tokenizer.save_pretrained(output_dir)
    (output_dir / TEMPLATE_FILE).write_bytes(template)


def _set_roles(tokenizer: Any, end: str, output_dir: Path) -> None:
    """Write the end and padding tokens into the JSON files of a tokenizer, and take a chat template out of them."""
    for name in (TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP):
        path = output_dir / name
        if name == SPECIAL_TOKENS_MAP and not path.exists():
            continue
        values = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if name == TOKENIZER_CONFIG:
            values.setdefault("tokenizer_class", type(tokenizer).__name__)
        # What the process that saved the files happened to be set to.
        for key in ("chat_template", "local_files_only", "is_local"):
            values.pop(key, None)
        for role, token in (("eos_token", end), ("pad_token", tokenizer.pad_token)):
            old = values.get(role)
            if (old.get("content") if isinstance(old, dict) else old) != token:
                values[role] = token
        write_text(path, json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def _find_difference(tokenizer: Any, chat_template: ChatTemplate, output_dir: Path) -> str | None:
    """Return how the saved tokenizer's tokens of the probes differ from training's, or None if they do not."""
    from transformers import AutoTokenizer

    try:
        saved = AutoTokenizer.from_pretrained(output_dir)
    # Files without a vocabulary, or of a class that needs others, may raise any exception.
    except Exception as error:
        return " ".join(str(error).split())[:200]
    for probe in PROBES:
        content: Any = [{"type": "text", "text": probe}] if chat_template.parts else probe
        turns = [{"role": "user", "content": content}]
        saved_ids = saved.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        ids = prompt_ids(tokenizer, [chat_template.prompt(probe)])[0]
        if saved_ids != ids or encode(saved, probe) != encode(tokenizer, probe):
            return f"{saved_ids[:8]} ... instead of {ids[:8]} ... for {probe!r}"
    if saved.eos_token != chat_template.end or saved.pad_token != tokenizer.pad_token:
        return f"it ends at {saved.eos_token!r} and pads with {saved.pad_token!r}"
    return None
