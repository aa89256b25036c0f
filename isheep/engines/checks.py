"""Whether an engine's results are what `isheep.engines.Engine` says, for engines that may be wrong."""

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

from isheep.errors import excerpt
from isheep.records import Completion, TokenLogprobs


class WrongResult(Exception):
    """A result of an engine that can't be used: what it is, and what is needed in place of it."""

    def __init__(self, found_text: str, needed: str) -> None:
        super().__init__(f"{found_text}, not {needed}")
        self.found_text, self.needed = found_text, needed


def check_result(method: str, result: Any, arguments: Sequence[Any]) -> Any:
    """Return the result of a method of Engine on these arguments, rows as a list. Raises WrongResult if it is wrong."""
    num_rows = len(arguments[0])
    if method == "embed":
        return check_embeddings(result, num_rows)
    if not isinstance(result, Sequence) or isinstance(result, str):
        raise WrongResult(excerpt(result), f"a list of {num_rows}, one for each prompt")
    if len(result) != num_rows:
        raise WrongResult(f"{len(result)} results for {num_rows} prompts", "one for each")
    is_valid, needed = _row_check(method, arguments)
    for row in result:
        if not is_valid(row):
            raise WrongResult(f"{excerpt(row)} for a prompt", needed)
    return list(result)


def check_embeddings(result: Any, num_rows: int) -> Any:
    """Return embeddings as a float32 array. Raises WrongResult if it has not `num_rows` rows of numbers."""
    import numpy as np

    try:
        rows = np.asarray(result, np.float32)
    except (TypeError, ValueError):
        raise WrongResult(excerpt(result), f"a row of numbers for each of {num_rows} texts") from None
    if rows.ndim != 2 or len(rows) != num_rows:
        raise WrongResult(f"an array of shape {rows.shape}", f"a row for each of {num_rows} texts")
    return rows


def _row_check(method: str, arguments: Sequence[Any]) -> tuple[Callable[[Any], bool], str]:
    """Return the test of a row of a method's result, and what a row must be."""
    if method == "logprobs":
        return _is_logprobs, "a TokenLogprobs of as many log-probabilities as tokens"
    if method == "choices":
        num_options = len(arguments[1])

        def is_row(row: Any) -> bool:
            # The comparison is false for nan.
            return _is_list_of_numbers(row) and len(row) == num_options and all(value >= 0 for value in row)

        return is_row, f"a list of {num_options} probabilities, one for each option"
    return _is_completion, "a Completion of a text, a number of tokens and a finish"


def _is_completion(row: Any) -> bool:
    if not isinstance(row, Completion):
        return False
    return isinstance(row.text, str) and _is_count(row.tokens) and isinstance(row.finish, str)


def _is_logprobs(row: Any) -> bool:
    is_pair = isinstance(row, TokenLogprobs) and _is_list_of_numbers(row.logprobs)
    return is_pair and isinstance(row.tokens, Sequence) and len(row.tokens) == len(row.logprobs)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_list_of_numbers(row: Any) -> bool:
    return isinstance(row, list | tuple) and all(isinstance(value, Real) for value in row)
