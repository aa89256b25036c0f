"""The transformers engine on tiny checkpoints, and what plain calls of transformers write."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from isheep.engines import decode as decoding
from isheep.engines.transformers import TransformersEngine, open_engine
from isheep.records import Model, Sampling

PREFIX = "List three colours in lower case: red, green, blue. "
LONG = "Give the opposite of hot; cold. A small dog says woof, a cat says meow. " * 2
MIXED = ["What is 12 plus 30?", "a", LONG, "hot"]
SHARED = [PREFIX + text for text in MIXED]
GREEDY = Sampling(temperature=0, max_tokens=12)
DRAWN = Sampling(temperature=1.0, top_p=0.9, max_tokens=12)

PAIRS = [f"{text}{tail}" for text in (LONG, *SHARED) for tail in (" Is it good? It is", " Say how short it is:", "")]

# What rounding may change: the logits of the checkpoints by some 1e-5, and the share of a nucleus by less than 1e-6.
NEAR_LOGITS, NEAR_SHARES = 2e-4, 5e-6


def refuse_near_ties(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where an engine takes a token by so little that another CPU, or another shape of a batch, may take another.

    Such a test needs another seed or prompt.
    """
    choose = decoding.draw_tokens

    def clearly(logits: torch.Tensor, uniforms: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
        tokens = choose(logits, uniforms, temperature, top_p)
        first, second = logits.topk(2).values.T
        assert temperature or (first - second).min() > NEAR_LOGITS, "two logits nearly tie"
        for change in (-NEAR_SHARES, NEAR_SHARES) if temperature else ():
            for uniform, share in ((uniforms + change, top_p), (uniforms, top_p + change)):
                assert torch.equal(choose(logits, uniform, temperature, share), tokens), "a draw lies near a border"
        return tokens

    monkeypatch.setattr(decoding, "draw_tokens", clearly)


def opened(path: Path, **settings: Any) -> TransformersEngine:
    return open_engine(Model(str(path)), device="cpu", **settings)


def reference(path: Path, adapter: Path | None = None) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    return model, AutoTokenizer.from_pretrained(path)


def greedy_one_by_one(path: Path, prompts: list[str], length: int, adapter: Path | None = None) -> list[str]:
    model, tokenizer = reference(path, adapter)
    texts = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=length, do_sample=False)
        texts.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
    return texts
