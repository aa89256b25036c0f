"""Evaluate every model of a run on the recipe's benchmarks: a JSON file for each, beside the model's adapter."""

from collections.abc import Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import NamedTuple

from isheep import sandbox
from isheep.backends import DEFAULT_BACKEND, Backend, open_judge
from isheep.benchmarks import (
    EvalContext,
    Fingerprints,
    Result,
    ValidationPart,
    fingerprint,
    half_name,
    load_benchmark,
    part_name,
    prompt_fingerprint,
    reported_benchmarks,
    stop_settings,
    validation_part,
    without_needless_sample,
)
from isheep.engines import Engine
from isheep.errors import UserError
from isheep.evaluation.results import load_result
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.recipe.schema import Recipe
from isheep.records import Model
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import iteration_dir

# Result.template of a model that was prompted in no chat template.
PLAIN = "plain"


def evaluate(
    recipe: Recipe, run: RunFolder, t: int, model: Model, *, backend: Backend = DEFAULT_BACKEND
) -> dict[str, Result]:
    """Return the results of M^t by benchmark, computed if they are not in the run folder yet.

    Results are written as JSON, with the fingerprints of what they depend on. The result on the items of the stop rule
    is kept apart, in validation/.
    """
    with closing(backend.open_engine(recipe, model)) as engine:
        model_context = ModelContext(recipe, iteration_dir(run, t), engine, backend, is_base=t == 0)
        for part, settings in evaluated_parts(recipe):
            ensure_result(model_context, settings, part)
    results = {settings.label: load_result(run, t, settings.label) for settings in recipe.evaluation}
    return {name: result for name, result in results.items() if result}


def evaluated_parts(recipe: Recipe) -> list[tuple[str, BenchmarkSettings]]:
    """Return what every model is evaluated on: the folder of the result (eval, validation) and the settings."""
    validation = [("validation", stop_settings(recipe))] if recipe.stop_rule else []
    return [*validation, *(("eval", settings) for settings in reported_benchmarks(recipe))]


class ModelContext(NamedTuple):
    """A model to evaluate: its engine, the backend that has its chat template, and the folder of its results."""

    recipe: Recipe
    folder: RunFolder
    engine: Engine
    backend: Backend
    is_base: bool


def ensure_result(model_context: ModelContext, settings: BenchmarkSettings, part: str) -> None:
    """Write the result of a model on a benchmark if it is not there: PART/NAME.json, PART is eval or validation."""
    recipe, folder, engine, backend, is_base = model_context
    benchmark = load_benchmark(settings.name)

    def make() -> object:
        items = without_needless_sample(settings)
        chat = backend.load_chat_template(*recipe.chat_arguments)
        context = EvalContext(
            engine=engine,
            chat=chat,
            seed=recipe.seed,
            folder=folder / part / settings.label,
            settings=items,
            is_base=is_base and not settings.base_in_template,
            judge=open_judge(recipe, settings) if benchmark.needs_judge else None,
            unsafe_code=recipe.machine.unsafe_code,
        )
        fingerprints = _fingerprints_of_part(recipe, settings, part)
        if part == "validation":
            assert recipe.stop_rule
            result = _measured_score_first(validation_part(recipe.stop_rule), benchmark.name, context)
        else:
            result = benchmark.run(context)
        template = "" if result.template in ("", PLAIN) else fingerprint(chat.template)
        update = {**fingerprints.model_dump(), "template_fingerprint": template, "part": part_name(items)}
        return result.model_copy(update=update).model_dump(mode="json")

    folder.json(f"{part}/{settings.label}.json", make)


def _measured_score_first(part: ValidationPart, name: str, context: EvalContext) -> Result:
    """Return the result on a validation part with the score that the rule reads as the first, where it is looked for.

    Raises UserError if the result has no such score.
    """
    result = part.run(context)
    if not part.score:
        return result
    if part.score not in result.scores:
        raise UserError(
            f"the validation part of {name} has no score {part.score!r}, which the stop rule reads: {result}"
        )
    return result.model_copy(update={"scores": {part.score: result.scores[part.score], **result.scores}})


# --- what a result depends on


def result_fingerprints(recipe: Recipe, settings: BenchmarkSettings) -> Fingerprints:
    """Return the fingerprints that a result on a benchmark has now.

    Raises UserError if the benchmark lacks something that it needs.
    """
    benchmark = load_benchmark(settings.name)
    prompts = prompt_fingerprint(settings)
    judge = open_judge(recipe, settings).identity if benchmark.needs_judge else ""
    score = fingerprint([benchmark.score_inputs(settings), judge])
    return Fingerprints(prompt_fingerprint=prompts, score_fingerprint=score)


def _fingerprints_of_part(recipe: Recipe, settings: BenchmarkSettings, part: str) -> Fingerprints:
    """Return the fingerprints that a result has now; none if it is on a validation part with items of its own."""
    if part == "validation" and not half_name(settings):
        return Fingerprints()
    return result_fingerprints(recipe, settings)


def same_prompts(*results: Fingerprints) -> bool:
    """Return whether results are about the same prompts, as far as they say so."""
    return len({result.prompt_fingerprint for result in results if result.prompt_fingerprint}) < 2


def same_fingerprints(*results: Fingerprints) -> bool:
    """Return whether results are scores of the same items by the same judge, as far as they say so."""
    return (
        same_prompts(*results) and len({result.score_fingerprint for result in results if result.score_fingerprint}) < 2
    )


def check_benchmarks_ready(
    recipe: Recipe, run: RunFolder, models: Sequence[int], *, backend: Backend = DEFAULT_BACKEND
) -> None:
    """Check before anything is generated that the benchmarks which these models lack can be run.

    Raises UserError if data, a package, a judge or a sandbox are missing, or if an existing result has other
    fingerprints. Data are not read if no result is missing and they are gone or on the Hub.
    """
    template = cache(lambda: fingerprint(backend.load_chat_template(*recipe.chat_arguments).template))
    for part, settings in evaluated_parts(recipe):
        benchmark = load_benchmark(settings.name)
        results = {t: load_result(run, t, settings.label, part) for t in models}
        missing = any(result is None for result in results.values())
        readable = Path(settings.data).exists() if settings.data else benchmark.items_from == "package"
        if missing or readable:
            expected = _fingerprints_of_part(recipe, settings, part)
            for t, result in results.items():
                if result is None:
                    continue
                same_template = not result.template_fingerprint or result.template_fingerprint == template()
                if not same_fingerprints(result, expected) or not same_template:
                    path = iteration_dir(run, t).path / part / f"{settings.label}.json"
                    raise UserError(_changed(path, settings, result, expected))
        if missing and benchmark.needs_sandbox:
            sandbox.find_isolation(recipe.machine.unsafe_code)
        if missing and benchmark.needs_judge:
            open_judge(recipe, settings).check()


def _changed(path: Path, settings: BenchmarkSettings, result: Result, expected: Fingerprints) -> str:
    """Return a message that says on which changed input an existing result depends, and the way out."""
    if not same_prompts(result, expected):
        data = settings.data or "those of the benchmark now"
        change = f"is about other items than {data}: give the data that it was made from"
    elif not same_fingerprints(result, expected):
        is_judged = load_benchmark(settings.name).needs_judge
        rule = "the judge, its prompts or its parameters" if is_judged else "the items' references or tests"
        change = f"was scored by another rule: {rule} have changed since; restore them"
    else:
        change = "was made with another chat template: restore it"
    return f"{path} {change}, or delete it and {path.with_suffix('')} in every iteration to score anew"
