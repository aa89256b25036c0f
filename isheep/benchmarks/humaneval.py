"""HumanEval (Chen et al. 2021): pass@1, greedy.

The base continues the head of the function until a new block starts at the margin (the paper's stop words). An aligned
model is asked for the whole function in the template of its SFT.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from isheep import sandbox
from isheep.benchmarks.support.base import Benchmark, PlannedAnswers, Result
from isheep.benchmarks.support.code_samples import CodeSample, score_samples
from isheep.benchmarks.support.context import EvalContext, data_path
from isheep.benchmarks.support.data_files import DataRow, check_rows, check_unique_tasks, read_rows, require_file
from isheep.benchmarks.support.item_parts import select_items
from isheep.benchmarks.support.programs import Problem, body, defines, extract, score_programs, why_wrong
from isheep.benchmarks.support.responses import ResponseContext
from isheep.benchmarks.support.validation_parts import validation_half
from isheep.files.json_files import FilledText, ForeignRow, RowId, Text
from isheep.prompts import fill_template
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.records import Answer, Sampling

COLUMNS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
# Chen et al. 2021, Section 2.3.
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
MAX_TOKENS = 512
REQUEST = "Complete this Python function. Reply with the whole function in one code block.\n\n```python\n{prompt}\n```"


FILE = "HumanEval.jsonl.gz of openai/human-eval"
PLANNED = PlannedAnswers(num_answers=164, max_tokens=MAX_TOKENS, batch_size=64)


class HumanEvalRow(ForeignRow):
    """A row of HumanEval's file, and of HumanEval+'s, which has further fields."""

    form = '{"task_id": "HumanEval/0", "entry_point": "f", "prompt": "...", "canonical_solution": "...", "test": "..."}'
    task_id: RowId
    prompt: Text
    entry_point: FilledText
    canonical_solution: Text
    test: FilledText


def load(settings: BenchmarkSettings) -> list[DataRow]:
    """Return the rows of the user's file. Raises UserError if a row is malformed, or if a task is repeated."""
    rows = load_tasks(require_file(settings.name, data_path(settings), FILE), COLUMNS)
    return select_items(rows, lambda row: row["task_id"], settings)


def load_tasks(path: Path, columns: Sequence[str]) -> list[DataRow]:
    """Return the rows of a file in HumanEval's form that has at least `columns`."""
    rows = read_rows(path, columns)
    check_rows(path, rows, HumanEvalRow)
    check_unique_tasks(path, [str(row["task_id"]) for row in rows])
    return rows


def run(context: EvalContext) -> Result:
    """Compute the share of problems whose tests the answer passes, as "pass@1" (programs.score_programs)."""
    # Raises an error before anything is generated.
    sandbox.find_isolation(context.unsafe_code)
    items = load(context.settings)
    problems = [problem(row) for row in items]
    answers, code = write_code(context, items)
    return score_programs(context, context.settings.name, problems, answers, code)


def write_code(context: EvalContext, items: Sequence[DataRow]) -> tuple[Sequence[Answer], list[str]]:
    """Return the model's answers to the prompts of some items, and the code that each adds to its prompt."""
    ends = STOPS if context.is_base else (context.chat.end,)
    sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=MAX_TOKENS, stop=ends)
    answers = context.answers([make_prompt(row, context) for row in items], sampling)
    return answers, [read(answer.output, row, context.is_base) for answer, row in zip(answers, items, strict=True)]


def score_responses(context: ResponseContext) -> Result:
    """Run the samples in a file."""
    rows = {str(row["task_id"]): row for row in load(context.settings)}

    def score_code(
        round_context: ResponseContext, keys: Sequence[str], answers: Sequence[Answer], code: Sequence[str]
    ) -> Result:
        problems = [problem(rows[key]) for key in keys]
        return score_programs(round_context, context.settings.name, problems, answers, code)

    return score_samples(context, list(rows), score_code, partial(read_sample, rows))


def read_sample(rows: Mapping[str, DataRow], task_id: str, sample: CodeSample) -> str:
    """Return the code to append to a prompt: a completion as it is, or a solution, which is a whole program."""
    if sample.response is not None:
        return read(sample.response, rows[task_id], base=False)
    return sample.completion if sample.completion is not None else f"\n{sample.solution}"


def make_prompt(row: DataRow, context: EvalContext) -> str:
    prompt = str(row["prompt"])
    return prompt if context.is_base else context.prompt(fill_template(REQUEST, prompt=prompt.strip("\n")))


def problem(row: DataRow) -> Problem:
    """Return an item. Every prompt ends with the function's docstring, so that it is a program by itself."""
    tests = f"{row['test']}\n\ncheck({row['entry_point']})"
    return Problem(str(row["task_id"]), str(row["entry_point"]), str(row["prompt"]), row["canonical_solution"], tests)


def read(answer: str, row: DataRow, base: bool) -> str:
    """Return the code to append to the prompt: the base's answer unchanged, or the code of a tuned model's answer.

    Code that defines the function follows the code of the prompt, whose imports and helpers it may need; other code is
    the function's body.
    """
    if base:
        return answer
    code = extract(answer, str(row["entry_point"]))
    return f"\n{code}" if defines(code, str(row["entry_point"])) else body(code)


def prompts(settings: BenchmarkSettings) -> list[str]:
    return [str(row["prompt"]) for row in load(settings)]


BENCHMARK = Benchmark(
    name="humaneval",
    run=run,
    prompts=prompts,
    score_inputs=load,
    needs_sandbox=True,
    validation=validation_half("humaneval", run, prompts, planned=PLANNED),
    score_responses=score_responses,
    why_wrong=why_wrong,
    planned=PLANNED,
)
