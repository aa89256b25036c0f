"""An engine of the user's own: each call is checked, so that a mistake in it is one line."""

from collections.abc import Sequence
from typing import Any

from isheep.engines import Engine
from isheep.engines.checks import WrongResult, check_result
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
        completions: list[Completion] = self._call("generate", prompts, sampling, seed)
        # A lone surrogate is no text that a file could hold.
        return [row._replace(text=row.text.encode(errors="replace").decode()) for row in completions]

    def logprobs(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[TokenLogprobs]:
        rows: list[TokenLogprobs] = self._call("logprobs", prompts, outputs)
        return rows

    def choices(self, prompts: Sequence[str], options: Sequence[str]) -> list[list[float]]:
        rows: list[list[float]] = self._call("choices", prompts, options)
        return rows

    def embed(self, texts: Sequence[str]) -> Any:
        return self._call("embed", texts)

    def close(self) -> None:
        with user_code(f"close of engine {self.name}", self.engine.close):
            self.engine.close()

    def _call(self, method: str, *arguments: Any) -> Any:
        """Return the result of a method. Raises UserError if it fails or returns something else than Engine says."""
        function, name = getattr(self.engine, method), f"{method} of engine {self.name}"
        with user_code(name, function):
            result = function(*arguments)
        try:
            return check_result(method, result, arguments)
        except WrongResult as error:
            raise UserError(f"{name} returned {error.found_text}: return {error.needed}") from None
