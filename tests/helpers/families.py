"""Small tokenizers that split texts as well-known families do, their styles of chat template, and models by hand."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.helpers.checkpoints import CORPUS, make_tokenizer

# Chat templates in the styles of the families.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
)
PROMPTED_CHATML = CHATML + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
THINKING = CHATML + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
SWITCHED_THINKING = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}"
    "{% if message.role == 'assistant' %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{{ message.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{% endif %}"
)
INST = (
    "{% for message in messages %}{% if message.role == 'user' %}"
    "{{ bos_token + '[INST] ' + message.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + message.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for message in messages %}\n{{ '<|' + message.role + '|>\\n' + message.content + eos_token }}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
PHI = (
    "{% for message in messages %}{{ '<|' + message.role + '|>\\n' + message.content + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' }}"
    "{{ message.content | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}{{ '<｜User｜>' + message.content }}"
    "{% else %}{{ '<｜Assistant｜>' + message.content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"
)
GLM = (
    "[gMASK]<sop>{% for message in messages %}{{ '<|' + message.role + '|>\\n' + message.content }}"
    "{% if message.role == 'assistant' %}{{ '<|user|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)
PARTS = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}"
    "{% for part in message.content %}{{ part.text }}{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CLOCK = "{{ strftime_now('%d %B %Y') + '\\n' }}" + PROMPTED_CHATML


def _pieces(special: Sequence[str], extra: Sequence[str] = ()) -> Any:
    """Return a BPE of "▁" pieces with byte fallback, whose vocabulary begins with `special` and the bytes."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    texts = [*CORPUS, "    return 1", "  x   return"] * 2
    learned.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    model = json.loads(learned.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    spaces = [("▁", "▁"), ("▁▁", "▁▁")]
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *extra, "▁", "▁▁", "▁▁▁▁"]
    pieces += sorted(model["vocab"], key=model["vocab"].get)
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    return Tokenizer(models.BPE(vocabulary, [*spaces, *merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True))


def _start_with(tokenizer: Any, *tokens: str) -> None:
    from tokenizers import processors

    pairs = [(token, tokenizer.token_to_id(token)) for token in tokens]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{' '.join(tokens)} $A", special_tokens=pairs)


def piece_decoder() -> Any:
    """Return a decoder of "▁" pieces and bytes that drops the space before a text."""
    from tokenizers import decoders

    return decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )


def llama2_backend(*added: str, rstrip: bool = False) -> Any:
    """Return a tokenizer of Llama-2's kind: a space before a text and after an added token, dropped when decoding."""
    from tokenizers import AddedToken, pre_tokenizers

    tokenizer = _pieces(["<unk>", "<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer.decoder = piece_decoder()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.add_special_tokens([AddedToken(token, rstrip=rstrip) for token in added])
    _start_with(tokenizer, "<s>")
    return tokenizer


def gemma_backend() -> Any:
    """Return a tokenizer of Gemma's kind: no space before a text, and runs of line ends that are added tokens."""
    from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers

    special, runs = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"], ["\n", "\n\n", "\n\n\n"]
    tokenizer = _pieces(special, runs)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens([AddedToken(run, normalized=False) for run in runs])
    _start_with(tokenizer, "<bos>")
    return tokenizer


def byte_backend(special: Sequence[str] = (), ordinary: Sequence[str] = (), start: Sequence[str] = ()) -> Any:
    """Return a byte-level tokenizer with ChatML's tokens, more special tokens, and added tokens that are not special"""
    from tokenizers import AddedToken

    tokenizer = make_tokenizer(bos=False).backend_tokenizer
    tokenizer.add_special_tokens(list(special))
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ordinary])
    if start:
        _start_with(tokenizer, *start)
    return tokenizer


class Family(NamedTuple):
    """A family's tokenizer and chat template: what a checkpoint's files say about them, and what is right."""

    backend: Callable[[], Any]
    template: str
    roles: dict[str, str]
    """bos_token, eos_token, pad_token."""
    start: tuple[str, ...]
    """The tokens that begin every prompt."""
    end: str
    tokenizer_class: str = "PreTrainedTokenizerFast"


LLAMA_ROLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
CHATML_ROLES = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}

FAMILIES = {
    "llama2": Family(llama2_backend, INST, LLAMA_ROLES, ("<s>",), "</s>", "LlamaTokenizer"),
    "zephyr": Family(
        llama2_backend, ZEPHYR, LLAMA_ROLES | {"pad_token": "</s>"}, ("<s>",), "</s>", "LlamaTokenizer"
    ),
    "phi3": Family(
        lambda: llama2_backend("<|user|>", "<|assistant|>", "<|end|>", rstrip=True),
        PHI, LLAMA_ROLES, ("<s>",), "<|end|>",
    ),
    "gemma": Family(
        gemma_backend, GEMMA, {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}, ("<bos>",),
        "<end_of_turn>",
    ),
    "qwen2.5": Family(byte_backend, PROMPTED_CHATML, CHATML_ROLES, (), "<|im_end|>"),
    "qwen3": Family(
        lambda: byte_backend(ordinary=("<think>", "</think>")), SWITCHED_THINKING, CHATML_ROLES, (), "<|im_end|>"
    ),
    "deepseek": Family(
        lambda: byte_backend(("<｜begin｜>", "<｜end｜>"), ("<｜User｜>", "<｜Assistant｜>")),
        DEEPSEEK, {"bos_token": "<｜begin｜>", "eos_token": "<｜end｜>"}, ("<｜begin｜>",), "<｜end｜>",
    ),
    "glm": Family(
        lambda: byte_backend(("[gMASK]", "<sop>", "<|user|>", "<|assistant|>"), start=("[gMASK]", "<sop>")),
        GLM, {"eos_token": "<|endoftext|>"}, ("[gMASK]", "<sop>"), "<|user|>",
    ),
}  # fmt: skip


def write_tokenizer(folder: Path, family: Family, template: str | None = None) -> Path:
    """Write the tokenizer files of a family, with `template` instead of its own, and no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    backend = family.backend()
    backend.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": family.tokenizer_class, "clean_up_tokenization_spaces": False, **family.roles}
    config["chat_template"] = family.template if template is None else template
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    write_config(folder, max(backend.get_vocab().values()) + 1, [])
    return folder


def write_config(folder: Path, vocab_size: int, end_ids: Sequence[int]) -> None:
    """Write the config.json of a small Llama model."""
    from transformers import LlamaConfig

    LlamaConfig(
        vocab_size=vocab_size, hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=512, tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=list(end_ids) or None, pad_token_id=None,
    ).save_pretrained(folder)  # fmt: skip


def write_model(folder: Path, prompt: Sequence[int], written: Sequence[int]) -> None:
    """Write weights beside a config.json with which a model greedily writes the tokens `written` behind a prompt.

    The output layer is solved for these tokens at these positions; everything else is random.
    """
    import torch
    from transformers import AutoConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(AutoConfig.from_pretrained(folder)).eval()
    with torch.no_grad():
        ids = torch.tensor([[*prompt, *written]])
        states = model.model(ids).last_hidden_state[0, len(prompt) - 1 : -1]
        targets = torch.zeros(len(written), model.config.vocab_size)
        targets[torch.arange(len(written)), torch.tensor(written)] = 10.0
        model.lm_head.weight.copy_((torch.linalg.pinv(states) @ targets).T)
    model.save_pretrained(folder)
