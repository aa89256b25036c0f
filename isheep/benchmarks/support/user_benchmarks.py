"""Benchmarks of the user's own: each call of their functions is checked, so that a mistake in them is one line."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from isheep.benchmarks.support.base import Benchmark, Result, Score, ValidationPart
from isheep.benchmarks.support.context import EvalContext
from isheep.benchmarks.support.responses import ResponseContext
from isheep.errors import UserError, describe_exception, excerpt
from isheep.extensions import check_callable, user_code
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.records import Pair

T = TypeVar("T")

_ARGUMENTS: dict[str, tuple[str, ...]] = {"run": ("context",), "prompts": ("settings",), "score_inputs": ("settings",)}
"""The functions that every benchmark has, and their arguments."""
_OPTIONAL_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "score_responses": ("context",),
    "is_right": ("pair",),
    "kinds_of": ("pair",),
    "locate_items": ("settings",),
}


def guard_benchmark(benchmark: Benchmark) -> Benchmark:
    """Return a benchmark of the user's own whose functions raise UserError if they fail or return something wrong.

    Raises UserError if one of them is no function, or takes other arguments.
    """
    label = f"of benchmark {benchmark.name}"
    for name, arguments in _ARGUMENTS.items():
        check_callable(getattr(benchmark, name), f"{name} {label}", arguments)
    for name, arguments in _OPTIONAL_ARGUMENTS.items():
        if getattr(benchmark, name) is not None:
            check_callable(getattr(benchmark, name), f"{name} {label}", arguments)
    return replace(
        benchmark,
        run=_guard_run(benchmark.run, f"run {label}"),
        prompts=_guard_prompts(benchmark.prompts, f"prompts {label}"),
        score_inputs=_guard_score_inputs(benchmark.score_inputs, f"score_inputs {label}"),
        validation=_guard_validation(benchmark.validation, label),
        score_responses=_guard_responses(benchmark.score_responses, f"score_responses {label}"),
        is_right=_guard_is_right(benchmark.is_right, f"is_right {label}"),
        kinds_of=_guard_kinds_of(benchmark.kinds_of, f"kinds_of {label}"),
        locate_items=_guard_locate_items(benchmark.locate_items, f"locate_items {label}"),
    )


def check_result(result: object, name: str) -> Result:
    """Return a result. Raises UserError if it can't be stored, or has no scores that a table could show."""
    if not isinstance(result, Result):
        raise UserError(f"{name} returned {excerpt(result)}: return a Result (docs/extending.md)")
    if not result.scores:
        raise UserError(f"{name} returned a Result without scores: give it one score or more")
    for key, score in result.scores.items():
        _check_score(score, f"{name} returned a score {key!r}")
    if number := _find_non_finite(result.details):
        raise UserError(f"{name} returned {number} in details, which JSON does not have: give None instead")
    try:
        json.dumps(result.model_dump(mode="json"), allow_nan=False)
    # Values in `details` may be objects whose conversion raises any exception.
    except Exception as error:
        reason = describe_exception(error)
        raise UserError(
            f"{name} returned a Result that can't be written as JSON: {reason}: let details hold texts, numbers, "
            "lists and mappings"
        ) from error
    return result


def _find_non_finite(value: object) -> str:
    """Return "nan", "inf" or "-inf" if such a number is in a value of lists and mappings, else ""."""
    if isinstance(value, float):
        return "" if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return next(filter(None, map(_find_non_finite, value)), "")
    return ""


def _check_score(score: Score, name: str) -> None:
    if not score.items:
        raise UserError(f"{name} without items: give a value for each item")
    if score.clusters is not None and len(score.clusters) != len(score.items):
        raise UserError(f"{name} with {len(score.items)} items and {len(score.clusters)} clusters: give as many")
    for index, value in enumerate(score.items):
        if value is not None and not math.isfinite(value):
            raise UserError(f"{name} with {value} as item {index}: give None for an item without a value")


def _guard_run(run: Callable[[EvalContext], Result], name: str) -> Callable[[EvalContext], Result]:
    def guarded(context: EvalContext) -> Result:
        return check_result(_call(run, name, context), name)

    return guarded


def _guard_responses(
    score: Callable[[ResponseContext], Result] | None, name: str
) -> Callable[[ResponseContext], Result] | None:
    if score is None:
        return None

    def guarded(context: ResponseContext) -> Result:
        return check_result(_call(score, name, context), name)

    return guarded


def _guard_prompts(
    prompts: Callable[[BenchmarkSettings], list[str]], name: str
) -> Callable[[BenchmarkSettings], list[str]]:
    def guarded(settings: BenchmarkSettings) -> list[str]:
        texts: Any = _call(prompts, name, settings)
        if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"{name} returned {excerpt(texts)}: return a list of texts, one for each item")
        if not texts:
            raise UserError(f"{name} returned no prompts: return a text for each item")
        return list(texts)

    return guarded


def _guard_score_inputs(function: Callable[[BenchmarkSettings], Any], name: str) -> Callable[[BenchmarkSettings], Any]:
    def guarded(settings: BenchmarkSettings) -> Any:
        value = _call(function, name, settings)
        try:
            json.dumps(value, default=str)
        except Exception as error:
            reason = describe_exception(error)
            raise UserError(f"{name} returned what can't be written as JSON: {reason}") from error
        return value

    return guarded


def _guard_validation(part: ValidationPart | None, label: str) -> ValidationPart | None:
    if part is None:
        return None
    name = f"validation.run {label}"
    prompts, run = _guard_prompts(part.prompts, f"validation.prompts {label}"), _guard_run(part.run, name)

    def run_with_score(context: EvalContext) -> Result:
        result = run(context)
        if part.score and part.score not in result.scores:
            raise UserError(f"{name} returned no score {part.score!r}, which the stop rule reads: {result}")
        return result

    return replace(part, prompts=prompts, run=run_with_score)


def _guard_is_right(function: Callable[[Pair], bool] | None, name: str) -> Callable[[Pair], bool] | None:
    if function is None:
        return None

    def guarded(pair: Pair) -> bool:
        is_right: Any = _call(function, name, pair)
        if not isinstance(is_right, bool):
            raise UserError(f"{name} returned {excerpt(is_right)} for pair {pair.id}: return True or False")
        return is_right

    return guarded


def _guard_kinds_of(function: Callable[[Pair], list[str]] | None, name: str) -> Callable[[Pair], list[str]] | None:
    if function is None:
        return None

    def guarded(pair: Pair) -> list[str]:
        kinds: Any = _call(function, name, pair)
        if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
            raise UserError(f"{name} returned {excerpt(kinds)} for pair {pair.id}: return a list of texts")
        return kinds

    return guarded


def _guard_locate_items(
    function: Callable[[BenchmarkSettings], dict[str, list[int]]] | None, name: str
) -> Callable[[BenchmarkSettings], dict[str, list[int]]] | None:
    if function is None:
        return None

    def guarded(settings: BenchmarkSettings) -> dict[str, list[int]]:
        indices: Any = _call(function, name, settings)
        is_mapping = isinstance(indices, Mapping) and all(isinstance(row, list | tuple) for row in indices.values())
        if not is_mapping or not all(isinstance(index, int) for row in indices.values() for index in row):
            raise UserError(f"{name} returned {excerpt(indices)}: map each score to the prompt's index of each item")
        return {score: list(row) for score, row in indices.items()}

    return guarded


def _call(function: Callable[..., T], name: str, *arguments: object) -> T:
    with user_code(name, function):
        return function(*arguments)
