"""Validation parts that are one half of a benchmark's items."""

from collections.abc import Callable
from dataclasses import replace

from isheep.benchmarks.support.base import PlannedAnswers, Result, ValidationPart
from isheep.benchmarks.support.context import EvalContext
from isheep.benchmarks.support.item_parts import as_half
from isheep.recipe.evaluation import BenchmarkSettings


def validation_half(
    items: str,
    run: Callable[[EvalContext], Result],
    prompts: Callable[[BenchmarkSettings], list[str]],
    score: str = "",
    largest: float = 1.0,
    planned: PlannedAnswers | None = None,
) -> ValidationPart:
    """Return a validation part that is one half of a benchmark's items; a run that stops by it reports the other half.

    `run` and `prompts` are the benchmark's own: they must load their items through `select_items`. `items` names the
    set of items, so that other benchmarks on the same items report the other half, too. `planned` is that of all items.
    """

    def run_half(context: EvalContext) -> Result:
        return run(replace(context, settings=as_half(context.settings, "validation half")))

    def half_prompts(settings: BenchmarkSettings) -> list[str]:
        return prompts(as_half(settings, "validation half"))

    return ValidationPart(half_prompts, run_half, score, halved(planned), items, largest)


def halved(planned: PlannedAnswers | None) -> PlannedAnswers | None:
    """Return the size of a half of a benchmark, which is about half of its answers."""
    return planned._replace(num_answers=planned.num_answers // 2) if planned else None
