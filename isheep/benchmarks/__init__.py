"""Benchmarks, one module each; the name of the file is the name in a recipe's `evaluation`.

To add a benchmark, add a module that holds `BENCHMARK = Benchmark(...)`. The folders standard/ and paper/ hold the
standard benchmarks under two protocols; their names begin with the folder's, as in "standard/piqa".
"""

from collections.abc import Sequence

from isheep.benchmarks.support.base import (
    Benchmark,
    Fingerprints,
    PlannedAnswers,
    Result,
    Score,
    ValidationPart,
)
from isheep.benchmarks.support.conflicts import conflicts, settings_conflicts
from isheep.benchmarks.support.context import EvalContext, data_path
from isheep.benchmarks.support.fingerprints import fingerprint
from isheep.benchmarks.support.loading import is_readable, load_benchmark, register_benchmark
from isheep.benchmarks.support.responses import ResponseContext
from isheep.recipe.evaluation import BenchmarkSettings, Stop
from isheep.recipe.schema import Recipe

__all__ = [
    "Benchmark",
    "EvalContext",
    "Fingerprints",
    "PlannedAnswers",
    "ResponseContext",
    "Result",
    "Score",
    "ValidationPart",
    "benchmarks_need_logprobs",
    "conflicts",
    "data_path",
    "evaluation_prompts",
    "fingerprint",
    "is_readable",
    "load_benchmark",
    "prompt_fingerprint",
    "register_benchmark",
    "settings_conflicts",
    "validation_prompts",
]


def benchmarks_need_logprobs(recipe: Recipe) -> bool:
    """Return whether a benchmark of the recipe, its stop rule's included, needs log-probabilities of given texts."""
    names = [settings.name for settings in recipe.evaluation]
    if recipe.stop:
        names.append(recipe.stop.benchmark)
    return any(load_benchmark(name).needs_logprobs for name in names)


def evaluation_prompts(benchmarks: Sequence[BenchmarkSettings]) -> list[str]:
    """Return the prompts of some benchmarks' reported items. Raises UserError if a benchmark could not be run."""
    return [prompt for settings in benchmarks for prompt in load_benchmark(settings.name).prompts(settings)]


def prompt_fingerprint(settings: BenchmarkSettings) -> str:
    """Return a hash of a benchmark's prompts and their order."""
    return fingerprint(evaluation_prompts([settings]))


def validation_prompts(stop: Stop | None) -> list[str]:
    """Return the prompts that a stop rule measures with; none if the recipe has no such rule."""
    if stop is None:
        return []
    part = load_benchmark(stop.benchmark).validation
    return part.prompts(BenchmarkSettings(name=stop.benchmark)) if part else []
