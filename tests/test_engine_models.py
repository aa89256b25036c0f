"""Which models the transformers engine opens, in which type, with which adapter; functions as engines."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from isheep.engines.function import FunctionEngine, SeededFunctionEngine
from isheep.engines.transformers import open_engine, open_single
from isheep.errors import UserError
from isheep.lamb import CHECKPOINT as LAMB_CHECKPOINT
from isheep.models import checkpoint as checkpoints
from isheep.models.checkpoint import find_checkpoint
from isheep.recipe.machine import Machine
from isheep.recipe.schema import Recipe
from isheep.records import Model, Sampling
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.transformers_engine import (
    DRAWN,
    GREEDY,
    MIXED,
    SHARED,
    greedy_one_by_one,
    opened,
    reference,
    refuse_near_ties,
)

pytestmark = pytest.mark.numeric


@pytest.fixture
def clear(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_near_ties(monkeypatch)


@pytest.mark.parametrize(
    ("stored", "width", "instructions", "dtype", "computed"),
    [
        (torch.bfloat16, 256, True, None, torch.bfloat16),
        (torch.float16, 256, True, None, torch.bfloat16),
        (torch.bfloat16, 256, False, None, torch.float32),
        (torch.float32, 256, True, None, torch.float32),
        (torch.bfloat16, 48, True, None, torch.float32),
        (torch.bfloat16, 256, True, "float32", torch.float32),
        (torch.float32, 48, False, "bfloat16", torch.bfloat16),
    ],
)
def test_the_machine_computes_in_the_type_of_the_checkpoint_where_the_cpu_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: Any, width: int, instructions: bool, dtype: Any,
    computed: Any,
) -> None:  # fmt: skip
    monkeypatch.setattr(checkpoints, "has_bfloat16_instructions", lambda: instructions)
    path = make_checkpoint(tmp_path, "Qwen2", hidden_size=width)
    AutoModelForCausalLM.from_pretrained(path, dtype=stored).save_pretrained(path)
    recipe = Recipe(model=str(path), machine=Machine(device="cpu", dtype=dtype))
    engine = open_single(recipe, Model(str(path)))
    assert engine.loaded.model.dtype == computed


def test_lamb_computes_in_float32_on_any_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "has_bfloat16_instructions", lambda: True)
    assert checkpoints.choose_dtype("lamb", "cpu") == "float32"
    assert checkpoints.choose_dtype("lamb", "cuda:0") == "bfloat16"


@pytest.fixture
def adapter(checkpoint: Path, tmp_path: Path) -> Path:
    """A LoRA adapter of random weights."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(reference(checkpoint)[0], config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.usefixtures("clear")
def test_an_adapter_is_merged_in(checkpoint: Path, adapter: Path) -> None:
    done = open_engine(Model(str(checkpoint), adapter), device="cpu").generate(SHARED, GREEDY, 0)
    wanted = greedy_one_by_one(checkpoint, SHARED, 12, adapter)
    assert [c.text for c in done] == wanted != greedy_one_by_one(checkpoint, SHARED, 12)


def test_in_bfloat16_an_adapter_stays_beside_the_weights(checkpoint: Path, adapter: Path) -> None:
    engine = open_engine(Model(str(checkpoint), adapter), device="cpu", dtype="bfloat16")
    base = open_engine(Model(str(checkpoint)), device="cpu", dtype="bfloat16")
    weights = {name.replace(".base_layer", ""): value for name, value in engine.loaded.model.named_parameters()}
    assert all(torch.equal(weights[name], value) for name, value in base.loaded.model.named_parameters())
    assert engine.loaded.model.config._attn_implementation == "isheep"
    exact = open_engine(Model(str(checkpoint), adapter), device="cpu").embed(MIXED)
    np.testing.assert_allclose(engine.embed(MIXED), exact, atol=0.1)
    assert np.abs(base.embed(MIXED) - exact).max() > 0.5
    assert len(engine.generate(SHARED, DRAWN, 0)) == 4


def test_a_folder_called_lamb_is_taken_where_it_holds_a_checkpoint(
    qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lamb").mkdir()
    assert find_checkpoint("lamb") == str(LAMB_CHECKPOINT)
    (tmp_path / "lamb" / "config.json").touch()
    assert find_checkpoint("lamb") == "lamb"


@pytest.mark.parametrize(
    "settings",
    [{"hidden_size": 64}, {"num_attention_heads": 0}, {"num_hidden_layers": "two"}, {"hidden_size": None}],
)
def test_a_config_that_does_not_fit_its_weights_is_one_line(
    qwen2: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    path = shutil.copytree(qwen2, tmp_path / "model")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | settings))
    with pytest.raises(UserError, match="can't be loaded") as error:
        opened(path).generate(["a"], GREEDY, 0)
    assert "\n" not in str(error.value)


def test_a_path_that_is_no_checkpoint_is_one_line(qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "qwen2"}')
    for base, message in [
        (str(tmp_path / "none"), "not found"),
        (str(tmp_path), "no config.json"),
        ("nobody/no-such-model", "can't be loaded"),
        (str(tmp_path / "broken"), "can't be loaded"),
    ]:
        with pytest.raises(UserError, match=message) as error:
            open_engine(Model(base)).generate(["a"], GREEDY, 0)
        assert "\n" not in str(error.value) and base in str(error.value)
    with pytest.raises(UserError, match="has no adapter_config.json: give the folder of a LoRA"):
        open_engine(Model(str(qwen2), tmp_path)).generate(["a"], GREEDY, 0)


def test_a_function_is_an_engine() -> None:
    engine = SeededFunctionEngine(lambda prompt, seed: f"{prompt} one two ### three {seed % 2}")
    cut, stopped = Sampling(max_tokens=2), Sampling(stop=("###",))
    assert engine.generate(["a", "b"], cut, 0) == [("a one", 2, "length"), ("b one", 2, "length")]
    assert engine.generate(["a"], stopped, 0) == [("a one two ", 3, "stop")]
    assert engine.embed(["a", "b", "a"]).shape == (3, 16)
    assert engine.logprobs(["a"], ["x y"])[0].logprobs == [-1.0, -1.0]
    assert engine.choices(["a", "b"], ["a", "a one", "x"]) == [[0, 1, 0], [0, 0, 0]]


def test_a_function_from_prompts_to_texts_is_an_engine() -> None:
    engine = FunctionEngine(lambda prompts: [f"{prompt} one two ### three" for prompt in prompts])
    assert engine.generate(["a", "b"], Sampling(stop=("###",)), 0) == [
        ("a one two ", 3, "stop"),
        ("b one two ", 3, "stop"),
    ]
    assert engine.generate([], Sampling(), 0) == []
    assert engine.choices(["a", "b"], ["a", "a one", "x"]) == [[0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["one"], "returned 1 texts for 2 prompts: return one for each"),
        ([], "returned 0 texts for 2 prompts"),
        (["a", "b", "c"], "returned 3 texts for 2 prompts"),
        ("ab", "must return one text per prompt, 2 here; it returned 'ab'"),
        (["a", None], "must return one text per prompt, 2 here"),
        (None, "must return one text per prompt, 2 here; it returned None"),
    ],
)
def test_a_function_must_return_a_text_for_each_prompt(texts: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        FunctionEngine(lambda prompts: texts).generate(["a", "b"], Sampling(), 0)
