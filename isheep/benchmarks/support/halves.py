"""Halves of a benchmark's items: one for a stop rule, and one that is reported instead of all items.

A hash of an item's key decides its half, so that it depends neither on the order of the items, nor on the random seed,
nor on which other items there are. Items with the same key, such as questions about one passage, are in the same half.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Literal, TypeVar

from isheep.benchmarks.support.base import PlannedAnswers, Result, ValidationPart
from isheep.benchmarks.support.context import EvalContext
from isheep.errors import UserError
from isheep.recipe.evaluation import BenchmarkSettings

T = TypeVar("T")

Half = Literal["validation half", "reported half"]
HALVES: tuple[Half, Half] = ("validation half", "reported half")


class HalfSettings(BenchmarkSettings):
    """The settings of a benchmark of which only the items of one half are asked. A recipe can't contain them."""

    half: Half


def as_half(settings: BenchmarkSettings, half: Half) -> HalfSettings:
    """Return the settings of one half of a benchmark."""
    return HalfSettings.model_validate({**settings.model_dump(), "half": half})


def half_name(settings: BenchmarkSettings) -> Half | Literal[""]:
    """Return the half that settings are about, or "" for all items."""
    return settings.half if isinstance(settings, HalfSettings) else ""


def benchmark_title(settings: BenchmarkSettings) -> str:
    """Return the name of a benchmark in tables, with the half that the settings are about."""
    half = half_name(settings)
    return f"{settings.label} ({half})" if half else settings.label


def half_of(key: Hashable) -> Half:
    """Return the half of the items with this key, a text or a number."""
    return HALVES[sha256(f"half of {key}".encode()).digest()[0] % 2]


def select_half(items: Sequence[T], key: Callable[[T], Hashable], settings: BenchmarkSettings) -> list[T]:
    """Return the items of the half that the settings are about, in their order; all of them if they are about no half.

    Raises UserError if the half has no item.
    """
    half = half_name(settings)
    selected = [item for item in items if not half or half_of(key(item)) == half]
    if items and not selected:
        raise UserError(
            f"benchmark {settings.label}: its {half} has no item, because all {len(items)} are in the other half: give "
            "more items as data, or name another benchmark in stop.benchmark"
        )
    return selected


def validation_half(
    items: str,
    run: Callable[[EvalContext], Result],
    prompts: Callable[[BenchmarkSettings], list[str]],
    score: str = "",
    largest: float = 1.0,
    planned: PlannedAnswers | None = None,
) -> ValidationPart:
    """Return a validation part that is one half of a benchmark's items; a run that stops by it reports the other half.

    `run` and `prompts` are the benchmark's own: they must load their items through `select_half`. `items` names the
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
