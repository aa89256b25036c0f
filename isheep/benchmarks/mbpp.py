"""MBPP (Austin et al. 2021), full or sanitized: the test tasks, pass@1, greedy.

Three examples precede a task, tasks 2, 3 and 4 of the user's own file, as in the paper and in OpenCompass. An aligned
model reads them as earlier turns in the template of its SFT, the base as one text. The wording of the request is the
paper's (the dataset's README, Apache-2.0).
"""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import Field

from isheep import sandbox
from isheep.benchmarks.support.base import Benchmark, PlannedAnswers, Result
from isheep.benchmarks.support.code_samples import CodeSample, score_samples
from isheep.benchmarks.support.context import EvalContext, data_path
from isheep.benchmarks.support.data_files import DataRow, check_rows, check_unique_tasks, read_rows, require_file
from isheep.benchmarks.support.item_parts import select_items
from isheep.benchmarks.support.programs import Problem, extract, score_programs, why_wrong
from isheep.benchmarks.support.responses import ResponseContext
from isheep.benchmarks.support.validation_parts import validation_half
from isheep.errors import UserError
from isheep.files.json_files import FilledTexts, ForeignRow, OptionalText, RowId, Text
from isheep.prompts import fill_template
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.records import Answer, Sampling

REQUEST = (
    "You are an expert Python programmer, and here is your task: {task} Your code should pass these tests:\n\n{tests}"
)
BEGIN, DONE = "[BEGIN]", "[DONE]"
EXAMPLES = (2, 3, 4)
# task_id of the test split: 500 tasks, 257 of the sanitized ones.
TEST = range(11, 511)
# Of the number of a task.
MAX_DIGITS = 9
MAX_TOKENS = 512


class MbppRow(ForeignRow):
    """A row of MBPP's full file or of its sanitized part, without the task's text, which they name differently."""

    form = '{"task_id": 11, "text": "...", "code": "...", "test_list": ["assert ..."]}'
    task_id: RowId
    code: Text
    # Without a test, any program would pass.
    test_list: FilledTexts
    test_setup_code: OptionalText = None
    test_imports: Annotated[list[str] | None, Field(description="a list of texts or null")] = None


class FullMbppRow(MbppRow):
    """A row of mbpp.jsonl."""

    text: Text


class SanitizedMbppRow(MbppRow):
    """A row of sanitized-mbpp.json."""

    form = '{"task_id": 11, "prompt": "...", "code": "...", "test_list": ["assert ..."]}'
    prompt: Text


ROW_TYPES: dict[str, type[MbppRow]] = {"text": FullMbppRow, "prompt": SanitizedMbppRow}


def make_benchmark(name: str, file: str, task_column: str, planned: PlannedAnswers | None = None) -> Benchmark:
    """Return a benchmark whose items are in MBPP's format.

    `file` says what the user must give as `data`; `task_column` is the column of the task's text in it.
    """
    run_file = partial(run, file=file, task_column=task_column)

    def prompts(settings: BenchmarkSettings) -> list[str]:
        return [str(row[task_column]) for row in load(settings, file, task_column)[1]]

    return Benchmark(
        name=name,
        run=run_file,
        prompts=prompts,
        score_inputs=partial(load, file=file, task_column=task_column),
        needs_sandbox=True,
        validation=validation_half("mbpp", run_file, prompts, planned=planned),
        score_responses=partial(score_responses, file=file, task_column=task_column),
        why_wrong=why_wrong,
        planned=planned,
    )


def run(context: EvalContext, file: str, task_column: str) -> Result:
    """Compute the share of tasks whose tests the answer passes, as "pass@1" (code.score_programs)."""
    # Raises an error before anything is generated.
    sandbox.find_isolation(context.unsafe_code)
    examples, items = load(context.settings, file, task_column)
    problems = [problem(row) for row in items]
    ends = (DONE,) if context.is_base else (DONE, context.chat.end)
    sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=MAX_TOKENS, stop=ends)
    answers = context.answers([make_prompt(row, examples, context, task_column) for row in items], sampling)
    texts = [answer.output.removeprefix(BEGIN) for answer in answers]
    code = [extract(text, item.name) for text, item in zip(texts, problems, strict=True)]
    return score_programs(context, context.settings.name, problems, answers, code)


def score_responses(context: ResponseContext, file: str, task_column: str) -> Result:
    """Run the samples in a file. A completion is a program, as a solution is; code is extracted from a response."""
    problems = {str(row["task_id"]): problem(row) for row in load(context.settings, file, task_column)[1]}

    def read_code(task_id: str, sample: CodeSample) -> str:
        if sample.response is not None:
            return extract(sample.response.removeprefix(BEGIN), problems[task_id].name)
        return str(sample.completion if sample.completion is not None else sample.solution)

    def score_code(
        round_context: ResponseContext, keys: Sequence[str], answers: Sequence[Answer], code: Sequence[str]
    ) -> Result:
        chosen = [problems[key] for key in keys]
        return score_programs(round_context, context.settings.name, chosen, answers, code)

    return score_samples(context, list(problems), score_code, read_code, task_key)


def task_key(task_id: int | str) -> str:
    """Return the number of a task as text: of 11, "11", "MBPP/11" and EvalPlus's "Mbpp/11"."""
    prefix, slash, number = str(task_id).rpartition("/")
    return number if not slash or prefix.lower() == "mbpp" else str(task_id)


def load(settings: BenchmarkSettings, file: str, task_column: str) -> tuple[list[DataRow], list[DataRow]]:
    """Return the examples and the tasks of the test split. Raises UserError if the file lacks either.

    A malformed row and a repeated task are refused, too.
    """
    path = require_file(settings.name, data_path(settings), file)
    rows = read_rows(path, ("task_id", task_column, "code", "test_list"))
    check_rows(path, rows, ROW_TYPES[task_column])
    numbers = [_task_number(path, row) for row in rows]
    check_unique_tasks(path, numbers)
    by_id = dict(zip(numbers, rows, strict=True))
    if missing := [number for number in EXAMPLES if number not in by_id]:
        raise UserError(f"{path}: task {missing[0]} is not in it; tasks 2, 3 and 4 are the examples before each task")
    items = [row for number, row in sorted(by_id.items()) if number in TEST]
    for row in items:
        _check_tests(path, row)
    if not items:
        raise UserError(f"{path}: no task of the test split in it (task_id {TEST[0]} to {TEST[-1]})")
    return [by_id[number] for number in EXAMPLES], select_items(items, lambda row: task_key(row["task_id"]), settings)


def _task_number(path: Path, row: DataRow) -> int:
    """Return a task's number. Raises UserError if its task_id is none."""
    text = task_key(row["task_id"])
    if not text.isascii() or not text.isdigit() or len(text) > MAX_DIGITS:
        raise UserError(f"{path}: task_id must be a number, found {row['task_id']!r:.60}; give MBPP's own file")
    return int(text)


def _check_tests(path: Path, row: DataRow) -> None:
    """Raise UserError if a test of a task is only a comment, which every program would pass."""
    for test in row["test_list"]:
        if all(not line.strip() or line.strip().startswith("#") for line in test.splitlines()):
            raise UserError(f"{path}: task_id {row['task_id']}: a test is only a comment: {test!r:.60}")


def make_prompt(row: DataRow, examples: list[DataRow], context: EvalContext, task_column: str) -> str:
    turns = []
    for task in (*examples, row):
        tests = "\n".join(task["test_list"])
        turns.append(("user", fill_template(REQUEST, task=task[task_column], tests=tests)))
        turns.append(("assistant", f"{BEGIN}\n{_code(task)}\n{DONE}"))
    if context.is_base:
        return context.plain("\n".join(text for _, text in turns[:-1]) + f"\n{BEGIN}\n")
    return context.chat.conversation(turns[:-1])


def problem(row: DataRow) -> Problem:
    """Return an item. Two tasks have a set-up that uses the solution's class, so the set-up follows the solution."""
    tests = "\n".join(row["test_list"])
    functions = re.findall(r"^[ \t]*def[ \t]+(\w+)", row["code"], re.MULTILINE)
    name = next((name for name in re.findall(r"(\w+)\s*\(", tests) if name in functions), "")
    imports = "".join(f"{line}\n" for line in row.get("test_imports") or ())
    setup = str(row.get("test_setup_code") or "").replace("\r\n", "\n")
    return Problem(f"MBPP/{row['task_id']}", name, imports, _code(row), f"{setup}\n{tests}")


def _code(row: DataRow) -> str:
    return str(row["code"]).replace("\r\n", "\n")


BENCHMARK = make_benchmark(
    "mbpp",
    "mbpp.jsonl of google-research/mbpp",
    task_column="text",
    planned=PlannedAnswers(num_answers=500, max_tokens=MAX_TOKENS, batch_size=64),
)
