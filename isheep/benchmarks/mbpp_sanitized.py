"""MBPP's sanitized part: 257 tasks of the test split with a task and tests that people checked, in another format."""

from pathlib import Path
from typing import Any

from isheep.benchmarks import EvalContext, mbpp
from isheep.recipe.schema import BenchmarkSettings


def run(exam: EvalContext) -> dict[str, Any]:
    """As mbpp.run."""
    return mbpp.run(exam, "mbpp_sanitized")


def prompts(data: Path | None) -> list[str]:
    return mbpp.prompts(data, "mbpp_sanitized")


def basis(one: BenchmarkSettings) -> Any:
    return mbpp.basis(one, "mbpp_sanitized")
