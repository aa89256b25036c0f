"""Drop pairs for a reason that a function of the user's own gives."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

from isheep.errors import Conflicts, UserError, excerpt, one_line
from isheep.extensions import check_callable, is_code_allowed, load_object, name_of, user_code
from isheep.filters.base import FilterContext, FilterSettings, Reasons, RecipeFacts
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
    """Drop a pair if a function of yours returns a reason for it (docs/extending.md). Needs --allow-code, or
    allow_code=True in Python."""

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
        return FunctionFilter(self._load(), self.label).reasons(pairs, context)

    def conflicts(self, facts: RecipeFacts) -> Conflicts:
        """Yield nothing. Raises UserError if code is allowed and the function can't be loaded, or is none."""
        if is_code_allowed():
            self._load()
        yield from super().conflicts(facts)

    def _load(self) -> PairFunction:
        function: PairFunction = load_object(self.function, "filter")
        check_pair_function(function)
        return function


def as_filter(function: PairFunction) -> FunctionFilter:
    """Return a filter made of a function from a pair to a reason or None."""
    return FunctionFilter(function, str(getattr(function, "__name__", type(function).__name__)))


def _call(function: PairFunction, label: str, pair: Pair) -> str | None:
    with user_code(f"filter {label}", function, f"on pair {pair.id}"):
        why: Any = function(pair)
    if why is not None and not (isinstance(why, str) and why.strip()):
        raise UserError(
            f"filter {label} returned {excerpt(why)} for pair {pair.id}: return a reason in words to drop the pair, or "
            "None to keep it"
        )
    return one_line(why) if why else None


def check_pair_function(function: object) -> None:
    """Raise UserError if an object can't be a filter, such as a class, or a function of two arguments."""
    name = f"filter {name_of(function)}"
    if isinstance(function, type):
        raise UserError(f"{name} is a class: give a function, or an object of the class that can be called")
    check_callable(function, name, ("pair",), "a filter takes one argument, the pair")
