"""AlpacaEval 2 (Dubois et al. 2024): GPT-4 Turbo is reference and judge, its preference weighted by its certainty."""

from pathlib import Path
from typing import Any

from isheep.benchmarks import EvalContext, alpaca_eval
from isheep.benchmarks.alpaca_eval import TWO, examine, reference
from isheep.recipe.schema import BenchmarkSettings


def run(exam: EvalContext) -> dict[str, Any]:
    """As AlpacaEval 1; the length-controlled win rate too where `data` has df_gamed.csv."""
    return examine(exam, TWO)


def prompts(data: Path | None) -> list[str]:
    return [row["instruction"] for row in reference(data, TWO)]


def basis(one: BenchmarkSettings) -> Any:
    return alpaca_eval.basis(one, TWO)
