"""HumanEval+ (Liu et al. 2023): HumanEval's problems with about 80 times its tests: pass@1, greedy, as base and plus.

The tests are inputs; what a solution must return is what the canonical solution does (support/evalplus.py).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from isheep import sandbox
from isheep.benchmarks import humaneval
from isheep.benchmarks.support.base import Benchmark, Result, Score
from isheep.benchmarks.support.code_samples import score_samples
from isheep.benchmarks.support.context import EvalContext, data_path
from isheep.benchmarks.support.data_files import DataRow, require_file
from isheep.benchmarks.support.evalplus import PlusOutcome, PlusTask, expected_values, run_solution
from isheep.benchmarks.support.fingerprints import check_unchanged, item_fingerprints
from isheep.benchmarks.support.item_parts import select_items
from isheep.benchmarks.support.programs import BATCH_SIZE, code_result
from isheep.benchmarks.support.responses import ResponseContext
from isheep.benchmarks.support.validation_parts import validation_half
from isheep.errors import UserError
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.records import Answer, Record
from isheep.sandbox import Outcome
from isheep.sandbox.process import PASSED

FILE = "HumanEvalPlus.jsonl.gz of evalplus/humanevalplus_release"
COLUMNS = (*humaneval.COLUMNS, "base_input", "plus_input", "atol")
NO_EXPECTED = "no expected value"


class PlusVerdict(Record):
    """How an item's solution ended on the base inputs and on all, as in sandbox.Outcome.

    `control` is how the canonical solution ended: on HumanEval's own tests, and on all inputs. `of` is the program's
    fingerprint.
    """

    id: str
    base: str
    plus: str
    control: str
    of: str


def load(settings: BenchmarkSettings) -> list[DataRow]:
    """Return the rows of the user's file. Raises UserError if a row has no inputs or no tolerance."""
    path = require_file(settings.name, data_path(settings), FILE)
    rows = humaneval.load_tasks(path, COLUMNS)
    for number, row in enumerate(rows, 1):
        for column in ("base_input", "plus_input"):
            inputs = row[column]
            if not isinstance(inputs, list) or not inputs or not all(isinstance(entry, list) for entry in inputs):
                raise UserError(f"{path} row {number}: {column} must be lists of arguments; take {FILE}")
        if isinstance(row["atol"], bool) or not isinstance(row["atol"], int | float) or not row["atol"] >= 0:
            raise UserError(f"{path} row {number}: atol {row['atol']!r} is no tolerance: a number from 0 on is wanted")
    return select_items(rows, lambda row: row["task_id"], settings)


def run(context: EvalContext) -> Result:
    """Compute the share of problems whose base inputs ("base") and all inputs ("plus") the answer solves."""
    # Raises an error before anything is generated.
    sandbox.find_isolation(context.unsafe_code)
    items = load(context.settings)
    return score_items(context, items, *humaneval.write_code(context, items))


def score_responses(context: ResponseContext) -> Result:
    """Run the samples in a file, as HumanEval does."""
    rows = {str(row["task_id"]): row for row in load(context.settings)}

    def score_code(
        round_context: ResponseContext, keys: Sequence[str], answers: Sequence[Answer], code: Sequence[str]
    ) -> Result:
        return score_items(round_context, [rows[key] for key in keys], answers, code)

    return score_samples(context, list(rows), score_code, partial(humaneval.read_sample, rows))


def score_items(
    context: EvalContext | ResponseContext, items: Sequence[DataRow], answers: Sequence[Answer], code: Sequence[str]
) -> Result:
    """Return the result of one answer to each item, given the code in each."""
    isolation = sandbox.find_isolation(context.unsafe_code)
    verdicts = judge_all(context, items, code, isolation)
    scores = {
        "base": Score(items=[row.base == PASSED for row in verdicts]),
        "plus": Score(items=[row.plus == PASSED for row in verdicts]),
    }
    control = {row.id: row.control for row in verdicts}
    return code_result(context, scores, control, [row.plus for row in verdicts], answers, isolation)


def judge_all(
    context: EvalContext | ResponseContext, items: Sequence[DataRow], code: Sequence[str], isolation: str
) -> Sequence[PlusVerdict]:
    """Return a verdict on the code of each item, stored in verdicts.jsonl."""
    fingerprints = item_fingerprints([[row, text] for row, text in zip(items, code, strict=True)])

    def make_verdict(index: int) -> PlusVerdict:
        control, outcomes = judge(items[index], [code[index]], isolation)
        base, plus = (outcome.why for outcome in outcomes[0])
        id = str(items[index]["task_id"])
        return PlusVerdict(id=id, base=base, plus=plus, control=control.why, of=fingerprints[index])

    def make_batch(start: int) -> list[PlusVerdict]:
        with ThreadPoolExecutor(sandbox.num_cores()) as pool:
            return list(pool.map(make_verdict, range(start, min(start + BATCH_SIZE, len(items)))))

    name = "verdicts.jsonl"
    check = partial(check_unchanged, context.folder.path / name, fingerprints=fingerprints)
    return context.folder.map_batches(name, PlusVerdict, make_batch, len(items), BATCH_SIZE, check=check)


def judge(row: DataRow, solutions: Sequence[str], isolation: str) -> tuple[Outcome, list[PlusOutcome]]:
    """Return how the canonical solution of an item ended, and how each of its solutions did.

    The canonical solution runs once, for the expected values. If it has none, no solution passes.
    """
    problem, plus_task = humaneval.problem(row), task(row)
    expected, control = expected_values(plus_task, isolation)
    if expected is None:
        return control, [PlusOutcome(Outcome(NO_EXPECTED), Outcome(NO_EXPECTED)) for _ in solutions]
    control = sandbox.run(problem.program(problem.solution), isolation)
    return control, [run_solution(plus_task, solution, expected, isolation) for solution in solutions]


def task(row: DataRow) -> PlusTask:
    """Return a row as a task of EvalPlus."""
    return PlusTask(
        prefix=str(row["prompt"]),
        name=str(row["entry_point"]),
        canonical=str(row["canonical_solution"]),
        base=row["base_input"],
        extra=row["plus_input"],
        atol=row["atol"],
    )


def prompts(settings: BenchmarkSettings) -> list[str]:
    return [str(row["prompt"]) for row in load(settings)]


BENCHMARK = Benchmark(
    name="humaneval_plus",
    run=run,
    prompts=prompts,
    score_inputs=load,
    needs_sandbox=True,
    validation=validation_half("humaneval", run, prompts, "plus", planned=humaneval.PLANNED),
    score_responses=score_responses,
    planned=humaneval.PLANNED,
)
