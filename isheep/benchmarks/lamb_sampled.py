"""lamb's held-out suite, sampled at temperature 1, the temperature at which the loop writes its answers."""

from dataclasses import replace

from isheep.benchmarks import lamb
from isheep.benchmarks.support.base import Result
from isheep.benchmarks.support.context import EvalContext

SAMPLED_FILE = "sampled.jsonl"


def run(context: EvalContext) -> Result:
    """Answer the suite with sampled answers, in the chat template, and score them as lamb does."""
    return lamb.answer_suite(context, temperature=1.0, file=SAMPLED_FILE)


def run_validation(context: EvalContext) -> Result:
    """Answer the validation part with sampled answers."""
    return lamb.answer_validation(context, temperature=1.0)


# is_right, kinds_of and form_and_content are lamb's alone: a run with both benchmarks would say everything twice.
BENCHMARK = replace(
    lamb.BENCHMARK,
    name="lamb_sampled",
    run=run,
    headline=("right", "content"),
    validation=replace(lamb.VALIDATION, run=run_validation),
    is_right=None,
    kinds_of=None,
    form_and_content=None,
)
