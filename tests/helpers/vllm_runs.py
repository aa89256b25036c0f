"""Small runs, random adapters and comparisons for the tests of a real vLLM."""

from pathlib import Path
from typing import Any

import pytest

from isheep.cli import main
from isheep.lamb import CHECKPOINT as LAMB_CHECKPOINT

SMALL = [
    *("lamb", "iterations=2", "evaluation=[]", "synthesis.tasks=8", "synthesis.batch_size=8", "response.batch_size=4"),
    *("assessment.batch_size=4", "assessment.criteria=[quality]", "filters=[{kind: score, at_least: 1}]"),
    *("training.batch_size=4", "training.max_steps=2", "training.eval_every=1", "machine.threads=1"),
]


def run(*words: str | Path) -> None:
    """Let `isheep run` on SMALL end."""
    with pytest.raises(SystemExit) as ended:
        main(["run", *SMALL, *map(str, words)])
    assert not ended.value.code


def random_adapter(base: str | Path, into: Path, seed: int = 1, **settings: Any) -> Path:
    """Save a LoRA of random weights, rank 4; return its folder."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM", **settings)
    model = AutoModelForCausalLM.from_pretrained(LAMB_CHECKPOINT if base == "lamb" else base, dtype=torch.float32)
    get_peft_model(model, config).save_pretrained(into)
    return into


def near(results: list[list[float]], wanted: list[list[float]], **tolerance: float) -> bool:
    """Return whether every number is the wanted one within the tolerance."""
    return all(result == pytest.approx(expected, **tolerance) for result, expected in zip(results, wanted, strict=True))
