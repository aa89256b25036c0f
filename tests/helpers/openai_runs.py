"""The openai engine in tests: opened at a server on loopback, prompts for it, and small runs on it."""

from pathlib import Path
from typing import Any

import pytest

from isheep.cli import main
from isheep.engines import transformers
from isheep.engines.openai import open_engine
from isheep.engines.openai_engine import OpenAIEngine
from isheep.engines.server import ServerRequirements
from isheep.lamb import CHECKPOINT as LAMB_CHECKPOINT
from isheep.models.chat_template import load_chat_template
from isheep.recipe.machine import ServerSettings
from isheep.records import Model, Sampling
from isheep.seeds import load_seed_file

KEY = "sk-secret-0123456789"
GREEDY = Sampling(temperature=0, top_p=1, max_tokens=24, stop=("<|im_end|>",))
DRAWN = Sampling(temperature=1.0, top_p=0.9, max_tokens=12, stop=("<|im_end|>",))
SCORES = [f" {score}" for score in range(1, 11)]
ALL = ServerRequirements(sampling=True, options=SCORES, prompt_logprobs=True, adapters=True)
SMALL = [
    *("lamb", "iterations=1", "evaluation=[]", "synthesis.tasks=8", "synthesis.batch_size=8", "response.batch_size=4"),
    *(
        "assessment.batch_size=4",
        "training.batch_size=4",
        "training.max_steps=2",
        "training.eval_every=1",
        "filters=[{kind: score, at_least: 2}]",
    ),
    "machine.engine=openai",
    "machine.report=false",
]


def served_engine(url: str, base: str = "lamb", adapter: Path | None = None, **settings: Any) -> OpenAIEngine:
    """Return the engine on a model that a server has."""
    server = ServerSettings(**{"url": url, "max_in_flight": 4, "retry_wait": 0.01, **settings})
    return open_engine(Model(base, adapter), server, lambda: load_chat_template("tokenizer", base))


def local_engine(base: str | Path = "lamb", adapter: Path | None = None) -> transformers.TransformersEngine:
    """Return the engine on a model in this process, which an answer of a server is compared with."""
    return transformers.open_engine(Model(str(base), adapter), threads=1, device="cpu")


def run(*words: str | Path) -> None:
    """Let `isheep run` on SMALL end."""
    with pytest.raises(SystemExit) as ended:
        main(["run", *SMALL, *map(str, words)])
    assert not ended.value.code


def questions(count: int) -> list[str]:
    """Return prompts: three in four are turns of a chat, the others plain text."""
    chat = load_chat_template("tokenizer", "lamb")
    seeds = load_seed_file(LAMB_CHECKPOINT.parent / "seed_tasks.jsonl").tasks
    return [chat.prompt(seed.content) if n % 4 else seed.content for n, seed in enumerate(seeds[:count])]
