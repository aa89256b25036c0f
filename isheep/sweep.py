"""Runs: one recipe from the base model to its last model, and sweeps of many recipes that share equal files.

A file of a run is copied from another run if it would be made from the same (evaluation/file_sources.py). So two
thresholds of a sweep that keep the same pairs train one model, and a run with `reuse` makes only what differs.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from isheep.algorithm import align
from isheep.backends import DEFAULT_BACKEND, Backend
from isheep.benchmarks import benchmarks_need_logprobs, half_name, stop_settings
from isheep.diagnostics.degenerate import worse_score
from isheep.diagnostics.judge_kinds import blind_judge
from isheep.errors import UserError, option
from isheep.evaluation import evaluate
from isheep.evaluation.file_sources import benchmark_of_file, source_fingerprint
from isheep.evaluation.matched_steps import with_matched_steps, with_steps
from isheep.evaluation.results import read_result
from isheep.evaluation.stopping import describe_stop, is_last_iteration, is_unfinished, last_iteration, run_gain_test
from isheep.filters.custom import PairFunction, as_filter
from isheep.filters.score import ScoreFilter
from isheep.judges.endpoint import JUDGE_LOG
from isheep.models.adapter_files import check_tokenizer_files
from isheep.models.chat_template import ChatTemplate
from isheep.models.checkpoint import check_device
from isheep.plan.reality import record_plan
from isheep.recipe.loading import load_saved_recipe
from isheep.recipe.schema import Recipe
from isheep.recipe.sweeps import folder_of_setting, parse_run_name
from isheep.records import AssessedPair, Model, Record
from isheep.report.hook import live_report
from isheep.rundir import progress
from isheep.rundir.atomic import copy_atomically
from isheep.rundir.events import read_events
from isheep.rundir.findings import report_findings
from isheep.rundir.folder import RunFolder
from isheep.rundir.lock import is_locked
from isheep.rundir.manifest import is_accepted, is_stale
from isheep.rundir.progress import console
from isheep.rundir.python_objects import Names, check_python_objects, save_python_objects
from isheep.rundir.reuse import ReusedRun, begin_reuse, check_reused_run, report_files
from isheep.rundir.run import (
    check_finished_files,
    check_run_dir,
    complete_replacements,
    has_current_format,
    list_runs,
    open_run,
    open_run_for_writing,
)
from isheep.rundir.seed_sweep import check_layout, declare_runs
from isheep.stages import assess
from isheep.stages.follow_ups import check_dialogues
from isheep.stages.judge_digests import check_same_judges, save_judges
from isheep.stages.rating_judge import check_judge, judge_chat
from isheep.stages.respond import check_prompt_fits
from isheep.trackers import check_trackers, track_run
from isheep.trainers.rows import check_rows

# --- one run


def run_recipe(
    recipe: Recipe,
    out: Path,
    reuse_from: Callable[[str], Path | None] = lambda file: None,
    *,
    reuse: Path | None = None,
    backend: Backend = DEFAULT_BACKEND,
) -> tuple[RunFolder, int]:
    """Run a recipe in the folder `out`, or continue its run; return the folder and the last iteration.

    The last iteration is T, or the one at which the recipe's `stop` ends the run. `reuse_from` is RunFolder.reuse_from;
    `reuse` is a run folder from which every file is taken over that comes out the same.
    """
    *_, (last_iteration, _) = iterate_recipe(recipe, out, reuse_from, reuse=reuse, backend=backend)
    return RunFolder(out, out), last_iteration


def iterate_recipe(
    recipe: Recipe,
    out: Path,
    reuse_from: Callable[[str], Path | None] = lambda file: None,
    *,
    reuse: Path | None = None,
    backend: Backend = DEFAULT_BACKEND,
    filters: Sequence[PairFunction] = (),
) -> Iterator[tuple[int, Model]]:
    """Run a recipe as `run_recipe` does; yield each iteration with its model once the model is trained and evaluated.

    `filters` are those of algorithm.align. The run folder is locked until the iterator is exhausted or closed.
    With `machine.report`, report.html is written after stages.
    """
    recipe = with_run_date(with_matched_steps(recipe), out, backend, reuse)
    with (
        open_run_for_writing(out, recipe) as folder,
        progress.run(out, recipe.iterations, reaches_threshold(recipe)),
        live_report(folder, recipe.machine.report),
        track_run(recipe, folder) as send_figures,
    ):
        save_python_objects(folder, _object_names(backend, filters))
        if is_unfinished(recipe, folder):
            check_same_judges(out, recipe)
            save_judges(folder, recipe)
        num_made = _num_made_files(out)
        reused = _begin_reuse(folder, recipe, reuse)
        folder = replace(folder, reuse_from=find_reusable_files(recipe, out, [reused]) if reused else reuse_from)
        for iteration, model in enumerate(align(recipe, folder, backend=backend, filters=filters)):
            evaluate.evaluate(recipe, folder, iteration, model, backend=backend)
            report_findings(
                folder, recipe, worse_score(recipe, folder, iteration), blind_judge(recipe, folder, iteration)
            )
            send_figures(iteration)
            if reused and _num_made_files(out) > num_made:
                report_files(folder, iteration, reused)
            is_last = is_last_iteration(recipe, folder, iteration)
            if is_last and iteration < recipe.iterations:
                _report_stop(recipe, folder, iteration)
            # An engine that was passed works with another speed than the recipe's, or elsewhere.
            if is_last and backend.open_engine is DEFAULT_BACKEND.open_engine:
                record_plan(recipe, folder)
            if is_last and _num_made_files(out) == num_made:
                console.print("this run is complete: nothing to do", soft_wrap=True)
            yield iteration, model
            if is_last:
                break


def reaches_threshold(recipe: Recipe) -> progress.IsKept:
    """Return the function that says whether a rated pair passes its iteration's score filters, for the progress."""
    filters = {number: _score_filters(recipe.at(number)) for number in range(1, recipe.iterations + 1)}

    def is_kept(row: Record, iteration: int | None) -> bool | None:
        thresholds = filters.get(iteration or 0)
        # Which pairs are the best is known only when all are rated.
        if not thresholds or not isinstance(row, AssessedPair) or any(entry.best for entry in thresholds):
            return None
        return not any(entry.reason_against(row.grades) for entry in thresholds)

    return is_kept


def _score_filters(recipe: Recipe) -> list[ScoreFilter]:
    return [entry for entry in recipe.filters if isinstance(entry, ScoreFilter)]


def _num_made_files(run_dir: Path) -> int:
    """Return the number of files that have been made in a run, from its events."""
    return sum("file" in event for event in read_events(run_dir))


def _begin_reuse(run: RunFolder, recipe: Recipe, path: Path | None) -> ReusedRun | None:
    """Return the run whose files are taken over, after copying its judge's answers, so that no call is paid twice."""
    reused = begin_reuse(run, recipe, path)
    if reused and (reused.path / JUDGE_LOG).exists() and not run.has(JUDGE_LOG):
        copy_atomically(reused.path / JUDGE_LOG, run.path / JUDGE_LOG)
    return reused


def with_run_date(recipe: Recipe, out: Path, backend: Backend = DEFAULT_BACKEND, reuse: Path | None = None) -> Recipe:
    """Return the recipe with the date of the run in `out`: that of its recipe.yaml, or today's (UTC) for a new run.

    A recipe has a date only if its chat template reads the clock, so that a run resumed on another day does not change.
    A new run that takes over the files of the run `reuse` takes over its date, too.
    """
    if recipe.date or (out / "recipe.yaml").is_file():
        return with_saved_date(recipe, out)
    if not getattr(backend.load_chat_template(*recipe.chat_arguments), "reads_clock", False):
        return recipe
    if reuse:
        recipe = with_saved_date(recipe, reuse)
    return recipe if recipe.date else recipe.model_copy(update={"date": datetime.now(UTC).date()})


def with_saved_date(recipe: Recipe, out: Path) -> Recipe:
    """Return the recipe with the date that the run in `out` began with, if there is such a run and date."""
    saved = out / "recipe.yaml"
    if recipe.date or not saved.is_file() or not has_current_format(out):
        return recipe
    return recipe.model_copy(update={"date": load_saved_recipe(saved).date})


def _object_names(backend: Backend, filters: Sequence[PairFunction]) -> Names:
    """Return the names of the Python objects that a run is made with, beside its recipe."""
    names: dict[str, list[str]] = {}
    if backend.engine_name:
        names["engine"] = [backend.engine_name]
    if filters:
        names["filters"] = [as_filter(function).label for function in filters]
    return names


def _report_stop(recipe: Recipe, folder: RunFolder, iteration: int) -> None:
    """Say after which iteration the stop rule ended the run, and why."""
    test = run_gain_test(recipe, folder, iteration)
    assert test
    folder.notify(describe_stop(recipe, test))


def check_recipe_ready(
    recipe: Recipe,
    out: Path,
    *,
    reuse: Path | None = None,
    backend: Backend = DEFAULT_BACKEND,
    filters: Sequence[PairFunction] = (),
) -> None:
    """Raise UserError if a run of this recipe in the folder `out` can't work, before any weights are loaded."""
    complete_replacements(out)
    recipe = with_saved_date(with_matched_steps(recipe), out)
    if reuse:
        check_reused_run(reuse, out, _object_names(backend, filters))
    check_run_dir(out, recipe)
    check_finished_files(out, recipe)
    check_python_objects(out, _object_names(backend, filters))
    check_device(recipe.machine.device)
    check_trackers(recipe)
    backend.check_training(recipe)
    chat = backend.load_chat_template(*recipe.chat_arguments)
    check_prompt_fits(recipe, chat)
    if isinstance(chat, ChatTemplate):
        for variant in recipe.variants:
            check_rows(chat, variant.training)
            if variant.response.turns > 1:
                check_dialogues(chat)
    for variant in recipe.variants:
        if variant.assessment:
            assess.check_score_tokens(variant.assessment, judge_chat(variant, variant.assessment, chat))
    run = RunFolder(out, out)
    if is_unfinished(recipe, run):
        check_same_judges(out, recipe)
        if isinstance(chat, ChatTemplate):
            check_tokenizer_files(recipe.model, chat)
        for variant in recipe.variants:
            if variant.assessment:
                check_judge(variant, variant.assessment)
        for note in backend.check_engine(recipe, benchmarks_need_logprobs(recipe)):
            console.print(note, markup=False, soft_wrap=True)
    evaluate.check_benchmarks_ready(recipe, run, range(last_iteration(recipe, run) + 1), backend=backend)


# --- many runs


def run_sweep(recipes: Mapping[str, Recipe], out: Path, *, backend: Backend = DEFAULT_BACKEND) -> list[Path]:
    """Run recipes by name, each in the folder of its name in `out`, or continue their runs; return the folders.

    Names are those of settings, or SETTING/seed-K (recipe.sweeps.with_seeds). A folder with the name that an older
    isheep gave a setting is continued, too (recipe.sweeps.folder_of_setting). Settings that are matched with another
    one (`training.steps_of`) run after it.
    Raises UserError before anything runs if one of them can't begin, or if `out` is a run folder itself. A recipe that
    can't be finished (a threshold may keep nothing to train on) does not stop the others: the error is raised at the
    end, and is an event of the run.
    """
    if (out / "recipe.yaml").exists():
        another = f"give another {option('out')}"
        raise UserError(f"{out} is a run folder: a run for each setting needs a folder of its own; {another}")
    check_layout(out, recipes)
    folders = {name: folder_of_setting(out, name) for name in recipes}
    for name in recipes:
        check_recipe_ready(_with_expected_steps(name, recipes, out), folders[name], backend=backend)
    if any(parse_run_name(name)[1] is not None for name in recipes):
        declare_runs(out, recipes)
    errors = []
    for name in _in_order(recipes):
        console.print(f"== {folders[name]}", markup=False, soft_wrap=True)
        try:
            recipe = with_matched_steps(recipes[name], _matched_run(name, recipes, out))
            recipe = with_run_date(recipe, folders[name], backend)
            reuse_from = find_reusable_files(recipe, folders[name], sibling_runs(folders[name], out))
            run_recipe(recipe, folders[name], reuse_from, backend=backend)
        except UserError as error:
            errors.append(f"{name}: {error}")
            if (folders[name] / "recipe.yaml").exists() and not is_locked(folders[name]):
                RunFolder(folders[name], folders[name]).event(failed=str(error))
    if errors:
        raise UserError(f"{len(errors)} of {len(recipes)} settings could not be finished: {'; '.join(errors)}")
    return list(folders.values())


def _in_order(recipes: Mapping[str, Recipe]) -> list[str]:
    """Return the names of recipes, one random seed after the other, each time the matched ones last."""
    seeds = list(dict.fromkeys(parse_run_name(name)[1] for name in recipes))

    def position(name: str) -> tuple[int, bool]:
        return seeds.index(parse_run_name(name)[1]), recipes[name].training.steps_of is not None

    return sorted(recipes, key=position)


def _matched_name(name: str, recipe: Recipe) -> str | None:
    """Return the name of the run with the same seed that `training.steps_of` means if it names another setting."""
    _, slash, seed_folder = name.partition("/")
    return f"{recipe.training.steps_of}{slash}{seed_folder}" if recipe.training.steps_of else None


def _matched_run(name: str, recipes: Mapping[str, Recipe], out: Path) -> Path | None:
    """Return the folder of the setting that a recipe's `training.steps_of` names.

    None if it names no setting of the sweep: then it is a run folder, or nothing.
    """
    matched = _matched_name(name, recipes[name])
    if matched is None:
        return None
    folder = folder_of_setting(out, matched)
    return folder if matched in recipes or folder.exists() else None


def _with_expected_steps(name: str, recipes: Mapping[str, Recipe], out: Path) -> Recipe:
    """Return a recipe whose steps may not be known yet, because the setting that it is matched with runs before it.

    Until then it has the steps with which its own run has begun, or one step. Raises UserError if a setting is matched
    with one that is matched itself.
    """
    recipe = recipes[name]
    if _matched_run(name, recipes, out) is None:
        return recipe
    matched = recipes.get(_matched_name(name, recipe) or "")
    if matched and matched.training.steps_of:
        raise UserError(
            f"{name}: training.steps_of: {recipe.training.steps_of} is itself matched with "
            f"{matched.training.steps_of}: name that"
        )
    saved = folder_of_setting(out, name) / "recipe.yaml"
    saved_steps = load_saved_recipe(saved).training.max_steps if saved.is_file() else None
    return with_steps(recipe, saved_steps or 1)


def sibling_runs(run_dir: Path, out: Path | None = None) -> list[ReusedRun]:
    """Return the runs beside a run folder, whose files it may copy.

    `out` is the folder of its sweep, if that is not the folder above: then they are the runs with the same seed.
    """
    if out is None or run_dir.parent == out:
        paths = list_runs(run_dir.parent)
    else:
        paths = [path for folder in sorted(out.glob("*/")) for path in list_runs(folder) if path.name == run_dir.name]
    return [ReusedRun(path, open_run(path)[0]) for path in paths if path != run_dir]


def find_reusable_files(recipe: Recipe, run_dir: Path, other_runs: Sequence[ReusedRun]) -> Callable[[str], Path | None]:
    """Return RunFolder.reuse_from for a run: a function that looks for a file in other runs."""

    def reuse_from(file: str) -> Path | None:
        fingerprint = source_fingerprint(recipe, run_dir, file)
        if fingerprint is None:
            return None
        for folder, other_recipe in other_runs:
            path = folder / file
            if (
                path.exists()
                and not is_stale(folder, file)
                and not is_accepted(folder, file)
                and source_fingerprint(other_recipe, folder, file) == fingerprint
                and is_current_result(recipe, path)
            ):
                return path
        return None

    return reuse_from


def is_current_result(recipe: Recipe, path: Path) -> bool:
    """Return whether a file of another run's eval/ is about the items and the judge that its benchmark has now.

    True for every file outside eval/ and validation/, and for a validation part that is no half of a benchmark. The
    file NAME.json says what the files of eval/NAME/ are about.
    """
    part = "validation" if "/validation/" in str(path) else "eval"
    folder, _, name = str(path).rpartition(f"/{part}/")
    if part == "validation":
        benchmark = stop_settings(recipe) if recipe.stop_rule and half_name(stop_settings(recipe)) else None
    else:
        benchmark = benchmark_of_file(recipe, name) if folder else None
    if benchmark is None:
        return True
    result = Path(folder, part, f"{benchmark.label}.json")
    return result.exists() and evaluate.same_fingerprints(
        read_result(result), evaluate.result_fingerprints(recipe, benchmark)
    )
