"""A benchmark of 400 questions, one half of which a stop rule may read."""

from collections.abc import Callable, Sequence

from isheep.benchmarks import Benchmark, EvalContext, Result, Score, select_items, validation_half
from isheep.recipe.evaluation import BenchmarkSettings

NUM_QUESTIONS = 400

Judge = Callable[[EvalContext, Sequence[str]], list[bool]]
"""Returns which of some questions a model answers rightly."""


def prompts(settings: BenchmarkSettings) -> list[str]:
    questions = [f"What is {number} plus one?" for number in range(NUM_QUESTIONS)]
    return select_items(questions, str, settings)


def halved_benchmark(judge: Judge, name: str = "halved") -> Benchmark:
    """Return a benchmark whose only score, "right", is what `judge` says."""

    def run(context: EvalContext) -> Result:
        return Result(scores={"right": Score(items=judge(context, prompts(context.settings)))})

    return Benchmark(
        name=name,
        run=run,
        prompts=prompts,
        score_inputs=prompts,
        items_from="package",
        validation=validation_half("halved", run, prompts),
    )


def judge_by_model(num_right: dict[str, int]) -> Judge:
    """Return a judge by whom each model, such as "iter-1", is right on the first questions up to its number."""

    def judge(context: EvalContext, questions: Sequence[str]) -> list[bool]:
        return [int(question.split()[2]) < num_right[context.model_name] for question in questions]

    return judge
