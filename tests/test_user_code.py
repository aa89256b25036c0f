"""Mistakes in code of the user's own: a line that names the code and its exception, and nothing is lost."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

import isheep
from isheep import backends, benchmarks, extensions
from isheep.backends import DEFAULT_BACKEND, Backend
from isheep.benchmarks import register_benchmark
from isheep.benchmarks.support.base import ValidationPart
from isheep.engines import transformers
from isheep.filters.score import ScoreFilter
from isheep.recipe import benchmark_names
from isheep.records import TokenLogprobs
from tests.helpers.backends import use_backend
from tests.helpers.command import refused
from tests.helpers.function_model import SMALL, write_texts
from tests.helpers.hashes import hash_files
from tests.helpers.mistakes import Unprintable, benchmark, end_process, error_of, fail
from tests.helpers.runs import make_run, write_result


@pytest.fixture(autouse=True)
def no_code_is_allowed() -> None:
    extensions.allow_code(False)


# --- benchmarks


def result(items: Any = (True,), clusters: Any = None, **fields: Any) -> Callable[[object], isheep.Result]:
    scores = {"score": isheep.Score(items=items, clusters=clusters)}
    return lambda context: isheep.Result(**{"scores": scores, **fields})


@pytest.mark.parametrize(
    ("name", "function", "message"),
    [
        (
            "run",
            fail,
            "run of benchmark mistaken failed: ZeroDivisionError: the first line the second line (mistakes.py line",
        ),
        ("run", end_process, "run of benchmark mistaken failed: SystemExit: no more"),
        ("prompts", fail, "prompts of benchmark mistaken failed: ZeroDivisionError"),
        ("score_inputs", fail, "score_inputs of benchmark mistaken failed: ZeroDivisionError"),
        ("run", lambda context: isheep.Score(items="abc"), "failed: ValidationError: Score.items: "),  # type: ignore[arg-type]
        ("run", lambda context: isheep.Result(scores={"a": 5}), "Result.scores.a: "),  # type: ignore[dict-item]
        ("score_inputs", lambda settings: {(1, 2): 3}, "can't be written as JSON: TypeError"),
    ],
)
def test_a_benchmark_that_fails_is_named_with_its_exception(
    function_base: isheep.RunModel, name: str, function: Any, message: str
) -> None:
    error = error_of(lambda: isheep.evaluate(function_base, benchmark(**{name: function})))
    assert message in str(error)
    assert error.__cause__ is not None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": lambda context: None}, "run of benchmark mistaken returned None: return a Result"),
        ({"run": lambda context: Unprintable()}, "returned <Unprintable>: return a Result"),
        ({"run": result(scores={})}, "returned a Result without scores"),
        ({"run": result(items=[])}, "score 'score' without items"),
        ({"run": result(items=[1.0, float("nan")])}, "score 'score' with nan as item 1: give None"),
        ({"run": result(items=[True], clusters=[1, 2])}, "with 1 items and 2 clusters"),
        ({"run": result(details={"model": object()})}, "can't be written as JSON"),
        ({"run": result(details={"loss": [1.0, float("inf")]})}, "returned inf in details, which JSON does not have"),
        ({"prompts": lambda settings: "abc"}, "prompts of benchmark mistaken returned 'abc': return a list of texts"),
        ({"prompts": lambda settings: [1]}, "returned [1]: return a list of texts"),
        ({"prompts": lambda settings: []}, "returned no prompts"),
        ({"run": None}, "run of benchmark mistaken is None of type NoneType: give a function(context)"),
        ({"prompts": lambda: ["a"]}, "can't be called as function(settings): TypeError: too many positional"),
    ],
)
def test_a_benchmark_that_returns_something_else_is_refused(
    function_base: isheep.RunModel, changes: dict[str, Any], message: str
) -> None:
    assert message in str(error_of(lambda: isheep.evaluate(function_base, benchmark(**changes))))
    assert not (function_base.run_dir / "base" / "eval" / "mistaken.json").exists()


def test_the_answers_of_a_benchmark_that_fails_are_kept(function_base: isheep.RunModel) -> None:
    """They are read again once the mistake in the scoring is corrected."""

    def run(context: isheep.EvalContext) -> isheep.Result:
        answers = context.answers(["a", "b"], isheep.Sampling(max_tokens=5))
        return isheep.Result(scores={"score": isheep.Score(items=[answer.nothing for answer in answers])})  # type: ignore[attr-defined]

    error = error_of(lambda: isheep.evaluate(function_base, benchmark(name="costly", run=run)))
    assert "AttributeError: 'Answer' object has no attribute 'nothing' (test_user_code.py line" in str(error)
    assert len((function_base.run_dir / "base/eval/costly/answers.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (ValidationPart(fail, result(), "score"), "validation.prompts of benchmark mistaken failed"),
        (ValidationPart(lambda settings: ["a"], fail, "score"), "validation.run of benchmark mistaken failed"),
        (ValidationPart(lambda settings: ["a"], result(), "none"), "returned no score 'none'"),
    ],
)
def test_a_validation_part_that_fails_is_named(tmp_path: Path, part: ValidationPart, message: str) -> None:
    register_benchmark(benchmark(validation=part))
    recipe = isheep.load_recipe("lamb", {**SMALL, "iterations": 2, "stop": {"benchmark": "mistaken"}})
    assert message in str(error_of(isheep.align(recipe, tmp_path / "run", engine=write_texts).run))


def test_a_failing_check_of_pairs_and_of_items_is_one_line_of_the_commands(tmp_path: Path) -> None:
    """`status` asks a benchmark about pairs, and `contamination` about the prompts of its items."""
    (tmp_path / "mine.py").write_text(
        "from isheep.benchmarks.support.base import Benchmark\n"
        "def fail(argument):\n    raise KeyError('missing')\n"
        "BENCHMARK = Benchmark('mine', run=fail, prompts=lambda settings: ['a b'], score_inputs=lambda settings: 1,\n"
        "    is_right=fail, locate_items=fail)\n"
    )
    run = make_run(tmp_path / "run", 1, evaluation=[f"{tmp_path}/mine.py:BENCHMARK"])
    row = {"id": "t1-0", "instruction": "a b", "output": "c", "finish": "stop", "tokens": 1, "seed": 1}
    (run / "iter-1" / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    write_result(run, "iter-1", "BENCHMARK", {"scores": {"score": {"items": [True]}}})
    line = refused("contamination", run, "--allow-code")
    assert "locate_items of benchmark mine failed: KeyError: 'missing' (mine.py line 3)" in line


# --- engines


class WrongEngine:
    """An engine whose methods return what the test says."""

    max_in_flight = 1

    def __init__(self, **values: Any) -> None:
        self.values = values

    def generate(self, prompts: Any, sampling: Any, seed: Any) -> Any:
        return self.values.get("generate", [isheep.Completion("9||a", 1, "stop") for _ in prompts])

    def logprobs(self, prompts: Any, outputs: Any) -> Any:
        return self.values.get("logprobs", [TokenLogprobs([1], [-1.0]) for _ in prompts])

    def choices(self, prompts: Any, options: Any) -> Any:
        return self.values["choices"]

    def embed(self, texts: Any) -> Any:
        return self.values["embed"]

    def close(self) -> None:
        if "close" in self.values:
            raise self.values["close"]


@pytest.mark.parametrize(
    ("method", "value", "message"),
    [
        ("generate", [], "generate of engine WrongEngine returned 0 results for 2 prompts: return one"),
        ("generate", None, "returned None: return a list of 2"),
        ("generate", "ab", "returned 'ab': return a list of 2"),
        ("generate", ["a", "b"], "returned 'a' for a prompt: return a Completion"),
        ("generate", [isheep.Completion("a", 1, "stop"), isheep.Completion(None, 1, "stop")], "Completion(text=None"),  # type: ignore[arg-type]
        ("generate", [isheep.Completion("a", "1", "stop")] * 2, "tokens='1'"),  # type: ignore[arg-type]
        ("logprobs", [[-1.0], [-2.0]], "returned [-1.0] for a prompt: return a TokenLogprobs"),
        ("choices", [[0.5], [0.5]], "returned [0.5] for a prompt: return a list of 3 probabilities"),
        ("embed", [1.0, 2.0], "embed of engine WrongEngine returned an array of shape (2,)"),
        ("embed", "text", "embed of engine WrongEngine returned 'text': return a row of numbers for each of 2 texts"),
        ("close", OSError("gone"), "close of engine WrongEngine failed: OSError: gone"),
    ],
)
def test_an_engine_that_returns_something_else_is_refused(method: str, value: Any, message: str) -> None:
    engine = Backend.of_engine(WrongEngine(**{method: value})).open_engine(isheep.load_recipe("lamb"), None)  # type: ignore[arg-type]
    calls: dict[str, Callable[[], object]] = {
        "generate": lambda: engine.generate(["a", "b"], isheep.Sampling(), 1),
        "logprobs": lambda: engine.logprobs(["a", "b"], ["c", "d"]),
        "choices": lambda: engine.choices(["a", "b"], ["1", "2", "3"]),
        "embed": lambda: engine.embed(["a", "b"]),
        "close": engine.close,
    }
    assert message in str(error_of(calls[method]))


class HalfEngine(WrongEngine):
    embed = None  # type: ignore[assignment]


class CallableHalf:
    def __call__(self, prompts: list[str]) -> list[str]:
        return prompts

    def generate(self) -> None: ...


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ([], "engine list is [], of type list: give a function from prompts to texts"),
        (WrongEngine, "engine WrongEngine is a class: give an object of it, WrongEngine(...)"),
        (dict, "engine dict is a class"),
        (HalfEngine(), "engine HalfEngine: embed must be methods"),
        (CallableHalf(), "engine CallableHalf lacks max_in_flight, logprobs"),
        (lambda: [], "can't be called as function(prompts)"),
    ],
)
def test_what_is_no_engine_is_refused_before_anything_runs(tmp_path: Path, engine: Any, message: str) -> None:
    recipe = isheep.load_recipe("lamb", SMALL)
    assert message in str(error_of(lambda: isheep.align(recipe, tmp_path / "run", engine=engine)))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "def mine(recipe, model):\n    return 1 / 0\n",
            "mine failed: ZeroDivisionError: division by zero (mine.py line 2)",
        ),
        ("def mine(recipe, model):\n    return []\n", "mine is [], of type list"),
        ("mine = 5\n", "mine is 5 of type int: give a function(recipe, model)"),
        ("def mine(recipe, model):\n    return None\n", "mine.py:mine returned None: return an engine"),
        (
            "def mine(prompts):\n    return prompts\n",
            "can't be called as function(recipe, model): machine.engine names a function (recipe, model) that returns "
            "an engine; if this one takes prompts and returns texts, return FunctionEngine(mine) from such a function",
        ),
        (
            "from isheep.engines.function import FunctionEngine\n"
            "def mine(recipe, model):\n    return FunctionEngine(lambda prompts: prompts[1:])\n",
            "mine.py:mine returned 63 texts for 64 prompts: return one for each",
        ),
        ("import sys\nsys.exit(3)\n", "can't be loaded: SystemExit: 3 (mine.py line 2)"),
        ("x = 1\nmine = 'a'.nothing\n", "AttributeError: 'str' object has no attribute 'nothing' (mine.py line 2)"),
    ],
)
def test_an_engine_in_a_file_that_fails_is_one_line(tmp_path: Path, code: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(code)
    line = refused(
        *(
            "run",
            "lamb",
            f"machine.engine={tmp_path}/mine.py:mine",
            "iterations=1",
            "synthesis.tasks=8",
            "evaluation=[]",
        ),
        *("filters=[]", "--out", tmp_path / "run", "--allow-code"),
    )
    assert message in line and "mine.py:mine" in line


# --- filters and trainers


class Callable2:
    """An object that is a filter, and a class that is none."""

    calls: ClassVar[list[str]] = []

    def __call__(self, pair: isheep.Pair) -> str | None:
        self.calls.append(pair.id)
        return None


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (Callable2, "filter Callable2 is a class"),
        (lambda pair, threshold: None, "can't be called as function(pair): a filter takes one argument, the pair"),
        (5, "filter int is 5 of type int: give a function(pair)"),
    ],
)
def test_what_is_no_filter_is_refused_before_anything_runs(tmp_path: Path, function: Any, message: str) -> None:
    recipe = isheep.load_recipe("lamb", SMALL)
    assert message in str(error_of(lambda: isheep.align(recipe, tmp_path / "run", filters=[function])))
    (tmp_path / "mine.py").write_text("class short:\n    pass\n")
    filters = f"filters=[{{kind: custom, function: '{tmp_path}/mine.py:short'}}]"
    line = refused("run", "lamb", filters, "--out", tmp_path / "run", "--allow-code")
    assert "filter short is a class" in line and not (tmp_path / "run").exists()


def returning(value: Any) -> Callable[[isheep.Pair], Any]:
    def drop(pair: isheep.Pair) -> Any:
        return value

    return drop


def test_a_filter_that_fails_is_named_and_the_run_continues_once_it_is_corrected(tmp_path: Path) -> None:
    recipe, run_dir = isheep.load_recipe("lamb", {**SMALL, "machine.threads": 1}), tmp_path / "run"

    def run_with(function: Any) -> isheep.Run:
        function.__name__ = "drop"
        return isheep.align(recipe, run_dir, engine=write_texts, filters=[function]).run()

    for value, message in (("", "''"), ("  ", "' '"), (True, "True"), (Unprintable(), "<Unprintable>")):
        error = error_of(lambda value=value: run_with(returning(value)))  # type: ignore[misc]
        assert f"filter drop returned {message} for pair" in str(error), value
    before = hash_files(run_dir)
    error = error_of(lambda: run_with(lambda pair: 1 / 0))
    assert re.search(
        r"filter drop failed on pair \S+: ZeroDivisionError: division by zero \(test_user_code", str(error)
    )
    assert isinstance(error.__cause__, ZeroDivisionError)
    assert hash_files(run_dir) == before and "iter-1/pairs.jsonl" in before
    run = run_with(lambda pair: "two\nlines" if pair.id.endswith("0") else None)
    assert [drop.why for drop in run.iterations[0].dropped] == ["two lines"]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (
            fail,
            "train function fail failed: ZeroDivisionError: the first line the second line (mistakes.py line",
        ),
        (lambda *arguments: None, "wrote nothing into"),
    ],
)
def test_a_train_function_that_fails_is_named(tmp_path: Path, train: Any, message: str) -> None:
    recipe = isheep.load_recipe("lamb", SMALL)
    alignment = isheep.align(recipe, tmp_path / "run", engine=write_texts, backend=Backend(train=train))
    assert message in str(error_of(alignment.run))
    assert (tmp_path / "run/iter-1/train.json").exists() and not (tmp_path / "run/iter-1/adapter").exists()


# --- code in the package


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "isheep.engines.gone",
            "'mine' of ENGINES in isheep/backends.py: isheep.engines.gone can't be loaded: ModuleNo",
        ),
        ("isheep.engines.tokens", "isheep.engines.tokens has no PACKAGE, ONLY_RECIPE_MODEL, open_from_recipe, check"),
    ],
)
def test_a_registered_engine_that_is_none_is_one_line(
    monkeypatch: pytest.MonkeyPatch, entry: str, message: str
) -> None:
    monkeypatch.setitem(backends.ENGINES, "mine", entry)
    monkeypatch.setitem(backends.TRAINERS, "mine", "isheep.sandbox.process_guard")
    assert message in refused("plan", "lamb", "machine.engine=mine")
    assert "'mine' of TRAINERS in isheep/backends.py: isheep.sandbox.process_guard has no train, check" in refused(
        "plan", "lamb", "machine.trainer=mine"
    )


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("empty", "x = 1\n", "isheep/benchmarks/empty.py has no BENCHMARK: write BENCHMARK = Benchmark(...)"),
        ("broken", "x = 1\n1 / 0\n", "isheep.benchmarks.broken can't be loaded: ZeroDivisionError"),
        (
            "renamed",
            "from tests.helpers.mistakes import benchmark\nBENCHMARK = benchmark(name='capital')\n",
            "isheep/benchmarks/renamed.py: the name of its BENCHMARK is 'capital': make it 'renamed', like the file",
        ),
    ],
)
def test_a_file_of_the_package_without_its_benchmark_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: str, message: str
) -> None:
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setattr(benchmarks, "__path__", [*benchmarks.__path__, str(tmp_path)])
    monkeypatch.setattr(benchmark_names, "_added", [name])
    assert message in refused("plan", "lamb", f"evaluation=[{name}]")


def test_a_filter_of_the_package_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reasons(settings: object, pairs: object, context: object) -> Iterator[tuple[str, str]]:
        yield from fail()

    monkeypatch.setattr(ScoreFilter, "reasons", reasons)
    error = error_of(isheep.align(isheep.load_recipe("lamb", SMALL), tmp_path / "run", engine=write_texts).run)
    assert "filter score failed: ZeroDivisionError: the first line the second line (test_user_code.py" in str(error)


# --- chat templates


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}\n{{ m.content }", "chat_template: the template is not Jinja: line 2: unexpected '}'"),
        (
            "{% for m in messages %}{{ m.content }}",
            "chat_template: the template is not Jinja: line 1: Unexpected end of",
        ),
        ("{% generate %}", "chat_template: the template is not Jinja: line 1: Encountered unknown tag 'generate'"),
    ],
)
def test_a_broken_chat_template_is_refused_when_the_recipe_is_opened(
    tmp_path: Path, template: str, message: str
) -> None:
    assert message in str(error_of(lambda: isheep.load_recipe("lamb", {"chat_template": template})))
    (tmp_path / "mine.jinja").write_text(template)
    (tmp_path / "mine.yaml").write_text("like: lamb\nchat_template: mine.jinja\n")
    assert f"mine.yaml line 2: {message}" in refused("run", tmp_path / "mine.yaml", "--out", tmp_path / "run")


def test_the_blocks_of_transformers_are_part_of_a_chat_template() -> None:
    template = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}"
    assert isheep.load_recipe("lamb", {"chat_template": template}).chat_template == template


def test_a_template_that_fails_only_before_an_answer_is_refused_before_generation(tmp_path: Path) -> None:
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    template += "{% if add_generation_prompt %}{{ raise_exception('no\nanswers') }}{% endif %}"
    recipe = isheep.load_recipe("lamb", {**SMALL, "chat_template": template})
    error = error_of(isheep.align(recipe, tmp_path / "run", engine=write_texts).run)
    assert "can't be rendered: no answers" in str(error) and not (tmp_path / "run").exists()


# --- code that is not allowed


@pytest.mark.parametrize("command", ["judge-calibration", "contamination", "eval", "chat", "annotate", "run"])
def test_code_that_is_not_allowed_is_refused_before_a_model_is_opened(
    tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    # The real `open_engine` refuses the code, so only what it would open is replaced.
    monkeypatch.setattr(transformers, "open_engine", lambda *arguments, **keywords: opened.append(arguments))
    backend = replace(DEFAULT_BACKEND, load_chat_template=lambda *arguments: opened.append(arguments))  # type: ignore[arg-type, return-value, func-returns-value]
    use_backend(monkeypatch, backend)
    (tmp_path / "mine.py").write_text("raise SystemExit('executed')\n")
    engine = {"machine": {"engine": f"{tmp_path}/mine.py:open_engine"}} if command in ("chat", "annotate") else {}
    run = make_run(tmp_path / "run", 1, evaluation=["lamb", f"{tmp_path}/mine.py:BENCHMARK"], **engine)
    row = {"id": "t1-0", "instruction": "a b", "output": "c", "finish": "stop", "tokens": 1, "seed": 1}
    (run / "iter-1" / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    rated = {**row, "grades": {name: {"score": 9, "reply": "9"} for name in ("quality", "following")}}
    (run / "iter-1" / "assessed.jsonl").write_text(json.dumps(rated) + "\n")
    before = hash_files(run)
    words = ("--compare", "0", "1") if command == "annotate" else ()
    line = refused(command, run, *words)
    assert "is Python code of your own: pass --allow-code to execute it" in line
    assert not [arguments for arguments in opened if command != "annotate"] and hash_files(run) == before
