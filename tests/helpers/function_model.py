"""A function in place of a language model, and a recipe on lamb that is so small that a run with it takes seconds."""

from collections.abc import Sequence
from typing import Any

SMALL: dict[str, Any] = {
    "iterations": 1, "evaluation": [], "synthesis.tasks": 8, "assessment.criteria": ["quality"],
    "training.batch_size": 4, "training.max_steps": 2, "training.eval_every": 1, "training.held_out": 0.25,
    "filters": [{"kind": "score", "at_least": 8}],
}  # fmt: skip

_num_calls = 0


def write_texts(prompts: list[str]) -> Sequence[str]:
    """Stand in for a language model: write new tasks, answers, and ratings of 9."""
    global _num_calls
    _num_calls += 1
    return [write_text(prompt, f"{_num_calls}-{index}") for index, prompt in enumerate(prompts)]


def write_text(prompt: str, name: str) -> str:
    if "Please rate" in prompt:
        return "9||good"
    if prompt.endswith("Instruction:"):
        return f" Tell me about colour {name}\nInput: <noinput>\n###\n"
    return f"It is {name}."
