"""A model of a run, and its results on benchmarks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, overload

from pydantic import ValidationError

from isheep.api.arguments import flag_argument, iteration_argument, path_argument
from isheep.backends import DEFAULT_BACKEND, Backend
from isheep.benchmarks import Benchmark, Result, register_benchmark
from isheep.errors import UserError, excerpt
from isheep.evaluation.evaluate_run import evaluate_run
from isheep.evaluation.results import load_result
from isheep.recipe.evaluation import JudgeSettings
from isheep.records import Model, Sampling, Settings
from isheep.rundir.iterations import find_run_result, model_of_iteration, model_words
from isheep.rundir.run import open_run

S = TypeVar("S", bound=Settings)
JUDGE_KEYS = tuple(JudgeSettings.model_fields)


@dataclass(frozen=True)
class RunModel:
    """A model of a run: M^0 is the base model, M^t is the base model with the LoRA adapter of iteration t.

    `base` is the path or the Hub name of the base model, `adapter` the folder of the adapter, None for M^0.

    Example:
        >>> run = isheep.read_run("runs/mine")
        >>> print(run.models[-1])
        iteration 3 of runs/mine: lamb with adapter runs/mine/iter-3/adapter
    """

    run_dir: Path
    iteration: int
    base: str
    adapter: Path | None = None
    backend: Backend = field(default=DEFAULT_BACKEND, repr=False, compare=False)

    def __str__(self) -> str:
        adapter = f" with adapter {self.adapter}" if self.adapter else ""
        return f"{model_words(self.iteration)} of {self.run_dir}: {self.base}{adapter}"

    # A str is a Sequence[str] as well; the first signature that fits counts.
    @overload
    def answer(  # type: ignore[overload-overlap]
        self, questions: str, *, temperature: float = 0.0, max_tokens: int | None = None
    ) -> str: ...
    @overload
    def answer(
        self, questions: Sequence[str], *, temperature: float = 0.0, max_tokens: int | None = None
    ) -> list[str]: ...
    def answer(
        self, questions: str | Sequence[str], *, temperature: float = 0.0, max_tokens: int | None = None
    ) -> str | list[str]:
        """Return the model's answers to questions, each asked in a conversation of its own; one answer to one text.

        `temperature` 0 is greedy. `max_tokens` is the most tokens of an answer; None takes that of the recipe.

        Example:
            >>> model.answer("What is 12 plus 30?")
            '42'
            >>> model.answer(["What is 12 plus 30?", "Name a colour."])
            ['42', 'red']
        """
        if isinstance(questions, str):
            return self.answer([questions], temperature=temperature, max_tokens=max_tokens)[0]
        if not isinstance(questions, Sequence) or not all(isinstance(question, str) for question in questions):
            raise UserError(f"questions {excerpt(questions)}: give a text, or a list of texts")
        recipe, _ = open_run(self.run_dir)
        self.backend.check_code(recipe)
        chat = self.backend.load_chat_template(*recipe.chat_arguments)
        settings = recipe.response.sampling
        changes: dict[str, Any] = {"temperature": temperature, "stop": (chat.end, *settings.stop)}
        if max_tokens is not None:
            changes["max_tokens"] = max_tokens
        sampling = _checked(Sampling, settings.model_dump() | changes, "answer")
        engine = self.backend.open_engine(recipe, Model(self.base, self.adapter))
        try:
            completions = engine.generate([chat.prompt(question) for question in questions], sampling, recipe.seed)
        finally:
            engine.close()
        return [completion.text.strip() for completion in completions]


def find_model(model: RunModel | str | Path, iteration: int | None = None) -> RunModel:
    """Return the model that an argument names: itself, or, for a run folder, its result or that of `iteration`.

    Raises UserError if it names none, or if `iteration` is another one than that of the model.
    """
    iteration = iteration_argument(iteration)
    if isinstance(model, RunModel):
        if iteration not in (None, model.iteration):
            raise UserError(
                f"iteration {iteration} with the model {model}: leave the iteration out, or give the run folder"
            )
        return model
    path = path_argument(model, "model")
    recipe, run = open_run(path)
    if iteration is None:
        iteration = find_run_result(recipe, run).iteration
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

    `model` comes from `align` or `read_run`, or is the path of a run folder, which stands for its result (the newest
    model, or the best by the recipe's stop rule) or the model of `iteration`. `benchmark` is a name of `isheep eval`,
    or a Benchmark of your own. The result is saved in the run folder, and an existing one is returned as it is.

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
    if not isinstance(benchmark, str):
        register_benchmark(benchmark)
    name = benchmark if isinstance(benchmark, str) else benchmark.name
    evaluate_run(
        model.run_dir,
        [name],
        None if data is None else path_argument(data, "data"),
        model.iteration,
        _judge_settings(judge),
        flag_argument(unsafe_code, "unsafe_code"),
        backend=model.backend,
    )
    _, run = open_run(model.run_dir)
    result = load_result(run, model.iteration, name)
    assert result is not None
    return result


def _judge_settings(judge: str | Mapping[str, Any] | JudgeSettings | None) -> JudgeSettings | None:
    if judge is None or isinstance(judge, JudgeSettings):
        return judge
    if isinstance(judge, str):
        judge = {"model": judge}
    if not isinstance(judge, Mapping):
        raise UserError(f"judge {excerpt(judge)}: give a model's name, or a mapping of {', '.join(JUDGE_KEYS)}")
    return _checked(JudgeSettings, dict(judge), "judge")


def _checked(settings_type: type[S], values: Mapping[str, Any], name: str) -> S:
    """Return settings of their values. Raises UserError, which names the first key that is wrong."""
    try:
        return settings_type.model_validate(dict(values), strict=True)
    except ValidationError as failed:
        error = failed.errors(include_url=False)[0]
        key, value = ".".join(map(str, error["loc"])), excerpt(error["input"])
        keys = f"; it has {', '.join(settings_type.model_fields)}" if error["type"] == "extra_forbidden" else ""
        raise UserError(f"{name}: {key}: {error['msg'].lower()}; found {value}{keys}") from None
