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
from isheep.benchmarks.support.item_parts import (
    HalfSettings,
    as_half,
    benchmark_title,
    half_name,
    part_name,
    select_items,
)
from isheep.benchmarks.support.loading import is_readable, load_benchmark, register_benchmark
from isheep.benchmarks.support.responses import ResponseContext
from isheep.benchmarks.support.validation_parts import halved, validation_half
from isheep.errors import UserError
from isheep.recipe.evaluation import BenchmarkSettings, StopRule
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
    "benchmark_title",
    "benchmarks_need_logprobs",
    "conflicts",
    "data_path",
    "evaluation_prompts",
    "fingerprint",
    "half_name",
    "halved",
    "is_readable",
    "load_benchmark",
    "part_name",
    "prompt_fingerprint",
    "register_benchmark",
    "reported_benchmarks",
    "reported_settings",
    "select_items",
    "settings_conflicts",
    "stop_settings",
    "validation_half",
    "validation_part",
    "validation_prompts",
    "without_needless_sample",
]


def benchmarks_need_logprobs(recipe: Recipe) -> bool:
    """Return whether a benchmark of the recipe, its stop rule's included, needs log-probabilities of given texts."""
    names = [settings.name for settings in recipe.evaluation]
    if recipe.stop_rule:
        names.append(recipe.stop_rule.benchmark)
    return any(load_benchmark(name).needs_logprobs for name in names)


def evaluation_prompts(benchmarks: Sequence[BenchmarkSettings]) -> list[str]:
    """Return the prompts of some benchmarks' reported items. Raises UserError if a benchmark could not be run."""
    return [prompt for settings in benchmarks for prompt in load_benchmark(settings.name).prompts(settings)]


def prompt_fingerprint(settings: BenchmarkSettings) -> str:
    """Return a hash of a benchmark's prompts and their order."""
    return fingerprint(evaluation_prompts([settings]))


def validation_prompts(recipe: Recipe) -> list[str]:
    """Return the prompts that the recipe's stop rule measures with; none if the recipe has no such rule."""
    if recipe.stop_rule is None:
        return []
    return validation_part(recipe.stop_rule).prompts(stop_settings(recipe))


def validation_part(stop: StopRule) -> ValidationPart:
    """Return the items that a stop rule measures with. Raises UserError if its benchmark has none."""
    part = load_benchmark(stop.benchmark).validation
    if part is None:
        raise UserError(f"benchmark {stop.benchmark} has no validation part: name another one in stop.benchmark")
    return part


def without_needless_sample(settings: BenchmarkSettings) -> BenchmarkSettings:
    """Return the settings without `num_items` if the benchmark, or its half, has no more items than that."""
    whole = settings.model_copy(update={"num_items": None})
    is_needless = settings.num_items and evaluation_prompts([settings]) == evaluation_prompts([whole])
    return whole if is_needless else settings


def stop_settings(recipe: Recipe) -> BenchmarkSettings:
    """Return the settings of the stop rule's benchmark: its entry in `evaluation`, or the defaults.

    They are those of the validation half if the rule measures with half of the benchmark's items.
    """
    assert recipe.stop_rule
    entries = {settings.name: settings for settings in recipe.evaluation}
    settings = entries.get(recipe.stop_rule.benchmark) or BenchmarkSettings(name=recipe.stop_rule.benchmark)
    return as_half(settings, "validation half") if validation_part(recipe.stop_rule).items else settings


def reported_settings(stop: StopRule | None, settings: BenchmarkSettings) -> BenchmarkSettings:
    """Return the settings by which a benchmark is reported: those of the other half if a stop rule reads one half.

    Code of the user's that is not allowed is not loaded: it can't be evaluated either.
    """
    if stop is None or isinstance(settings, HalfSettings):
        return settings
    if not is_readable(stop.benchmark) or not is_readable(settings.name):
        return settings
    stop_items, part = validation_part(stop).items, load_benchmark(settings.name).validation
    is_halved = stop_items and part and part.items == stop_items
    return as_half(settings, "reported half") if is_halved else settings


def reported_benchmarks(recipe: Recipe) -> list[BenchmarkSettings]:
    """Return the settings by which the recipe's benchmarks are reported."""
    return [reported_settings(recipe.stop_rule, settings) for settings in recipe.evaluation]
