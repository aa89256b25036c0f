"""HumanEval and MBPP: code read out of answers, run with its tests, the canonical solutions first."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isheep import sandbox
from isheep.benchmarks import EvalContext, Score, humaneval, humaneval_plus, load_benchmark, mbpp, mbpp_sanitized
from isheep.benchmarks.support.data_files import read_rows
from isheep.benchmarks.support.programs import PASSED, Verdict, body, extract, why_wrong
from isheep.engines.function import SeededFunctionEngine
from isheep.errors import UserError
from isheep.evaluation.results import read_result
from isheep.models.chat_template import load_chat_template
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.records import Answer
from isheep.rundir.folder import RunFolder
from tests.helpers.benchmark_files import HUMANEVAL_TASK, mbpp_task
from tests.helpers.command import isheep
from tests.helpers.data_files import DATA

SECOND = {
    "task_id": "Own/1", "entry_point": "second",
    "prompt": 'from typing import List\n\ndef first(xs: List[int]):\n    return xs[0]\n\n\n'
              'def second(xs: List[int]):\n    """The one after the first."""\n',
    "canonical_solution": "    return first(xs[1:])\n", "test": "def check(f):\n    assert f([1, 2]) == 2\n",
}  # fmt: skip
WRONG = {**HUMANEVAL_TASK, "task_id": "Own/2", "canonical_solution": "    return n\n"}


def test_why_an_answer_is_wrong_is_how_its_program_ended(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, tmp_path)
    ends = [PASSED, "AssertionError"]
    folder.write("verdicts.jsonl", Verdict, [Verdict(id=str(n), why=why) for n, why in enumerate(ends)])
    answers = [Answer(output="def f(): pass", finish="stop", tokens=5)] * 2
    assert why_wrong(folder, answers) == ["", "the tests ended with: AssertionError"]


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    path = tmp_path / "own.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, (HUMANEVAL_TASK, SECOND))).encode()))
    return path


def settings(data: Path | None, name: str = "humaneval") -> BenchmarkSettings:
    return BenchmarkSettings(name=name, data=str(data) if data else None)


def exam(
    tmp_path: Path,
    model: Path,
    data: Path | None,
    answer: Callable[[str], str],
    base: bool = False,
    name: str = "humaneval",
) -> EvalContext:
    folder = RunFolder(tmp_path / "run" / "iter-1" / "eval" / "own", tmp_path / "run")
    folder.path.mkdir(parents=True)
    engine, chat = SeededFunctionEngine(lambda prompt, seed: answer(prompt)), load_chat_template("qwen", str(model))
    return EvalContext(engine, chat, 42, folder, settings(data, name), base)


# --- answers


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("```python\ndef f(n):\n    return n\n```", "def f(n):\n    return n\n"),
        ("Sure!\n\n```py\ndef f(n):\n    return n\n```\nIt returns n.", "def f(n):\n    return n\n"),
        ("```\nprint(f(2))\n```\n```python\nimport os\ndef f(n): ...\n```", "import os\ndef f(n): ...\n"),
        ("```python\nx = 1\n```\nand\n```\ny = 2\n```", "x = 1\n"),
        ("Open:\n```python\ndef f(n):\n    return n", "def f(n):\n    return n"),
        ("1. So:\n   ```python\n   def f(n):\n       return n\n   ```", "def f(n):\n    return n\n"),
        ("    return n\n", "    return n\n"),
        ("Here it is.\nimport os\n\ndef f(n):\n    return n\n\nThis returns n.",
         "import os\n\ndef f(n):\n    return n\n"),
        ("def f(n):\n  return g(n)\n\n# helps\ndef g(n):\n  return n\nX = 1\nprint(f(1))\nBut note (see above).",
         "def f(n):\n  return g(n)\n\n# helps\ndef g(n):\n  return n\nX = 1\nprint(f(1))"),
        ("@cache\ndef f(n):\n    return n", "@cache\ndef f(n):\n    return n"),
        ("From here on, the class of numbers is left.", "From here on, the class of numbers is left."),
        ("", ""),
    ],
)  # fmt: skip
def test_code_in_an_answer(answer: str, code: str) -> None:
    assert extract(answer, "f") == code


def test_a_body_is_indented_where_it_is_not() -> None:
    assert body("return n\n") == "    return n\n" and body("\n  return n") == "\n  return n"


# --- HumanEval


REPLIES = {
    "whole": ("```python\ndef double(n):\n    return n + n\n```", "def second(xs):\n    return first(xs[1:])"),
    "body": ("```\nreturn 2 * n\n```", "    return first(xs[1:])"),
    "wrong": ("def double(n): return n", "```python\nwhile True: pass\n```"),
    "none": ("I can't.", ""),
}


@pytest.mark.parametrize(
    ("kind", "right"),
    [("whole", [True, True]), ("body", [True, True]), ("wrong", [False, False]), ("none", [False, False])],
)
def test_humaneval_of_an_aligned_model(
    tmp_path: Path, qwen2: Path, problems: Path, kind: str, right: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox.run_all, "__defaults__", (sandbox.DEFAULT_LIMITS._replace(cpu=1),))
    prompts_seen: list[str] = []

    def answer(prompt: str) -> str:
        prompts_seen.append(prompt)
        return REPLIES[kind]["def second" in prompt]

    result = humaneval.BENCHMARK.run(exam(tmp_path, qwen2, problems, answer))
    assert result.scores == {"pass@1": Score(items=right)} and result.template == "qwen"
    assert result.details["control"] == {"passed": 2, "of": 2, "failed": {}} and not result.notes
    assert sum(result.details["outcomes"].values()) == 2 and result.details["cut_off"] == 0
    assert prompts_seen[0].startswith("<|im_start|>system") and "```python\ndef double" in prompts_seen[0]
    assert {"passed": "passed", "wrong": "time", "none": "SyntaxError"}.get(kind, "passed") in result.details[
        "outcomes"
    ]


def test_humaneval_of_the_base_is_a_continuation(tmp_path: Path, qwen2: Path, problems: Path) -> None:
    solutions = {
        entry["prompt"]: entry["canonical_solution"] + "\ndef more(): fail" for entry in (HUMANEVAL_TASK, SECOND)
    }
    result = humaneval.BENCHMARK.run(exam(tmp_path, qwen2, problems, solutions.__getitem__, base=True))
    assert result.scores["pass@1"].items == [True, True] and result.template == "plain"
    assert humaneval.BENCHMARK.prompts(settings(problems)) == list(solutions)


def test_a_control_that_fails_is_said(tmp_path: Path, qwen2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, (HUMANEVAL_TASK, WRONG))))
    entry = exam(tmp_path, qwen2, path, lambda prompt: "return n * 2")
    result = humaneval.BENCHMARK.run(entry)
    assert result.details["control"] == {"passed": 1, "of": 2, "failed": {"Own/2": "AssertionError"}}
    assert result.scores["pass@1"].items == [True, True]
    assert "1 of 2 canonical solutions do not pass" in result.notes[-1]
    assert "1 of 2 canonical solutions do not pass" in capsys.readouterr().err
    again = replace(entry, folder=RunFolder(tmp_path / "run" / "iter-2" / "eval" / "own", tmp_path / "run"))
    again.folder.path.mkdir(parents=True)
    humaneval.BENCHMARK.run(again)
    created = [line for line in (tmp_path / "run" / "run.jsonl").read_text().splitlines() if '"control/' in line]
    assert len(created) == 1  # once for all models of a run


def test_where_no_sandbox_holds_nothing_is_asked(
    tmp_path: Path, qwen2: Path, problems: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(prompt: str) -> str:
        raise AssertionError("nothing is generated")

    monkeypatch.setattr(sandbox, "find_breach", lambda wall: "it leaks")
    monkeypatch.setattr(sandbox, "find_isolation", sandbox.find_isolation.__wrapped__)
    with pytest.raises(UserError, match="--unsafe-code"):
        humaneval.BENCHMARK.run(exam(tmp_path, qwen2, problems, never))
    result = humaneval.BENCHMARK.run(
        replace(exam(tmp_path / "2", qwen2, problems, lambda p: "return 2 * n"), unsafe_code=True)
    )
    assert result.details["sandbox"] == "none" and "without isolation" in result.notes[-1]
    assert result.scores["pass@1"].items == [True, False]


# --- MBPP


@pytest.mark.parametrize("base", [True, False])
def test_mbpp(tmp_path: Path, qwen2: Path, base: bool) -> None:
    setup = {
        "code": "class Box:\r\n    n = 1\r\ndef add(box): return box.n + 13", "test_list": ["assert add(box) == 14"],
        "test_setup_code": "box = Box()",
    }  # fmt: skip
    tasks = [*map(mbpp_task, (13, 2, 3, 4, 7, 11, 12, 511)), mbpp_task(510, **setup)]
    path = tmp_path / "mbpp.jsonl"
    path.write_text("\n".join(map(json.dumps, tasks)))
    prompts_seen: list[str] = []

    def answer(prompt: str) -> str:
        prompts_seen.append(prompt)
        if "adds 510" in prompt:
            return "[BEGIN]\nclass Box:\n    n = 1\ndef add(box): return box.n + 13\n[DONE] never read"
        number = 11 if "adds 11." in prompt else 12
        return f"def add(n):\n    return n + {number}\n[DONE]\nfail"

    result = mbpp.BENCHMARK.run(exam(tmp_path, qwen2, path, answer, base, "mbpp"))
    assert result.scores["pass@1"].items == [True, True, False, True] and result.details["control"]["passed"] == 4
    assert all(
        text in prompts_seen[0] for text in ("that adds 2.", "that adds 4.", "return n + 3\n[DONE]", "that adds 11.")
    )
    assert "return n + 11" not in prompts_seen[0] and "adds 7" not in prompts_seen[0] and "\r" not in prompts_seen[0]
    assert prompts_seen[0].count("<|im_start|>") == (0 if base else 9)
    assert prompts_seen[0].endswith("\n[BEGIN]\n") == base
    assert mbpp.BENCHMARK.prompts(settings(path, "mbpp"))[-1] == "Write a function that adds 510."


def test_mbpp_sanitized(tmp_path: Path, qwen2: Path) -> None:
    tasks = [{**mbpp_task(n), "prompt": mbpp_task(n)["text"], "test_imports": ["import math"]} for n in (2, 3, 4, 100)]
    tasks = [{key: value for key, value in entry.items() if key != "text"} for entry in tasks]
    path = tmp_path / "sanitized.json"
    path.write_text(json.dumps(tasks))
    result = mbpp_sanitized.BENCHMARK.run(
        exam(tmp_path, qwen2, path, lambda p: "def add(n):\n return n + math.floor(100)", False, "mbpp_sanitized")
    )
    assert result.scores["pass@1"].items == [True]
    with pytest.raises(UserError, match="'text' is missing"):
        mbpp.BENCHMARK.prompts(settings(path, "mbpp"))


# --- files


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "x", "no format is known"), ("a.jsonl", "", "no rows"), ("a.jsonl", "{", "not JSON"),
        ("a.json", "{", "not JSON"), ("a.jsonl.gz", "plain", "line 1: not JSON"),
        ("a.parquet", "plain", "can't be read as parquet"), ("a.jsonl", "[1]", "row 1: found '1'"),
        ("a.jsonl", '{"task_id": 1}', "row 1: column 'prompt' is missing"), ("b", "", "no such file"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_one_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    if text or name != "b":
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as caught:
        humaneval.BENCHMARK.prompts(settings(tmp_path / name))
    assert message in str(caught.value) and str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["humaneval", "humaneval_plus", "mbpp", "mbpp_sanitized"])
def test_a_folder_is_no_file_of_tasks(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"{tmp_path}: a folder, where a file is needed"):
        load_benchmark(name).prompts(settings(tmp_path, name))


@pytest.mark.parametrize("tests", [[5], [], "assert add(1) == 12", [""], [None], {"a": 1}])
@pytest.mark.parametrize("name", ["mbpp", "mbpp_sanitized"])
def test_tests_that_are_no_texts_are_refused(tmp_path: Path, name: str, tests: Any) -> None:
    path = tmp_path / "mbpp.jsonl"
    rows = [{**mbpp_task(number), "prompt": "Add."} for number in (2, 3, 4)]
    path.write_text("\n".join(map(json.dumps, [*rows, {**mbpp_task(11), "prompt": "Add.", "test_list": tests}])))
    with pytest.raises(UserError, match=f"{path} row 4: test_list") as refusal:
        load_benchmark(name).prompts(settings(path, name))
    assert "; rows such as {" in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_test_that_is_only_a_comment_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mbpp.jsonl"
    tasks = [*map(mbpp_task, (2, 3, 4)), mbpp_task(11, test_list=["assert add(1) == 12", "# assert add(0) == 11"])]
    path.write_text("\n".join(map(json.dumps, tasks)))
    with pytest.raises(UserError, match=f"{path}: task_id 11: a test is only a comment: '# assert"):
        load_benchmark("mbpp").prompts(settings(path, "mbpp"))


@pytest.mark.parametrize("task_id", ["x", "9" * 5000, "²"], ids=lambda value: value[:9])
def test_a_task_id_that_is_no_number_is_refused(tmp_path: Path, task_id: str) -> None:
    path = tmp_path / "mbpp.jsonl"
    path.write_text(json.dumps({**mbpp_task(11), "task_id": task_id}))
    with pytest.raises(UserError, match="task_id must be a number"):
        load_benchmark("mbpp").prompts(settings(path, "mbpp"))


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("humaneval", HUMANEVAL_TASK),
        ("humaneval_plus", {**HUMANEVAL_TASK, "base_input": [[1]], "plus_input": [[1]], "atol": 0}),
        ("mbpp", mbpp_task(11)),
    ],
)
def test_a_repeated_task_is_refused(tmp_path: Path, name: str, row: dict[str, Any]) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join(map(json.dumps, [row, row])))
    with pytest.raises(UserError, match=f"{path} row 2: task_id {row['task_id']} is in row 1 too"):
        load_benchmark(name).prompts(settings(path, name))


def test_files_of_every_format(tmp_path: Path) -> None:
    from pyarrow import Table, parquet

    expected = [{"a": "1", "b": "x\ny"}, {"a": "2", "b": "z, w"}]
    parquet.write_table(Table.from_pylist(expected), tmp_path / "a.parquet")
    texts = {
        "a.jsonl": "\n".join(map(json.dumps, expected)), "a.json": json.dumps(expected, indent=1),
        "lines.json": "\n".join(map(json.dumps, expected)), "a.csv": 'a,b\n1,"x\ny"\n2,"z, w"\n',
        "a.tsv": 'a\tb\n1\t"x\ny"\n2\tz, w\n',
    }  # fmt: skip
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(texts["a.csv"].encode()))
    assert all(read_rows(tmp_path / name, ("a", "b")) == expected for name in (*texts, "a.parquet", "a.csv.gz"))


def test_without_a_file_it_is_said_which() -> None:
    for name, file in (("humaneval_plus", "HumanEvalPlus.jsonl.gz"), ("mbpp_sanitized", "sanitized-mbpp.json")):
        with pytest.raises(UserError, match=file):
            load_benchmark(name).prompts(settings(None, name))


# --- the originals, and the command line


@pytest.mark.skipif(not (DATA / "humaneval").is_dir(), reason=f"no benchmark files: {DATA} (set ISHEEP_DATA)")
def test_the_originals_are_read_and_some_of_their_solutions_pass() -> None:
    read = {
        humaneval: DATA / "humaneval" / "HumanEval.jsonl.gz",
        humaneval_plus: DATA / "humaneval_plus" / "HumanEvalPlus.jsonl.gz",
    }
    programs = []
    for entry, path in read.items():
        items = read_rows(path, humaneval.COLUMNS)
        assert len(items) == len(entry.BENCHMARK.prompts(settings(path))) == 164
        for row in items:
            compile(row["prompt"], "prompt", "exec")
        created = [humaneval.problem(row) for row in items[32:164:44]]
        programs += [problem.program(problem.solution) for problem in created]
        programs += [problem.program(humaneval.read("I don't know.", items[0], False)) for problem in created[:1]]
    for name, file, count in (("mbpp", "mbpp.jsonl", 500), ("mbpp_sanitized", "sanitized-mbpp.json", 257)):
        column = {"mbpp": "text", "mbpp_sanitized": "prompt"}[name]
        _, items = mbpp.load(settings(DATA / "mbpp" / file, name), file, column)
        assert len(items) == count and all(mbpp.problem(row).name for row in items)
        created = [mbpp.problem(row) for row in items if row["task_id"] in (11, 367, 510)]
        programs += [problem.program(problem.solution) for problem in created]
    result = sandbox.run_all(programs, sandbox.find_isolation(unsafe=True))
    assert [entry.why for entry in result].count("passed") == len(result) - 2
    assert [n for n, entry in enumerate(result) if not entry.passed] == [3, 7]


def test_a_run_with_humaneval(tmp_path: Path, problems: Path) -> None:
    """lamb knows no Python: all wrong, and the answers, verdicts and the control are rows of the run."""
    words = ["iterations=1", "synthesis.tasks=8", "synthesis.sampling.max_tokens=200", "training.max_steps=1"]
    words += ["assessment=null", "filters=[]", f"evaluation=[{{name: humaneval, data: {problems}}}]"]
    done = isheep("run", "lamb", "--unsafe-code", "--out", tmp_path / "run", *words)
    assert done.code == 0, done.err
    assert "unsafe_code: true" in (tmp_path / "run" / "recipe.yaml").read_text()
    for name, template in (("base", "plain"), ("iter-1", "tokenizer")):
        result = read_result(tmp_path / "run" / name / "eval" / "humaneval.json")
        assert result.template == template and len(result.scores["pass@1"].items) == 2
        assert result.details["control"]["passed"] == 2
        kept = tmp_path / "run" / name / "eval" / "humaneval"
        assert sorted(path.name for path in kept.iterdir()) == ["answers.jsonl", "verdicts.jsonl"]
    assert "pass@1" in done.out
    refused = isheep("run", "lamb", "--out", tmp_path / "other", "evaluation=[humaneval]", "machine.unsafe_code=1")
    assert refused.code == 2 and "unsafe_code" in refused.err
