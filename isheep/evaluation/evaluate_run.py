"""isheep eval: score the models of a run at any time, or a file of answers that another program wrote."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from isheep import sandbox
from isheep.backends import DEFAULT_BACKEND, Backend, open_judge
from isheep.benchmarks import (
    ResponseContext,
    Result,
    load_benchmark,
    prompt_fingerprint,
    reported_settings,
    settings_conflicts,
)
from isheep.errors import UserError, option
from isheep.evaluation.evaluate import check_benchmarks_ready, evaluate
from isheep.models.checkpoint import check_device
from isheep.recipe.benchmark_names import benchmark_names, check_benchmark_name
from isheep.recipe.evaluation import BenchmarkSettings, JudgeSettings
from isheep.recipe.schema import Recipe
from isheep.rundir import progress
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import model_of_iteration, newest_iteration
from isheep.rundir.run import lock_run, open_run


def evaluate_run(
    path: Path,
    names: Sequence[str],
    data: Path | None,
    iteration: int | None,
    judge: JudgeSettings | None = None,
    unsafe_code: bool = False,
    *,
    backend: Backend = DEFAULT_BACKEND,
) -> tuple[Recipe, RunFolder]:
    """Score the base and every iteration of a run (or one of them) on the recipe's benchmarks, or on those named.

    Existing results are kept. If the recipe's stop rule reads one half of a benchmark, the other half is scored. `data`
    replaces the recipe's for a single benchmark, `judge` for all that need a judge.
    `unsafe_code` allows model-written code to run without a sandbox, as machine.unsafe_code does. Raises UserError
    before a model loads if a benchmark can't be run, or if existing results are about other items.
    """
    recipe, run = open_run(path)
    backend.check_code(recipe)
    benchmarks = [settings_for(name, recipe, data) for name in names] or list(recipe.evaluation)
    if not benchmarks:
        raise UserError(
            f"the recipe of {path} has no benchmark in evaluation: name one of {', '.join(benchmark_names())}"
        )
    if data and len(names) != 1:
        raise UserError(f"{option('data')} {data} is for one benchmark: name it, and it alone")
    benchmarks = [reported_settings(recipe.stop_rule, settings) for settings in with_judge(benchmarks, judge)]
    models = range(newest_iteration(recipe, run) + 1) if iteration is None else [iteration]
    # Raises an error for a wrong iteration before the benchmarks are read.
    model_of_iteration(recipe, run, iteration)
    check_device(recipe.machine.device)
    machine = recipe.machine.model_copy(update={"unsafe_code": unsafe_code or recipe.machine.unsafe_code})
    changed = recipe.model_copy(update={"evaluation": tuple(benchmarks), "stop": None, "machine": machine})
    # What is gone is made again.
    check_benchmarks_ready(changed, replace(run, is_read_only=False), models, backend=backend)
    # If all results exist, the data have not been read.
    if data and not data.exists():
        raise UserError(f"{option('data')} {data}: there is no such file or folder")
    with lock_run(path) as run, progress.run(path, recipe.iterations):
        for t in models:
            evaluate(changed, run, t, model_of_iteration(recipe, run, t), backend=backend)
    return recipe, run


def settings_for(name: str, recipe: Recipe, data: Path | None) -> BenchmarkSettings:
    """Return the recipe's settings of a benchmark, or the defaults, with `data` if it is given.

    Raises UserError if there is no such benchmark.
    """
    try:
        check_benchmark_name(name)
    except ValueError as error:
        raise UserError(str(error)) from None
    entries = {settings.name: settings for settings in recipe.evaluation}
    settings = entries.get(name) or BenchmarkSettings(name=name)
    return settings.model_copy(update={"data": str(data)}) if data else settings


def with_judge(benchmarks: Sequence[BenchmarkSettings], judge: JudgeSettings | None) -> list[BenchmarkSettings]:
    """Return the benchmarks with `judge`, if it is given, for those that need one.

    Raises UserError if none of them does, or if settings can't work.
    """
    needs_judge = {settings.name: load_benchmark(settings.name).needs_judge for settings in benchmarks}
    if judge and not any(needs_judge.values()):
        judged = ", ".join(name for name in benchmark_names() if load_benchmark(name).needs_judge)
        raise UserError(f"{option('judge')} is for {judged}: {', '.join(needs_judge)} asks none")
    changed = [
        settings.model_copy(update={"judge": judge}) if judge and needs_judge[settings.name] else settings
        for settings in benchmarks
    ]
    for settings in changed:
        for message in settings_conflicts(settings):
            raise UserError(message)
    return changed


def score_responses(
    name: str,
    responses: Path,
    data: Path | None,
    output_dir: Path | None = None,
    judge: JudgeSettings | None = None,
    unsafe_code: bool = False,
) -> tuple[Result, Path]:
    """Score a file of answers. Return the result, and the folder that has it with its verdicts.

    The folder is `output_dir`, or else beside the file and named after it and the benchmark. Raises UserError if the
    benchmark can't score files, or if the judge or the sandbox that it needs is missing.
    """
    recipe = Recipe(model="none")
    settings = settings_for(name, recipe, data)
    benchmark = load_benchmark(name)
    if benchmark.score_responses is None:
        raise UserError(
            f"benchmark {name!r} can't score a file of answers: leave {option('responses')} out, and give a run"
        )
    [settings] = with_judge([settings], judge)
    if unsafe_code and not benchmark.needs_sandbox:
        raise UserError(f"{option('unsafe_code')} is for benchmarks that run code: {name} runs none")
    if not responses.is_file():
        raise UserError(f"{responses}: there is no such file; give a file of answers as {option('responses')}")
    output_dir = output_dir or _output_dir(responses, settings.label)
    if output_dir.exists() and not output_dir.is_dir():
        raise UserError(f"{output_dir} is a file: give a folder as {option('out')}")
    if benchmark.needs_sandbox:
        sandbox.find_isolation(unsafe_code)
    opened_judge = open_judge(recipe, settings) if benchmark.needs_judge else None
    if opened_judge:
        opened_judge.check()
    folder = RunFolder(output_dir, output_dir)
    result = benchmark.score_responses(ResponseContext(responses, settings, folder, opened_judge, unsafe_code))
    result = result.model_copy(update={"prompt_fingerprint": prompt_fingerprint(settings)})
    folder.write_json(f"{settings.label}.json", result.model_dump(mode="json"))
    return result, output_dir


def _output_dir(responses: Path, label: str) -> Path:
    """Return answers.paper-nq beside answers.jsonl or answers.jsonl.gz."""
    return responses.with_name(f"{Path(responses.name.removesuffix('.gz')).stem}.{label.replace('/', '-')}")
