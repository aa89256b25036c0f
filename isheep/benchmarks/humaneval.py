"""HumanEval (Chen et al. 2021), and with HumanEval+'s file (Liu et al. 2023) its harder tests: pass@1, greedy.

The base continues the head of the function until a new block starts at the margin (the paper's stop words). An aligned
model is asked for the whole function in the template of its SFT.
"""

from functools import partial

from isheep import sandbox
from isheep.benchmarks.support.base import Benchmark, PlannedAnswers, Result
from isheep.benchmarks.support.code_samples import CodeSample, score_samples
from isheep.benchmarks.support.context import EvalContext, data_path
from isheep.benchmarks.support.data_files import DataRow, read_rows, require_file
from isheep.benchmarks.support.programs import Problem, body, defines, extract, score_programs
from isheep.benchmarks.support.responses import ResponseContext
from isheep.prompts import fill_template
from isheep.recipe.schema import BenchmarkSettings
from isheep.records import Sampling

COLUMNS = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
# Chen et al. 2021, Section 2.3.
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
MAX_TOKENS = 512
REQUEST = "Complete this Python function. Reply with the whole function in one code block.\n\n```python\n{prompt}\n```"


def make_benchmark(name: str, file: str) -> Benchmark:
    """Return a benchmark whose items are in HumanEval's format; `file` says what the user must give as `data`."""
    return Benchmark(
        name=name,
        run=partial(run, file=file),
        prompts=lambda settings: [str(row["prompt"]) for row in load(settings, file)],
        score_inputs=partial(load, file=file),
        needs_sandbox=True,
        score_responses=partial(score_responses, file=file),
        planned=PlannedAnswers(num_answers=164, max_tokens=MAX_TOKENS, batch_size=64),
    )


def load(settings: BenchmarkSettings, file: str) -> list[DataRow]:
    """Return the rows of the user's file."""
    return read_rows(require_file(settings.name, data_path(settings), file), COLUMNS)


def run(context: EvalContext, file: str) -> Result:
    """Compute the share of problems whose tests the answer passes, as "pass@1" (code.score_programs)."""
    # Raises an error before anything is generated.
    sandbox.find_isolation(context.unsafe_code)
    items = load(context.settings, file)
    problems = [problem(row) for row in items]
    ends = STOPS if context.is_base else (context.chat.end,)
    sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=MAX_TOKENS, stop=ends)
    answers = context.answers([make_prompt(row, context) for row in items], sampling)
    code = [read(answer.output, row, context.is_base) for answer, row in zip(answers, items, strict=True)]
    return score_programs(context, context.settings.name, problems, answers, code)


def score_responses(context: ResponseContext, file: str) -> Result:
    """Run the samples in a file: a completion is appended to the prompt as it is, a solution is a whole program."""
    rows = {str(row["task_id"]): row for row in load(context.settings, file)}

    def read_code(task_id: str, sample: CodeSample) -> str:
        if sample.response is not None:
            return read(sample.response, rows[task_id], base=False)
        return sample.completion if sample.completion is not None else f"\n{sample.solution}"

    return score_samples(context, {task_id: problem(row) for task_id, row in rows.items()}, str, read_code)


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


BENCHMARK = make_benchmark("humaneval", "HumanEval.jsonl.gz of openai/human-eval")
