"""Mistakes that users make in their own code, and the form that their message must have."""

import sys
from collections.abc import Callable
from typing import Any

import pytest

import isheep


def error_of(call: Callable[[], object]) -> isheep.UserError:
    """Return the error of a call, which must be one line."""
    with pytest.raises(isheep.UserError) as raised:
        call()
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 600
    return raised.value


def fail(*arguments: object) -> Any:
    raise ZeroDivisionError("the first line\nthe second line")


def end_process(*arguments: object) -> Any:
    sys.exit("no\nmore")


class Unprintable:
    def __repr__(self) -> str:
        raise ValueError("no text")


def benchmark(**changes: Any) -> isheep.Benchmark:
    """Return a benchmark that works, except for the changes."""

    def run(context: isheep.EvalContext) -> isheep.Result:
        return isheep.Result(scores={"score": isheep.Score(items=[True, False])})

    functions = {"run": run, "prompts": lambda settings: ["a", "b"], "score_inputs": lambda settings: 1}
    return isheep.Benchmark(**{"name": "mistaken", "items_from": "package", **functions, **changes})  # type: ignore[arg-type]
