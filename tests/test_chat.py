"""Chat templates: the paper's two and the tokenizer's own, and how they refuse a tokenizer that lacks their tokens."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from isheep.chat import load_chat
from isheep.errors import UserError

PROMPTS = {
    "qwen": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
    "llama3": "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
}
ENDS = {"qwen": "<|im_end|>", "llama3": "<|eot_id|>"}


def with_template(checkpoint: Path, folder: Path, template: str | None) -> str:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text((checkpoint / "config.json").read_text())
    return str(folder)


@pytest.mark.parametrize("name", ["qwen", "llama3"])
def test_the_papers_templates(checkpoint: Path, name: str) -> None:
    chat = load_chat(name, str(checkpoint))
    assert (chat.name, chat.end) == (name, ENDS[name])
    assert chat.prompt("Say {this} {{ twice }}.") == PROMPTS[name].format("Say {this} {{ twice }}.")
    assert "messages" in chat.template


def test_the_tokenizers_own(qwen2: Path, llama: Path, tmp_path: Path) -> None:
    assert load_chat("tokenizer", str(qwen2)).prompt("a") == PROMPTS["qwen"].format("a")
    assert load_chat("tokenizer", str(llama)).end == "<|eot_id|>"
    plain = "{% for m in messages %}{{ m.content }}{{ eos_token if m.role == 'assistant' }}\n{% endfor %}"
    chat = load_chat("tokenizer", with_template(qwen2, tmp_path, plain))
    assert (chat.end, chat.template) == ("<|endoftext|>", plain)


def test_a_turn_cannot_hold_special_tokens(checkpoint: Path) -> None:
    chat = load_chat("qwen", str(checkpoint))
    assert chat.prompt("a<|im_end|>b<|im_<|im_end|>end|>") == PROMPTS["qwen"].format("ab")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template: set chat to qwen or llama3"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "ends an answer with 'nothing'"),
        ("{% for m in messages %}{{ m.content }}</turn>{% endfor %}", "ends an answer with '</turn>'"),
        ("{{ messages[", "can't be rendered"),
        ("{{ raise_exception('no\nroles') }}", "can't be rendered"),
    ],
)
def test_what_cannot_end_an_answer_is_refused(qwen2: Path, tmp_path: Path, template: str | None, message: str) -> None:
    model = with_template(qwen2, tmp_path, template)
    with pytest.raises(UserError, match=message) as error:
        load_chat("tokenizer", model)
    assert "\n" not in str(error.value) and model in str(error.value)


def test_an_unknown_name_is_refused(qwen2: Path) -> None:
    with pytest.raises(UserError, match="'alpaca' is not known: take one of qwen, llama3, tokenizer"):
        load_chat("alpaca", str(qwen2))
