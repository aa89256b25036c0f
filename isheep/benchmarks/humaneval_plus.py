"""HumanEval+ (Liu et al. 2023): HumanEval's problems with about 80 times its tests, in a file of the same format."""

from pathlib import Path
from typing import Any

from isheep.benchmarks import EvalContext, humaneval
from isheep.recipe.schema import BenchmarkSettings

NAME, FILE = "humaneval_plus", "HumanEvalPlus.jsonl.gz of evalplus/humanevalplus_release"


def run(exam: EvalContext) -> dict[str, Any]:
    """As humaneval.run."""
    return humaneval.run(exam, NAME, FILE)


def prompts(data: Path | None) -> list[str]:
    return humaneval.prompts(data, NAME, FILE)


def basis(one: BenchmarkSettings) -> Any:
    return humaneval.basis(one, NAME, FILE)
