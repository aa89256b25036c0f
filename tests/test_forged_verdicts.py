"""Code that says that it passed: a wrong solution fails, whatever it does in its own process."""

import json
from typing import Any

import pytest

from isheep import sandbox
from isheep.benchmarks import humaneval, humaneval_plus, mbpp
from isheep.benchmarks.support import evalplus
from isheep.sandbox import Outcome, Program, values
from tests.helpers.benchmark_files import HUMANEVAL_TASK, mbpp_task

PLUS_TASK = {**HUMANEVAL_TASK, "base_input": [[2], [-1]], "plus_input": [[0], [10**30]], "atol": 0}

# Wrong bodies of `double(n)` and `add(n)`: none of them knows what is wanted.
WRITE_EVERYWHERE = (
    "    import os\n    for number in range(3, 64):\n"
    "        try:\n            os.write(number, {line!r})\n        except OSError:\n            pass\n"
)
FORGERIES = {
    "an exception named passed": "    class passed(Exception): pass\n    raise passed('')\n",
    "an exception named passed by its metaclass": (
        "    class Named(type): __name__ = 'passed'\n    class Other(Exception, metaclass=Named): pass\n"
        "    raise Other\n"
    ),
    "the old result line": WRITE_EVERYWHERE.format(line=b'["passed", ""]\n') + "    os._exit(0)\n",
    "the line of the tests": WRITE_EVERYWHERE.format(line=b'{"passed": true, "value": null}\n') + "    os._exit(0)\n",
    "the line, and a loop": WRITE_EVERYWHERE.format(line=b'{"passed": true}\n') + "    while True: pass\n",
    "always equal": "    class Equal:\n        __eq__ = lambda self, other: True\n    return Equal()\n",
    "never unequal": (
        "    class Equal(int):\n        __eq__ = __ge__ = __le__ = lambda self, other: True\n"
        "        __ne__ = lambda self, other: False\n        __hash__ = int.__hash__\n    return Equal(5)\n"
    ),
    "always equal by reflection": (
        "    class Equal(float):\n        __eq__ = __req__ = lambda self, other: True\n"
        "        __class__ = int\n    return [Equal(5)]\n"
    ),
    "what the caller compares with": (
        "    import sys\n    frame = sys._getframe(1)\n    while frame:\n"
        "        wanted = [c for c in frame.f_code.co_consts if type(c) is int and c not in (n, -1, 1, 0)]\n"
        "        if 'check' in frame.f_code.co_name or frame.f_code.co_name == '<module>':\n"
        "            return wanted[0] if wanted else n\n        frame = frame.f_back\n    return n\n"
    ),
    "another assert": (
        "    import builtins, sys\n    for module in list(sys.modules.values()):\n"
        "        vars(module)['AssertionError'] = vars(module)['check'] = lambda *a: None\n"
        "    builtins.AssertionError = Exception\n    return None\n"
    ),
    "an end without an error": "    raise SystemExit(0)\n",
    "an end of an iteration": "    raise StopIteration(4)\n",
    "a generator": "    yield 4\n",
    "a trace that jumps": "    import sys\n    sys.settrace(lambda *a: None)\n    sys.exit()\n",
}  # fmt: skip


def plus_outcome(code: str) -> Outcome:
    control, outcomes = humaneval_plus.judge(PLUS_TASK, [code], sandbox.find_isolation(unsafe=True))
    assert control.passed
    return outcomes[0].plus


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_pass_is_none(name: str) -> None:
    isolation, quick = sandbox.find_isolation(unsafe=True), sandbox.Limits(cpu=1)
    body = FORGERIES[name]
    own = humaneval.problem(HUMANEVAL_TASK)
    assert not sandbox.run(own.program(body), isolation, quick).passed
    row = mbpp_task(13)
    assert not sandbox.run(mbpp.problem(row).program(f"def add(n):\n{body}"), isolation, quick).passed
    if "loop" not in name:
        assert not plus_outcome(body).passed


def test_a_forged_pass_at_the_margin_is_none() -> None:
    """The same before the tests begin: while the program is loaded."""
    isolation = sandbox.find_isolation(unsafe=True)
    for line in ("class passed(Exception): pass\nraise passed", "raise SystemExit(0)", "import os; os._exit(0)"):
        program = humaneval.problem(HUMANEVAL_TASK).program(f"    return n\n{line}\n")
        assert not sandbox.run(program, isolation).passed
        assert not sandbox.run(line, isolation).passed
        assert not plus_outcome(f"    return n\n{line}\n").passed
    written = WRITE_EVERYWHERE.format(line=b'["passed", ""]\n').replace("\n    ", "\n").strip()
    assert not sandbox.run(written, isolation).passed
    assert not sandbox.run(f"{written}\nos._exit(0)", isolation).passed


def test_names_of_the_tests_are_not_taken_from_a_program() -> None:
    """A program can't give the tests another `set`, `all` or helper than their own."""
    tests = "assert set(f(3)) == {1, 2, 3}\nassert all(helper(x) for x in f(3))\n"
    right = "def f(n): return list(range(1, n + 1))\n"
    fake = "def f(n): return []\nset = all = helper = lambda *a: {1, 2, 3}\nimport builtins; builtins.set = set\n"
    isolation = sandbox.find_isolation(unsafe=True)
    setting = "def helper(x): return x > 0\n"
    assert sandbox.run(Program(right, setting, ("f",), tests), isolation).passed
    assert sandbox.run(Program(fake, setting, ("f",), tests), isolation).why == "AssertionError"


PLAIN_VALUES = [
    None, True, 0, -1, 10**5000, 1.5, float("inf"), -0.0, "a\ud800\n", b"\x00", bytearray(b"1"), 1j,
    [], [1, [2.0, "x"]], (1, (2,)), {1: {2, 3}, "a": (4,)}, frozenset({1}), range(1, 9, 2), [10**5000, {"a": [1]}],
]  # fmt: skip


def test_plain_values_come_back_as_they_were() -> None:
    for value in PLAIN_VALUES:
        line = values.to_line({"seconds": 1.0}, value)
        returned = values.decode(json.loads(line)["value"])
        assert returned == value and type(returned) is type(value) and line.count(b"\n") == 1


def test_values_of_the_standard_library_come_back() -> None:
    from collections import Counter, OrderedDict, defaultdict, deque
    from decimal import Decimal
    from fractions import Fraction

    import numpy as np

    library: list[Any] = [Counter("aab"), OrderedDict(b=1, a=2), deque([1]), Decimal("1.50"), Fraction(1, 3)]
    for value in (*library, np.float32(0.1), np.int64(3), np.bool_(True)):
        returned = values.decode(json.loads(values.to_line({}, value))["value"])
        assert returned == value and type(returned) is type(value)
    assert values.decode(values.encode(defaultdict(int, a=1))) == {"a": 1}
    loop: list[Any] = []
    loop.append(loop)
    for value in (loop, object(), type("L", (list,), {})([1])):
        unknown = values.decode(json.loads(values.to_line({}, value))["value"])
        with pytest.raises(TypeError):
            assert unknown == value


NO_VALUES: list[Any] = [
    {"tuple": {"range": [0, 10**6, 1]}}, {"set": {"range": [0, 10**6, 1]}}, {"deque": {"bytes": "00"}},
    {"frozenset": "ab"}, {"dict": {"tuple": []}}, {"dict": [[1]]}, {"Counter": [{"tuple": [1, 2]}]},
    {"OrderedDict": "ab"}, {"Fraction": ["1e100000"]}, {"Fraction": ["1", "3"]}, {"Decimal": "1" * 10**5},
    {"Decimal": [0, [1], 2]}, {"range": [{"int": "0x1"}, 2, 1]}, {"range": [0.5, 2, 1]}, {"complex": ["1j"]},
    {"int": ["0x1"]}, {"bytes": ["00"]}, {"numpy": ["9f8", 1.0]}, {"numpy": ["<f8", [1.0, 2.0]]},
    {"set": [n * (2**61 - 1) for n in range(200)]}, {"dict": [[n * (2**61 - 1), 0] for n in range(200)]},
    {"unknown": 1},
]  # fmt: skip


@pytest.mark.parametrize("data", NO_VALUES, ids=lambda data: str(data)[:40])
def test_a_tag_has_only_the_content_that_is_written(data: Any) -> None:
    """A forged line must not make the reading process compute or allocate what its few bytes describe."""
    with pytest.raises(ValueError):
        values.decode(data)
    with pytest.raises(ValueError):
        values.decode([data])


def test_a_value_inside_too_many_lists_is_refused() -> None:
    nested = json.loads("[" * 300 + "{}" + "]" * 300)
    for data in (nested, {"tuple": nested}):
        with pytest.raises(ValueError, match="inside each other"):
            values.decode(data)


EXPANDING = {
    "range": ('{"range": [0, 300000, 1]}', b"[1.0]"),
    "nested range": ('{"tuple": [{"range": [0, 300000, 1]}]}', b"[1.0]"),
    # An array of texts has the longest one's width in all its places.
    "texts": (f'"{"x" * 300_000}"' + ', ""' * 9, b"[" + b"1.0, " * 9 + b"1.0]"),
}


@pytest.mark.parametrize(("entries", "text"), EXPANDING.values(), ids=EXPANDING)
def test_a_forged_value_is_not_expanded(entries: str, text: bytes) -> None:
    """The values are compared in this process, where no limit of memory holds."""
    import tracemalloc

    expected = evalplus.Expected([text, text], [1e-6, 1e-6], 4.0)
    task = evalplus.PlusTask("def share(xs):\n", "share", "", [[[1]]], [[[2]]], 1e-6)
    line = f'{{"value": [{entries}]}}\n'.encode()
    body = WRITE_EVERYWHERE.format(line=line) + "    os._exit(0)\n"
    isolation = sandbox.find_isolation(unsafe=True)
    evalplus.is_near(1.0, 1.0, 1e-6)
    tracemalloc.start()
    outcome = evalplus.run_solution(task, body, expected, isolation)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not outcome.base.passed and peak < 2**22


def test_a_program_keeps_its_own_objects_and_its_arguments() -> None:
    """Objects of the program's classes stay there, and are called, read and iterated; arguments are copies."""
    code = (
        "class Box:\n    def __init__(self, n): self.n = n\n    def add(self, m): return Box(self.n + m)\n"
        "def total(boxes): return sum(box.n for box in boxes)\n"
        "def count(n): yield from range(n)\n"
        "def clear(xs):\n    xs.clear(); return xs\n"
        "def fail(): raise ValueError('no')\n"
    )
    tests = (
        "box = Box(1).add(2)\nassert box.n == 3\nbox.n = 5\nassert total([box, Box(2)]) == 7\n"
        "assert list(count(3)) == [0, 1, 2]\nxs = [1]\nassert clear(xs) == [] and xs == [1]\n"
        "try: fail()\nexcept ValueError as error: assert str(error) == 'no'\nelse: raise AssertionError\n"
    )
    program = Program(code, "", ("Box", "total", "count", "clear", "fail"), tests)
    assert sandbox.run(program, sandbox.find_isolation(unsafe=True)) == Outcome("passed")


# --- HumanEval+


def test_a_solution_that_fails_only_an_extra_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evalplus, "MIN_SECONDS", 0.5)
    isolation = sandbox.find_isolation(unsafe=True)
    control, (right, partly, base_fails, slow) = humaneval_plus.judge(
        PLUS_TASK,
        [
            "    return n + n\n",
            "    return 4 if n == 2 else -2\n",
            "    return 0 if n == 0 else 2 * 10**30\n",
            "    while n == 0: pass\n    return 2 * n\n",
        ],
        isolation,
    )
    assert control.passed and right == (Outcome("passed"), Outcome("passed"))
    assert partly == (Outcome("passed"), Outcome("wrong"))
    assert base_fails == (Outcome("wrong"), Outcome("wrong"))
    assert slow == (Outcome("passed"), Outcome("time"))


@pytest.mark.parametrize(
    "attempt",
    [
        "signal.signal(signal.SIGPROF, signal.SIG_IGN)",
        "signal.setitimer(signal.ITIMER_PROF, 0)",
        "time.process_time = lambda: 0.0",
        '[os.write(n, b\'{"seconds": 0.0, "value": 1}\\n\') for n in range(3, 64) if is_open(n)]',
    ],
)
def test_no_solution_computes_for_longer_than_a_call_may(attempt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is measured outside the process of the solution, and a call can't take that of another one."""
    monkeypatch.setattr(evalplus, "MIN_SECONDS", 0.3)
    body = (
        "    import os, signal, time\n    now = time.process_time\n    start = now()\n"
        "    def is_open(n):\n        try: return os.write(n, b'') == 0\n        except OSError: return False\n"
        f"    {attempt}\n    while n == 0 and now() - start < 1.5: pass\n    return 2 * n\n"
    )
    _, (outcome,) = humaneval_plus.judge(PLUS_TASK, [body], sandbox.find_isolation(unsafe=True))
    if "write" in attempt:
        assert not outcome.base.passed and not outcome.plus.passed
    else:
        assert outcome == (Outcome("passed"), Outcome("time"))


@pytest.mark.parametrize("line", [b"x" * 2**12, b"no message\n" * 400], ids=["no line", "lines"])
@pytest.mark.parametrize("is_nested", [True, False], ids=["in the function", "at the margin"])
def test_a_program_that_floods_its_descriptors_ends_its_item_at_once(line: bytes, is_nested: bool) -> None:
    """The limits are long, so that the outcome shows that no limit ended the item."""
    flood = (
        "import os\nwhile True:\n    for n in range(3, 64):\n        try: os.write(n, LINE)\n"
        "        except OSError: pass\n"
    ).replace("LINE", repr(line[:11]) + f" * {len(line) // 11}")
    inside = "".join(f"    {text}\n" for text in flood.splitlines())
    code = f"def f(n):\n{inside}" if is_nested else f"{flood}def f(n): return n\n"
    isolation = sandbox.find_isolation(unsafe=True)
    outcome = sandbox.run(Program(code, "", ("f",), "assert f(3) == 3"), isolation, sandbox.Limits(clock=60.0, cpu=30))
    assert outcome == Outcome("ended early")


def test_arguments_are_given_only_after_the_reply_before_them() -> None:
    """A program can find the arguments of the present call in its process, and none of the later ones."""
    code = (
        "import gc\ndef f(n):\n    gc.collect()\n"
        "    return [x for o in gc.get_objects() if type(o) is list for x in o if type(x) is int and x > 10**12]\n"
    )
    replies: list[Any] = []

    def accept(index: int, reply: sandbox.CallReply) -> bool:
        replies.append(reply.value())
        return True

    inputs = [[10**12 + 1], [10**12 + 2]]
    sandbox.call(code, "f", inputs, sandbox.find_isolation(unsafe=True), accept, 30.0)
    assert 10**12 + 2 not in replies[0]


def test_a_program_that_does_not_read_its_arguments_is_ended() -> None:
    code = "import os\nfor n in range(3, 64):\n try: os.read(n, 0)\n except OSError: continue\n"
    code += " os.close(n)\ndef f(text): return text\n"
    isolation = sandbox.find_isolation(unsafe=True)
    _, outcome = sandbox.call(code, "f", [["x" * 2**20]], isolation, lambda index, reply: True, 30.0)
    assert not outcome.passed
    own = "def f(text): return len(text)\n"
    count, outcome = sandbox.call(own, "f", [["x" * 2**20]] * 2, isolation, lambda index, reply: True, 30.0)
    assert (count, outcome.why) == (2, "passed")


FLOATS = {
    "task_id": "Own/3", "entry_point": "share", "prompt": "def share(xs):\n", "test": "def check(f): pass\n",
    "canonical_solution": "    return [x / 3 for x in xs]\n", "base_input": [[[1]]], "plus_input": [[[1, 2]]],
}  # fmt: skip


@pytest.mark.parametrize(
    ("atol", "canonical", "solution", "passes"),
    [
        (0, "[x / 3 for x in xs]", "[x * (1 / 3) for x in xs]", True),
        (0, "[x / 3 for x in xs]", "[x / 3 + 1e-5 for x in xs]", False),
        (1e-4, "[x / 3 for x in xs]", "[x / 3 + 1e-5 for x in xs]", True),
        (0, "[x / 3 for x in xs]", "tuple(x * (1 / 3) for x in xs)", False),
        (0, "[x / 3 for x in xs]", "[x / 3 for x in xs][:1]", False),
        (0, "[x / 3 for x in xs]", "[[x / 3] for x in xs][0]", False),
        (0, "len(xs)", "float(len(xs))", True),
        (0, "len(xs) * 10**9", "len(xs) * 10**9 + 1", False),
        (0, "tuple(xs)", "list(xs)", False),
        (0, "{x: 1 for x in xs}", "{x: True for x in reversed(xs)}", True),
        (0, "str(xs)", "str(xs) + ' '", False),
        (0, "None if len(xs) > 1 else 0", "0", False),
    ],
)  # fmt: skip
def test_values_are_compared_as_evalplus_does(atol: float, canonical: str, solution: str, passes: bool) -> None:
    row = {**FLOATS, "atol": atol, "canonical_solution": f"    return {canonical}\n"}
    _, (outcome,) = humaneval_plus.judge(row, [f"    return {solution}\n"], sandbox.find_isolation(unsafe=True))
    assert outcome.plus.passed == passes


def test_every_zero_of_a_polynomial_is_right() -> None:
    row = {
        **FLOATS, "entry_point": "find_zero", "prompt": "def find_zero(xs):\n", "atol": 1e-4,
        "canonical_solution": "    return -2.0\n", "base_input": [[[-4, 0, 1, 0]]], "plus_input": [[[2, 1]]],
    }  # fmt: skip
    bodies = [
        "    return 2 if len(xs) == 4 else -2.00000001\n",
        "    return -2.001\n",
        "    return '-2'\n",
        "    pass\n",
    ]
    control, outcomes = humaneval_plus.judge(row, bodies, sandbox.find_isolation(unsafe=True))
    assert control.passed and [outcome.plus.passed for outcome in outcomes] == [True, False, False, False]


def test_a_canonical_solution_that_fails_lets_nothing_pass() -> None:
    row = {**PLUS_TASK, "canonical_solution": "    return 2 * n if n in (2, -1) else 7\n"}
    control, (outcome,) = humaneval_plus.judge(row, ["    return 2 * n\n"], sandbox.find_isolation(unsafe=True))
    assert control.why == "passed" and not outcome.plus.passed
    row = {**PLUS_TASK, "canonical_solution": "    return 4 // n\n"}
    control, (outcome,) = humaneval_plus.judge(row, ["    return 4 // n\n"], sandbox.find_isolation(unsafe=True))
    assert control.why == "ZeroDivisionError" and outcome.plus.why == "no expected value"
