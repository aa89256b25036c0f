"""Checks of a recipe's `evaluation` and `stop` that need to know the benchmarks."""

from collections.abc import Iterator

from isheep.benchmarks.support.loading import load_benchmark
from isheep.errors import Conflicts
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.recipe.schema import Recipe


def conflicts(recipe: Recipe, iteration: int = 1) -> Conflicts:
    """Yield (key path, message) for each entry of `evaluation` and `stop` that can't work."""
    labels = [settings.label for settings in recipe.evaluation]
    for label in labels:
        if labels.count(label) > 1:
            yield ("evaluation",), f"{label!r} is listed twice"
    for index, settings in enumerate(recipe.evaluation):
        for message in settings_conflicts(settings):
            yield ("evaluation", index), message
    yield from _stop_conflicts(recipe)


def settings_conflicts(settings: BenchmarkSettings) -> Iterator[str]:
    """Yield what is wrong with the settings of one benchmark."""
    benchmark, judge = load_benchmark(settings.name), settings.judge
    if settings.max_tokens and benchmark.needs_logprobs:
        yield f"{settings.label} scores given texts, and the model writes no answers: leave out max_tokens"
    if settings.num_items and not (benchmark.validation and benchmark.validation.items):
        yield f"{settings.label} has no samples: leave out num_items"
    if not benchmark.needs_judge:
        if judge:
            yield f"{settings.label} asks no judge"
        return
    if benchmark.needs_data and not settings.data:
        yield f"{settings.label} reads the original's files, which don't come with isheep: give your copy as data"
    if judge and judge.local and not judge.model:
        yield "a local judge is a model of yours: give a run folder or a checkpoint as judge.model"
    if judge and judge.config and not benchmark.reads_judge_config:
        yield f"judge.config names a judge configuration of AlpacaEval, and {settings.label} has its own judge prompts"


def _stop_conflicts(recipe: Recipe) -> Conflicts:
    stop = recipe.stop_rule
    if stop is None:
        return
    if stop.patience >= recipe.iterations:
        why = f"{stop.patience} iterations without a gain are not over before the last one, {recipe.iterations}"
        yield ("stop", "patience"), why
    benchmark = load_benchmark(stop.benchmark)
    if benchmark.validation is None:
        why = f"{benchmark.name} has no validation part: take a benchmark of isheep's, or give yours one"
        yield ("stop", "benchmark"), f"{why} (docs/extending.md)"
    elif benchmark.needs_data and stop.benchmark not in {entry.name for entry in recipe.evaluation if entry.data}:
        yield ("stop", "benchmark"), f"{benchmark.name} needs its files: list it in evaluation, with data"
