"""Drop pairs for a reason that a function of the user's own gives."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

from isheep.errors import UserError
from isheep.extensions import load_object
from isheep.filters.base import FilterContext, FilterSettings, Reasons
from isheep.records import Pair

PairFunction = Callable[[Pair], str | None]
"""Returns the reason to drop a pair in words, or None to keep it. A pair with ratings is an AssessedPair."""


class FunctionFilter(NamedTuple):
    """A function as a filter, for `isheep.align(..., filters=[function])`."""

    function: PairFunction
    label: str

    def reasons(self, pairs: Iterable[Pair], context: FilterContext) -> Reasons:
        """Yield the pairs that the function gives a reason for. Raises UserError if the function fails."""
        for pair in pairs:
            why = _call(self.function, self.label, pair)
            if why is not None:
                yield pair.id, why


class CustomFilter(FilterSettings):
    """Drop a pair if a function of yours returns a reason for it (docs/extending.md). Requires --allow-code."""

    kind: Literal["custom"]
    """Which filter this is."""
    function: str
    """The function, as file.py:name (looked for beside the recipe, then in the working directory) or
    package.module:name. It gets a pair and returns a reason in words, or None to keep the pair."""

    @property
    def label(self) -> str:
        """The function's name."""
        return self.function.rpartition(":")[2]

    def reasons(self, pairs: Iterable[Pair], context: FilterContext) -> Reasons:
        """Yield the pairs that the function gives a reason for. Raises UserError if it can't be loaded, or fails."""
        return FunctionFilter(load_object(self.function, "filter"), self.label).reasons(pairs, context)


def as_filter(function: PairFunction) -> FunctionFilter:
    """Return a filter made of a function from a pair to a reason or None."""
    return FunctionFilter(function, getattr(function, "__name__", type(function).__name__))


def _call(function: PairFunction, label: str, pair: Pair) -> str | None:
    try:
        why: Any = function(pair)
    except Exception as error:
        raise UserError(f"filter {label} failed on pair {pair.id}: {type(error).__name__}: {error}") from error
    if why is not None and not isinstance(why, str):
        raise UserError(f"filter {label} returned {why!r} for pair {pair.id}: return a reason in words, or None")
    return why
