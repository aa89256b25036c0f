"""Exports: the formats of a dataset, and merged checkpoints in plain transformers."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import make_checkpoint
from helpers.training import train_peft

from isheep.errors import UserError
from isheep.export import formats
from isheep.models import merge
from isheep.models.chat_template import load_chat_template
from isheep.recipe.schema import Lora, Recipe, Training
from isheep.records import AssessedPair, Grade, Model, Pair
from isheep.rundir.training_file import training_row

pytestmark = pytest.mark.numeric

FIELDS = {"id": "1", "instruction": "Äußere dich", "input": "zu 42", "output": 'Yes, "so".'}
PLAIN = Pair(**FIELDS, finish="stop", tokens=3, seed=0)
RATED = AssessedPair(
    **PLAIN.model_dump(),
    grades={"quality": Grade(score=8.0, reply="8||"), "following": Grade(score=None, reply="good")},
)
ALPACA = {key: FIELDS[key] for key in ("instruction", "input", "output")}
EXPECTED_ROWS = {
    "alpaca": ALPACA,
    "sharegpt": {
        "conversations": [
            {"from": "human", "value": "Äußere dich\nzu 42"},
            {"from": "gpt", "value": 'Yes, "so".'},
        ]
    },
    "messages": {
        "messages": [
            {"role": "user", "content": "Äußere dich\nzu 42"},
            {"role": "assistant", "content": 'Yes, "so".'},
        ]
    },
    "paper": ALPACA | {"quality_score": 8, "following_score": None},
}


@pytest.mark.parametrize("format_name", EXPECTED_ROWS)
def test_a_format_holds_the_pair(format_name: str, tmp_path: Path) -> None:
    formats.write_dataset([RATED], format_name, tmp_path / "data.json")
    text = (tmp_path / "data.json").read_text(encoding="utf-8")
    assert json.loads(text) == [EXPECTED_ROWS[format_name]]
    assert "Äußere" in text


def test_an_export_that_fails_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="take one of alpaca, sharegpt, messages, paper"):
        formats.write_dataset([PLAIN], "csv", tmp_path / "data.json")
    with pytest.raises(UserError, match="no ratings"):
        formats.write_dataset([PLAIN], "paper", tmp_path / "data.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("chat", ["qwen", "llama3", "tokenizer"])
def test_a_folder_for_llama_factory(chat: Any, qwen2: Path, tmp_path: Path) -> None:
    recipe = Recipe(model=str(qwen2), chat_template=chat, training=Training(start="last"))
    formats.write_llamafactory_folder(recipe, Model(recipe.model, tmp_path / "before"), [PLAIN], tmp_path)
    info, rows = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("dataset_info", "isheep"))
    columns = info["isheep"]["columns"]
    assert {key: rows[0][column] for key, column in columns.items()} == {
        "prompt": "Äußere dich", "query": "zu 42", "response": 'Yes, "so".',
        **({"system": "You are a helpful assistant."} if chat == "qwen" else {}),
    }  # fmt: skip
    settings = yaml.safe_load((tmp_path / "sft.yaml").read_text())
    appendix_e = {
        "stage": "sft", "finetuning_type": "lora", "lora_target": "all", "lora_rank": 8, "lora_alpha": 16,
        "lora_dropout": 0.05, "cutoff_len": 1024, "lr_scheduler_type": "cosine", "warmup_steps": 20, "save_steps": 100,
        "eval_steps": 100, "load_best_model_at_end": True, "learning_rate": 5e-5, "num_train_epochs": 2,
        "max_samples": 3000, "val_size": 0.1, "bf16": True,
    }  # fmt: skip
    assert {key: settings[key] for key in appendix_e} == appendix_e
    assert settings["per_device_train_batch_size"] * settings["gradient_accumulation_steps"] == 16
    assert settings.get("template") == (None if chat == "tokenizer" else chat)
    assert settings["adapter_name_or_path"] == str(tmp_path / "before") and settings["dataset"] in info


def test_a_merged_checkpoint_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(merge, "merge_adapter", lambda model, chat, into: (into / "weights").write_text("whole"))
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    formats.write_merged_checkpoint(Model("lamb"), load_chat_template("tokenizer", "lamb"), tmp_path / "merged")
    expected = (tmp_path / "merged" / "weights", tmp_path / "merged", tmp_path)
    assert synced == [path.stat().st_ino for path in expected]


def test_a_merged_checkpoint_answers_as_the_adapter_and_stops(llama: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    chat = load_chat_template("tokenizer", str(llama))
    pairs = [PLAIN.model_copy(update={"id": name, "instruction": name, "output": f"{name} it is."}) for name in "ab"]
    training = Training(epochs=40, batch_size=2, learning_rate=3e-2, warmup_steps=2, held_out=0, lora=Lora(dropout=0))
    train_peft(Model(str(llama)), map(training_row, pairs), chat, training, tmp_path / "adapter")
    formats.write_merged_checkpoint(Model(str(llama), tmp_path / "adapter"), chat, tmp_path / "merged")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    for pair in pairs:
        turns = [{"role": "user", "content": pair.content}]
        inputs = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        output = model.generate(**inputs, max_new_tokens=30, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert tokenizer.decode(output) == pair.output + chat.end
    with pytest.raises(UserError, match="exists"):
        formats.write_merged_checkpoint(Model(str(llama)), chat, tmp_path / "merged")


def adapter_of(base: Path, into: Path) -> Model:
    """A LoRA whose B is not zero, as after training."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    adapted.save_pretrained(into)
    return Model(str(base), into)


@pytest.mark.parametrize(
    ("architecture", "tied", "dtype", "shards"),
    [("Qwen2", True, "float32", "1GB"), ("Llama", False, "bfloat16", "60KB"), ("Qwen2", True, "float16", "60KB")],
)
def test_merging_tensor_by_tensor_is_what_peft_merges(
    architecture: str, tied: bool, dtype: str, shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    from isheep.models.checkpoint import load_model

    checkpoint = make_checkpoint(tmp_path / "checkpoint", architecture, tie_word_embeddings=tied)
    stored = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=getattr(torch, dtype))
    base = tmp_path / "base"
    stored.save_pretrained(base, max_shard_size=shards)
    load_chat_template("tokenizer", str(checkpoint)).tokenizer.save_pretrained(base)
    model = adapter_of(base, tmp_path / "adapter")
    expected = load_model(model, "float32").to(getattr(torch, dtype)).state_dict()
    monkeypatch.setattr(merge, "_merge_whole", None)
    into = tmp_path / "merged"
    formats.write_merged_checkpoint(model, load_chat_template("tokenizer", str(checkpoint)), into)
    merged = AutoModelForCausalLM.from_pretrained(into, dtype=getattr(torch, dtype))
    for name, tensor in merged.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])  # a sum may round to the neighbour in the stored format
    names = sorted(path.name for path in base.glob("model*"))
    assert names == sorted(path.name for path in into.glob("model*")) and (len(names) == 1) == (shards == "1GB")
    tensors: dict[str, Any] = {}
    for path in into.glob("*.safetensors"):
        tensors |= load_file(path)
    assert any(not torch.equal(tensor, stored.state_dict()[name]) for name, tensor in tensors.items())


def test_an_adapter_of_another_kind_is_merged_by_peft(qwen2: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from isheep.models.checkpoint import load_model

    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False, use_dora=True)
    get_peft_model(AutoModelForCausalLM.from_pretrained(qwen2), config).save_pretrained(tmp_path / "adapter")
    model = Model(str(qwen2), tmp_path / "adapter")
    formats.write_merged_checkpoint(model, load_chat_template("tokenizer", str(qwen2)), tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    for name, tensor in load_model(model, "float32").state_dict().items():
        torch.testing.assert_close(merged[name], tensor)
