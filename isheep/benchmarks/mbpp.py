"""MBPP (Austin et al. 2021), full or sanitized: the test tasks, pass@1, greedy.

Three examples stand before a task, tasks 2, 3 and 4 of the user's own file, as in the paper and in OpenCompass; an
aligned model reads them as earlier turns in the template of its SFT, the base as one text. The request's wording is the
paper's (the dataset's README, Apache-2.0).
"""

import re
from pathlib import Path
from typing import Any

from isheep import sandbox
from isheep.benchmarks import EvalContext, data_path
from isheep.benchmarks.code import Problem, extract, judge
from isheep.benchmarks.originals import DataRow, given, rows
from isheep.errors import UserError
from isheep.models.chat_template import render_conversation
from isheep.prompts import fill_template
from isheep.recipe.schema import BenchmarkSettings
from isheep.records import Sampling

REQUEST = (
    "You are an expert Python programmer, and here is your task: {task} Your code should pass these tests:\n\n{tests}"
)
BEGIN, DONE = "[BEGIN]", "[DONE]"
EXAMPLES = (2, 3, 4)
TEST = range(11, 511)  # task_id of the test split: 500 tasks, 257 of the sanitized ones
TOKENS = 512
TASK = {"mbpp": "text", "mbpp_sanitized": "prompt"}  # where the two files have it
FILES = {"mbpp": "mbpp.jsonl of google-research/mbpp", "mbpp_sanitized": "sanitized-mbpp.json of google-research/mbpp"}


def run(exam: EvalContext, name: str = "mbpp") -> dict[str, Any]:
    """The share of tasks whose tests the answer passes, as "pass@1"; see code.judge."""
    sandbox.find_wall(exam.unsafe_code)  # refused before anything is generated
    examples, items = read(exam.data, name)
    problems = [problem(row) for row in items]
    ends = (DONE,) if exam.base else (DONE, exam.chat.end)
    sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=TOKENS, stop=ends)
    answers = exam.answers([asked(row, examples, exam, name) for row in items], sampling)
    code = [extract(one.output.removeprefix(BEGIN), item.name) for one, item in zip(answers, problems, strict=True)]
    result: dict[str, Any] = judge(exam, name, problems, answers, code)
    return result


def prompts(data: Path | None, name: str = "mbpp") -> list[str]:
    return [str(row[TASK[name]]) for row in read(data, name)[1]]


def basis(one: BenchmarkSettings, name: str = "mbpp") -> Any:
    return read(data_path(one), name)


def read(data: Path | None, name: str) -> tuple[list[DataRow], list[DataRow]]:
    """The examples, and the tasks of the test split. Raises UserError where the file has not both."""
    path = given(name, data, FILES[name])
    found = {int(row["task_id"]): row for row in rows(path, ("task_id", TASK[name], "code", "test_list"))}
    if missing := [number for number in EXAMPLES if number not in found]:
        raise UserError(f"{path}: task {missing[0]} is not in it; tasks 2, 3 and 4 are the examples before each task")
    items = [row for number, row in sorted(found.items()) if number in TEST]
    if not items:
        raise UserError(f"{path}: no task of the test split in it (task_id {TEST[0]} to {TEST[-1]})")
    return [found[number] for number in EXAMPLES], items


def asked(row: DataRow, examples: list[DataRow], exam: EvalContext, name: str) -> str:
    turns = []
    for one in (*examples, row):
        tests = "\n".join(one["test_list"])
        turns.append(("user", fill_template(REQUEST, task=one[TASK[name]], tests=tests)))
        turns.append(("assistant", f"{BEGIN}\n{_code(one)}\n{DONE}"))
    if exam.base:
        return "\n".join(text for _, text in turns[:-1]) + f"\n{BEGIN}\n"
    spoken = [(role, exam.chat.plain(text)) for role, text in turns[:-1]]
    return render_conversation(exam.chat.tokenizer, exam.chat.template, spoken, open_answer=True)


def problem(row: DataRow) -> Problem:
    """An item. The set-up of the two tasks that have one uses the solution's class, so it stands after it."""
    tests = "\n".join(row["test_list"])
    names = re.findall(r"^[ \t]*def[ \t]+(\w+)", row["code"], re.MULTILINE)
    name = next((name for name in re.findall(r"(\w+)\s*\(", tests) if name in names), "")
    before = "".join(f"{line}\n" for line in row.get("test_imports") or ())
    setup = str(row.get("test_setup_code") or "").replace("\r\n", "\n")
    return Problem(f"MBPP/{row['task_id']}", name, before, _code(row), f"{setup}\n{tests}")


def _code(row: DataRow) -> str:
    return str(row["code"]).replace("\r\n", "\n")
