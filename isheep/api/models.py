"""A model of a run, and its results on benchmarks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from isheep.backends import DEFAULT_BACKEND, Backend
from isheep.benchmarks import Benchmark, Result, register_benchmark
from isheep.evaluation.evaluate_run import evaluate_run
from isheep.evaluation.results import load_result
from isheep.recipe.schema import JudgeSettings
from isheep.records import Model
from isheep.rundir.iterations import model_of_iteration, newest_iteration
from isheep.rundir.run import open_run


@dataclass(frozen=True)
class RunModel:
    """A model of a run: M^0 is the base model, M^t is the base model with the LoRA adapter of iteration t.

    `base` is the path or the Hub name of the base model, `adapter` the folder of the adapter, None for M^0.

    Example:
        >>> run = isheep.read_run("runs/mine")
        >>> print(run.models[-1])
        M^3 of runs/mine: lamb with adapter runs/mine/iter-3/adapter
    """

    run_dir: Path
    iteration: int
    base: str
    adapter: Path | None = None
    backend: Backend = field(default=DEFAULT_BACKEND, repr=False, compare=False)

    def __str__(self) -> str:
        adapter = f" with adapter {self.adapter}" if self.adapter else ""
        return f"M^{self.iteration} of {self.run_dir}: {self.base}{adapter}"

    def answer(self, questions: Sequence[str], *, temperature: float = 0.0, max_tokens: int | None = None) -> list[str]:
        """Return the model's answers to questions, each asked in a conversation of its own.

        `temperature` 0 is greedy. `max_tokens` is the most tokens of an answer; None takes that of the recipe.

        Example:
            >>> model.answer(["What is 12 plus 30?"])
            ['42']
        """
        recipe, _ = open_run(self.run_dir)
        chat = self.backend.load_chat_template(recipe.chat_template, recipe.model)
        settings = recipe.response.sampling
        update = {"temperature": temperature, "stop": (chat.end, *settings.stop)}
        sampling = settings.model_copy(update=update if max_tokens is None else {**update, "max_tokens": max_tokens})
        engine = self.backend.open_engine(recipe, Model(self.base, self.adapter))
        try:
            completions = engine.generate([chat.prompt(question) for question in questions], sampling, recipe.seed)
        finally:
            engine.close()
        return [completion.text.strip() for completion in completions]


def find_model(model: RunModel | str | Path, iteration: int | None = None) -> RunModel:
    """Return the model that an argument names: itself, or, for a run folder, its newest one or that of `iteration`."""
    if isinstance(model, RunModel):
        return model
    path = Path(model)
    recipe, run = open_run(path)
    if iteration is None:
        iteration = newest_iteration(recipe, run)
    base, adapter = model_of_iteration(recipe, run, iteration)
    return RunModel(path, iteration, base, adapter)


def evaluate(
    model: RunModel | str | Path,
    benchmark: str | Benchmark,
    *,
    iteration: int | None = None,
    data: str | Path | None = None,
    judge: str | Mapping[str, Any] | JudgeSettings | None = None,
    unsafe_code: bool = False,
) -> Result:
    """Score a model on a benchmark, and return the result.

    `model` comes from `align` or `read_run`, or is the path of a run folder, which stands for its newest model or that
    of `iteration`. `benchmark` is a name of `isheep eval`, or a Benchmark of your own. The result is saved in the run
    folder, and an existing one is returned as it is.

    `data` is your copy of the benchmark's files, if it needs one. `judge` is the judge of a benchmark that needs one: a
    model's name at the endpoint, or the mapping of a recipe's evaluation, such as {"model": "runs/other", "local":
    True}. `unsafe_code` allows code that the model wrote (HumanEval, MBPP) to run without a sandbox. Raises UserError
    before anything is generated if the benchmark cannot be run.

    Example:
        >>> result = isheep.evaluate("runs/mine", "lamb")
        >>> result.scores["content"].mean
        0.86
    """
    model = find_model(model, iteration)
    if isinstance(benchmark, Benchmark):
        register_benchmark(benchmark)
    name = benchmark if isinstance(benchmark, str) else benchmark.name
    evaluate_run(
        model.run_dir,
        [name],
        Path(data) if data else None,
        model.iteration,
        _judge_settings(judge),
        unsafe_code,
        backend=model.backend,
    )
    _, run = open_run(model.run_dir)
    result = load_result(run, model.iteration, name)
    assert result is not None
    return result


def _judge_settings(judge: str | Mapping[str, Any] | JudgeSettings | None) -> JudgeSettings | None:
    if judge is None or isinstance(judge, JudgeSettings):
        return judge
    return JudgeSettings(model=judge) if isinstance(judge, str) else JudgeSettings.model_validate(dict(judge))
