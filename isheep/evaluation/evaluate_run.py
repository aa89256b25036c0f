"""The verb eval: a run's models on benchmarks, whenever one likes; and scoring a file of another program's answers."""

from collections.abc import Sequence
from pathlib import Path

from isheep.benchmarks import Result, load_benchmark, prompt_fingerprint, settings_conflicts
from isheep.errors import UserError
from isheep.evaluation.evaluate import check_benchmarks_ready, evaluate
from isheep.models.checkpoint import check_device
from isheep.recipe.benchmark_names import benchmark_names, check_benchmark_name
from isheep.recipe.schema import BenchmarkSettings, JudgeSettings, Recipe
from isheep.rundir.atomic import write_json
from isheep.rundir.folder import RunFolder, lock_run, open_run
from isheep.rundir.iterations import model_of_iteration, newest_iteration


def evaluate_run(
    path: Path,
    names: Sequence[str],
    data: Path | None,
    iteration: int | None,
    judge: JudgeSettings | None = None,
    unsafe_code: bool = False,
) -> tuple[Recipe, RunFolder]:
    """Score the base and every iteration of a run (or one of them) on the recipe's benchmarks, or on those named.

    What is there is kept. `data` is for one benchmark, in place of what the recipe names; so is `judge`, for those that
    ask one. `unsafe_code` lets code run where no sandbox holds, as machine.unsafe_code does. Raises UserError before a
    model loads where a benchmark can't be run, or where results on other items are there.
    """
    recipe, run = open_run(path)
    wanted = [chosen(name, recipe, data) for name in names] or list(recipe.evaluation)
    if not wanted:
        raise UserError(
            f"the recipe of {path} has no benchmark in evaluation: name one of {', '.join(benchmark_names())}"
        )
    if data and len(names) != 1:
        raise UserError(f"--data {data} is for one benchmark: name it, and it alone")
    wanted = judged(wanted, judge)
    models = range(newest_iteration(recipe, run) + 1) if iteration is None else [iteration]
    model_of_iteration(recipe, run, iteration)  # told before a benchmark is read
    check_device(recipe.machine.device)
    machine = recipe.machine.model_copy(update={"unsafe_code": unsafe_code or recipe.machine.unsafe_code})
    now = recipe.model_copy(update={"evaluation": tuple(wanted), "stop": None, "machine": machine})
    check_benchmarks_ready(now, run, models)
    if data and not data.exists():  # all is scored, so that nobody has looked at it
        raise UserError(f"--data {data}: there is no such file or folder")
    with lock_run(path) as run:
        for t in models:
            evaluate(now, run, t, model_of_iteration(recipe, run, t))
    return recipe, run


def chosen(name: str, recipe: Recipe, data: Path | None) -> BenchmarkSettings:
    """The benchmark of that name as the recipe has it, with `data` where they are given."""
    try:
        check_benchmark_name(name)
    except ValueError as error:
        raise UserError(str(error)) from None
    one = next((one for one in recipe.evaluation if one.name == name), BenchmarkSettings.model_validate({"name": name}))
    return one.model_copy(update={"data": str(data)}) if data else one


def judged(wanted: Sequence[BenchmarkSettings], judge: JudgeSettings | None) -> list[BenchmarkSettings]:
    """The benchmarks, those that ask a judge with this one, if one is given."""
    needs_judge = {settings.name: load_benchmark(settings.name).needs_judge for settings in wanted}
    if judge and not any(needs_judge.values()):
        names = ", ".join(needs_judge)
        judged_names = ", ".join(
            name for name in benchmark_names() if "/" not in name and load_benchmark(name).needs_judge
        )
        raise UserError(f"--judge is for {judged_names}: {names} asks none")
    found = [one.model_copy(update={"judge": judge}) if judge and needs_judge[one.name] else one for one in wanted]
    for one in found:
        for message in settings_conflicts(one):
            raise UserError(message)
    return found


def score_responses(name: str, answers: Path, data: Path | None, into: Path) -> Result:
    """A benchmark's result on a file of answers, written with what else belongs to it in the folder `into`."""
    settings = chosen(name, Recipe(model="none"), data)
    score = load_benchmark(name).score_responses
    if score is None:
        raise UserError(f"benchmark {name!r} can't score a file of answers: leave --responses out, and give a run")
    result = score(data, answers, into).model_copy(update={"prompt_fingerprint": prompt_fingerprint(settings)})
    write_json(into / f"{name}.json", result.model_dump(mode="json"))
    return result
