"""EvalPlus's tests (Liu et al. 2023): a solution's values on many inputs against those of the canonical solution.

Base are HumanEval's own inputs, plus are these and the extra ones. The values are compared here and not in the process
of the solution. The rules are those of EvalPlus 0.3: values are equal, or near if the canonical value is a float or a
list or tuple of floats; a zero of HumanEval/32 is right if the polynomial is nearly zero there.
"""

import math
from collections.abc import Sequence
from numbers import Number
from typing import Any, NamedTuple

from isheep import sandbox
from isheep.sandbox import CallReply, Outcome, read_value
from isheep.sandbox.process import PASSED

# The tolerance of floats where the task has none, and the relative one (numpy's assert_allclose).
DEFAULT_ATOL, RTOL = 1e-6, 1e-7
# The task of which every zero of the polynomial is right.
ANY_ZERO = "find_zero"
# CPU seconds of one call: at least these, or this many times the canonical solution's slowest call.
MIN_SECONDS, TIME_FACTOR = 4.0, 4.0
# The size of a reply: at most these bytes, and this many times those of the expected value. As Python objects a text
# takes about twenty times its memory, here and not in the limited process.
MAX_BYTES, SIZE_FACTOR = 2**20, 32
# What the values of a program may raise when they are read or compared.
NO_VALUE = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RecursionError, MemoryError)


class PlusTask(NamedTuple):
    """A task: `prefix` is the code before a solution, `name` the function; `atol` is the tolerance of its floats."""

    prefix: str
    name: str
    canonical: str
    base: Sequence[Sequence[Any]]
    extra: Sequence[Sequence[Any]]
    atol: float

    @property
    def inputs(self) -> list[Sequence[Any]]:
        """All inputs, the base ones first."""
        return [*self.base, *self.extra]

    def program(self, solution: str) -> str:
        return f"{self.prefix}{solution}\n\n"


class Expected(NamedTuple):
    """The canonical solution's values as JSON, the tolerance for each, and the CPU seconds that a call may take."""

    texts: list[bytes]
    tolerances: list[float]
    seconds: float


class PlusOutcome(NamedTuple):
    """How a solution ended on the base inputs, and on all."""

    base: Outcome
    plus: Outcome


def expected_values(task: PlusTask, isolation: str) -> tuple[Expected | None, Outcome]:
    """Run the canonical solution on all inputs. Return its values, and how it ended.

    There are no values if it fails on an input, or if a value is not equal to itself.
    """
    texts: list[bytes] = []
    tolerances: list[float] = []
    slowest = 0.0

    def accept(index: int, reply: CallReply) -> bool:
        nonlocal slowest
        slowest = max(slowest, reply.seconds)
        try:
            value = reply.value()
            # As in EvalPlus, a tolerance stays for the inputs after the first value that needs it.
            is_first = index in (0, len(task.base))
            before = task.atol if is_first else tolerances[-1]
            tolerances.append(DEFAULT_ATOL if before == 0 and is_floats(value) else before)
            texts.append(reply.text)
            return agrees(task, index, value, reply.text, tolerances[-1])
        except NO_VALUE:
            return False

    program = task.program(task.canonical)
    longest = float(sandbox.CALL_LIMITS.cpu)
    _, outcome = sandbox.call(program, task.name, task.inputs, isolation, accept, longest)
    seconds = max(MIN_SECONDS, TIME_FACTOR * slowest)
    return (Expected(texts, tolerances, seconds) if outcome.passed else None), outcome


def run_solution(task: PlusTask, solution: str, expected: Expected, isolation: str) -> PlusOutcome:
    """Return how a solution ends on the base inputs and on all. The first wrong value or exception ends it."""

    def accept(index: int, reply: CallReply) -> bool:
        text, tolerance = expected.texts[index], expected.tolerances[index]
        # Equal texts are equal values, but for NaN, which equals nothing.
        if reply.text == text and b"NaN" not in text and task.name != ANY_ZERO:
            return True
        if len(reply.line) > MAX_BYTES + SIZE_FACTOR * len(text):
            return False
        try:
            return agrees(task, index, reply.value(), text, tolerance)
        except NO_VALUE:
            return False

    program = task.program(solution)
    accepted, outcome = sandbox.call(program, task.name, task.inputs, isolation, accept, expected.seconds)
    return PlusOutcome(Outcome(PASSED) if accepted >= len(task.base) else outcome, outcome)


# --- comparing


def agrees(task: PlusTask, index: int, value: Any, expected_text: bytes, tolerance: float) -> bool:
    """Return whether a value is right for an input. Raises one of NO_VALUE if it can't be compared."""
    if task.name == ANY_ZERO:
        num_base = len(task.base)
        (coefficients,) = task.base[index] if index < num_base else task.extra[index - num_base]
        return abs(polynomial(coefficients, value)) <= task.atol
    expected = read_value(expected_text)
    return bool(value == expected) or is_near(value, expected, tolerance)


def is_near(value: Any, expected: Any, tolerance: float) -> bool:
    """Return whether values of the same type, and of the same length, agree within the tolerance; never if it is 0.

    Only numbers, and lists and tuples of them, are near: as an array, a short text or a range would take any amount of
    memory.
    """
    import numpy as np

    if tolerance == 0 or type(value) is not type(expected) or not holds_numbers(value):
        return False
    if isinstance(expected, list | tuple) and len(value) != len(expected):
        return False
    # Arrays of different shapes could be repeated to a much larger one.
    if np.shape(value) != np.shape(expected):
        return False
    return bool(np.allclose(value, expected, rtol=RTOL, atol=tolerance))


def holds_numbers(value: Any) -> bool:
    """Return whether a value is a number, or a list or tuple of nothing but such values."""
    import numpy as np

    if isinstance(value, list | tuple):
        return all(map(holds_numbers, value))
    return isinstance(value, Number | np.bool_)


def is_floats(value: Any) -> bool:
    """Return whether a value is a float, or a list or tuple of nothing but floats."""
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(entry, float) for entry in value)
    return isinstance(value, float)


def polynomial(coefficients: Sequence[float], x: float) -> float:
    """Return the polynomial's value at x; the coefficient of x to the power n is number n."""
    return sum(coefficient * math.pow(x, power) for power, coefficient in enumerate(coefficients))
