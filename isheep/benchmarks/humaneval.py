"""HumanEval (Chen et al. 2021), and with HumanEval+'s file (Liu et al. 2023) its harder tests: pass@1, greedy.

The base continues the function's head up to where a new block starts at the margin (the paper's stop words); an aligned
model is asked for the whole function in the template of its SFT.
"""

from pathlib import Path
from typing import Any

from isheep import sandbox
from isheep.benchmarks import EvalContext, data_path
from isheep.benchmarks.code import Problem, body, defines, extract, judge
from isheep.benchmarks.originals import DataRow, given, rows
from isheep.prompts import fill_template
from isheep.recipe.schema import BenchmarkSettings
from isheep.records import Sampling

COLUMNS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")  # Chen et al. 2021, Section 2.3
TOKENS = 512
REQUEST = "Complete this Python function. Reply with the whole function in one code block.\n\n```python\n{prompt}\n```"
FILE = "HumanEval.jsonl.gz of openai/human-eval"


def run(exam: EvalContext, name: str = "humaneval", file: str = FILE) -> dict[str, Any]:
    """The share of problems whose tests the answer passes, as "pass@1"; see code.judge."""
    sandbox.find_wall(exam.unsafe_code)  # refused before anything is generated
    items = rows(given(name, exam.data, file), COLUMNS)
    problems = [problem(row) for row in items]
    ends = STOPS if exam.base else (exam.chat.end,)
    sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=TOKENS, stop=ends)
    answers = exam.answers([asked(row, exam) for row in items], sampling)
    code = [read(one.output, row, exam.base) for one, row in zip(answers, items, strict=True)]
    result: dict[str, Any] = judge(exam, name, problems, answers, code)
    return result


def prompts(data: Path | None, name: str = "humaneval", file: str = FILE) -> list[str]:
    return [str(row["prompt"]) for row in rows(given(name, data, file), COLUMNS)]


def basis(one: BenchmarkSettings, name: str = "humaneval", file: str = FILE) -> Any:
    return rows(given(name, data_path(one), file), COLUMNS)


def asked(row: DataRow, exam: EvalContext) -> str:
    prompt = str(row["prompt"])
    return prompt if exam.base else exam.asked(fill_template(REQUEST, prompt=prompt.strip("\n")))


def problem(row: DataRow) -> Problem:
    """An item. Every prompt ends with the function's docstring, so that it is a program by itself."""
    tests = f"{row['test']}\n\ncheck({row['entry_point']})"
    return Problem(str(row["task_id"]), str(row["entry_point"]), str(row["prompt"]), row["canonical_solution"], tests)


def read(answer: str, row: DataRow, base: bool) -> str:
    """What follows the prompt in the program: the base's answer as it is; of another's, the code (code.extract).

    Code that defines the function stands after the prompt's, whose imports and helpers it may need; other code is the
    function's body.
    """
    if base:
        return answer
    code = extract(answer, str(row["entry_point"]))
    return f"\n{code}" if defines(code, str(row["entry_point"])) else body(code)
