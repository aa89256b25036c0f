"""MBPP's sanitized part: 257 tasks of the test split with a task and tests that people checked, in another format."""

from pathlib import Path
from typing import Any

from isheep.benchmarks import Exam, mbpp
from isheep.recipe.schema import Benchmark


def run(exam: Exam) -> dict[str, Any]:
    """As mbpp.run."""
    return mbpp.run(exam, "mbpp_sanitized")


def prompts(data: Path | None) -> list[str]:
    return mbpp.prompts(data, "mbpp_sanitized")


def basis(one: Benchmark) -> Any:
    return mbpp.basis(one, "mbpp_sanitized")
