"""An engine of the user's own: each call is checked, so that a mistake in it is one line."""

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

from isheep.engines import Engine
from isheep.errors import UserError, excerpt
from isheep.extensions import user_code
from isheep.records import Completion, Sampling, TokenLogprobs


class UserEngine:
    """An engine that calls another one. Raises UserError if that fails, or returns something else than Engine says.

    `name` is the name of the engine in messages.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine, self.name = engine, name

    @property
    def max_in_flight(self) -> int:
        number: Any = self.engine.max_in_flight
        if not isinstance(number, int) or number < 1:
            raise UserError(f"max_in_flight of engine {self.name} is {excerpt(number)}: give a number, 1 or more")
        return number

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        completions = self._call("generate", len(prompts), prompts, sampling, seed)
        self._check("generate", completions, _is_completion, "a Completion of a text, a number of tokens and a finish")
        # A lone surrogate is no text that a file could hold.
        return [row._replace(text=row.text.encode(errors="replace").decode()) for row in completions]

    def logprobs(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[TokenLogprobs]:
        rows: list[TokenLogprobs] = self._call("logprobs", len(prompts), prompts, outputs)
        self._check("logprobs", rows, _is_logprobs, "a TokenLogprobs of as many log-probabilities as tokens")
        return rows

    def choices(self, prompts: Sequence[str], options: Sequence[str]) -> list[list[float]]:
        rows: list[list[float]] = self._call("choices", len(prompts), prompts, options)

        def is_row(row: Any) -> bool:
            # The comparison is false for nan.
            return _is_list_of_numbers(row) and len(row) == len(options) and all(value >= 0 for value in row)

        self._check("choices", rows, is_row, f"a list of {len(options)} probabilities, one for each option")
        return rows

    def embed(self, texts: Sequence[str]) -> Any:
        import numpy as np

        name = f"embed of engine {self.name}"
        with user_code(name, self.engine.embed):
            rows = np.asarray(self.engine.embed(texts), np.float32)
        if rows.ndim != 2 or len(rows) != len(texts):
            expected = f"return a row for each of {len(texts)} texts"
            raise UserError(f"{name} returned an array of shape {rows.shape}: {expected}")
        return rows

    def close(self) -> None:
        with user_code(f"close of engine {self.name}", self.engine.close):
            self.engine.close()

    def _call(self, method: str, num_rows: int, *arguments: object) -> Any:
        """Return the rows of a method as a list. Raises UserError if it fails or returns another number of rows."""
        function, name = getattr(self.engine, method), f"{method} of engine {self.name}"
        with user_code(name, function):
            rows = function(*arguments)
        if not isinstance(rows, Sequence) or isinstance(rows, str):
            raise UserError(f"{name} returned {excerpt(rows)}: return a list of {num_rows}, one for each prompt")
        if len(rows) != num_rows:
            raise UserError(f"{name} returned {len(rows)} results for {num_rows} prompts: return one for each")
        return list(rows)

    def _check(self, method: str, rows: Sequence[Any], is_valid: Callable[[Any], bool], needed: str) -> None:
        for row in rows:
            if not is_valid(row):
                raise UserError(f"{method} of engine {self.name} returned {excerpt(row)} for a prompt: return {needed}")


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
