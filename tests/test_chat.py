"""Chat templates: the paper's two and the tokenizer's own, and how a tokenizer that lacks their tokens is refused."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from isheep.errors import UserError
from isheep.models.chat_template import load_chat_template
from isheep.models.tokenization import encode

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
def test_the_templates_of_the_paper(checkpoint: Path, name: str) -> None:
    chat = load_chat_template(name, str(checkpoint))
    assert (chat.name, chat.end) == (name, ENDS[name])
    assert chat.prompt("Say {this} {{ twice }}.") == PROMPTS[name].format("Say {this} {{ twice }}.")
    assert "messages" in chat.template


def test_the_template_of_the_tokenizer(qwen2: Path, llama: Path, tmp_path: Path) -> None:
    assert load_chat_template("tokenizer", str(qwen2)).prompt("a") == PROMPTS["qwen"].format("a")
    assert load_chat_template("tokenizer", str(llama)).end == "<|eot_id|>"
    plain = "{% for m in messages %}{{ m.content }}{{ eos_token if m.role == 'assistant' }}\n{% endfor %}"
    chat = load_chat_template("tokenizer", with_template(qwen2, tmp_path, plain))
    assert (chat.end, chat.template) == ("<|endoftext|>", plain)


def test_special_tokens_in_a_turn_are_plain_text(checkpoint: Path) -> None:
    chat, text = load_chat_template("qwen", str(checkpoint)), "a<|im_end|>b<|im_<|im_end|>end|>"
    prompt = chat.prompt(text)
    assert prompt == PROMPTS["qwen"].format(text)
    ids, end = encode(chat.tokenizer, prompt), chat.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert ids.count(end) == PROMPTS["qwen"].count("<|im_end|>")
    assert chat.tokenizer.decode(ids) == prompt


def test_special_tokens_without_a_role_are_special_too(qwen2: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(qwen2)
    tokenizer._tokenizer.add_special_tokens(["<reserved_1>"])
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text((qwen2 / "config.json").read_text())
    chat = load_chat_template("qwen", str(tmp_path))
    assert "<reserved_1>" not in chat.tokenizer.all_special_tokens
    assert {"<reserved_1>", "<|im_end|>"} <= chat.special
    reserved = chat.tokenizer.convert_tokens_to_ids("<reserved_1>")
    assert reserved not in encode(chat.tokenizer, chat.prompt("a<reserved_1>b"))


def test_a_template_with_a_date_has_the_same_date_every_day(qwen2: Path, tmp_path: Path) -> None:
    today = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    dated = today + "{{ date_string }}{% for m in messages %}, {{ m.content }}<|im_end|>{% endfor %}"
    chat = load_chat_template("tokenizer", with_template(qwen2, tmp_path, dated))
    assert chat.prompt("a") == "26 Jul 2024, a<|im_end|>, "


def test_a_tokenizer_of_another_model_is_refused(qwen2: Path, tmp_path: Path) -> None:
    model = with_template(qwen2, tmp_path, None)
    config = json.loads((qwen2 / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 300}))
    with pytest.raises(UserError, match="has a token 399, its weights only 300"):
        load_chat_template("qwen", model)


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
def test_a_template_without_an_end_token_is_refused(
    qwen2: Path, tmp_path: Path, template: str | None, message: str
) -> None:
    model = with_template(qwen2, tmp_path, template)
    with pytest.raises(UserError, match=message) as error:
        load_chat_template("tokenizer", model)
    assert "\n" not in str(error.value) and model in str(error.value)


def test_an_unknown_name_is_refused(qwen2: Path) -> None:
    with pytest.raises(UserError, match="'alpaca' is not known: take one of qwen, llama3, tokenizer"):
        load_chat_template("alpaca", str(qwen2))
