"""Runs: one recipe from the base model to its last model, and sweeps of many recipes that share equal files.

In a sweep, a file of a run is copied from another run if it would be made from the same: from files with the same
bytes, and from the same values of the recipe's keys that it depends on (rundir/artifacts.py). So two thresholds that
keep the same pairs train one model.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from isheep.algorithm import align
from isheep.backends import DEFAULT_BACKEND, Backend
from isheep.benchmarks import benchmarks_need_logprobs, half_name, reported_benchmarks, stop_settings
from isheep.errors import UserError, option
from isheep.evaluation import evaluate
from isheep.evaluation.results import read_result
from isheep.evaluation.stopping import describe_stop, is_last_iteration, run_gain_test
from isheep.filters.custom import PairFunction, as_filter
from isheep.models.adapter_files import check_tokenizer_files
from isheep.models.chat_template import ChatTemplate
from isheep.models.checkpoint import check_device
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.recipe.loading import load_saved_recipe
from isheep.recipe.schema import Recipe
from isheep.records import Model
from isheep.rundir.artifacts import Artifact, artifact_of
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import iteration_dir, iteration_name, parse_run_file
from isheep.rundir.progress import console
from isheep.rundir.python_objects import Names, check_python_objects, save_python_objects
from isheep.rundir.run import (
    check_run_dir,
    has_current_format,
    open_run,
    open_run_for_writing,
    read_events,
    saved_prompts,
)
from isheep.stages import assess
from isheep.stages.respond import check_prompt_fits
from isheep.trainers.rows import check_cutoff

# The keys of a recipe that every shared file depends on.
COMMON_KEYS = {"model", "chat_template", "date", "seed", "machine"}

# The files of a model's adapter that decide what the model generates.
MODEL_FILES = ("adapter/adapter_model.safetensors", "adapter/adapter_config.json")


# --- one run


def run_recipe(
    recipe: Recipe,
    out: Path,
    reuse_from: Callable[[str], Path | None] = lambda file: None,
    *,
    backend: Backend = DEFAULT_BACKEND,
) -> tuple[RunFolder, int]:
    """Run a recipe in the folder `out`, or continue its run; return the folder and the last iteration.

    The last iteration is T, or the one at which the recipe's `stop` ends the run. `reuse_from` is RunFolder.reuse_from.
    """
    *_, (last_iteration, _) = iterate_recipe(recipe, out, reuse_from, backend=backend)
    return RunFolder(out, out), last_iteration


def iterate_recipe(
    recipe: Recipe,
    out: Path,
    reuse_from: Callable[[str], Path | None] = lambda file: None,
    *,
    backend: Backend = DEFAULT_BACKEND,
    filters: Sequence[PairFunction] = (),
) -> Iterator[tuple[int, Model]]:
    """Run a recipe as `run_recipe` does; yield each iteration with its model once the model is trained and evaluated.

    `filters` are those of algorithm.align. The run folder is locked until the iterator is exhausted or closed.
    """
    recipe = with_run_date(recipe, out, backend)
    with open_run_for_writing(out, recipe) as folder:
        save_python_objects(out, _object_names(backend, filters))
        folder = replace(folder, reuse_from=reuse_from)
        num_made = _num_made_files(out)
        for iteration, model in enumerate(align(recipe, folder, backend=backend, filters=filters)):
            evaluate.evaluate(recipe, folder, iteration, model, backend=backend)
            is_last = is_last_iteration(recipe, folder, iteration)
            if is_last and iteration < recipe.iterations:
                _report_stop(recipe, folder, iteration)
            if is_last and _num_made_files(out) == num_made:
                console.print("this run is complete: nothing to do", soft_wrap=True)
            yield iteration, model
            if is_last:
                break


def _num_made_files(run_dir: Path) -> int:
    """Return the number of files that have been made in a run, from its events."""
    return sum("file" in event for event in read_events(run_dir))


def with_run_date(recipe: Recipe, out: Path, backend: Backend = DEFAULT_BACKEND) -> Recipe:
    """Return the recipe with the date of the run in `out`: that of its recipe.yaml, or today's (UTC) for a new run.

    A recipe has a date only if its chat template reads the clock, so that a run resumed on another day does not change.
    """
    if recipe.date or (out / "recipe.yaml").is_file():
        return with_saved_date(recipe, out)
    reads_clock = getattr(backend.load_chat_template(*recipe.chat_arguments), "reads_clock", False)
    return recipe.model_copy(update={"date": datetime.now(UTC).date()}) if reads_clock else recipe


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
    recipe: Recipe, out: Path, *, backend: Backend = DEFAULT_BACKEND, filters: Sequence[PairFunction] = ()
) -> None:
    """Raise UserError if a run of this recipe in the folder `out` can't work, before any weights are loaded."""
    recipe = with_saved_date(recipe, out)
    check_run_dir(out, recipe)
    check_python_objects(out, _object_names(backend, filters))
    check_device(recipe.machine.device)
    backend.check_training(recipe)
    chat = backend.load_chat_template(*recipe.chat_arguments)
    check_prompt_fits(recipe, chat)
    if isinstance(chat, ChatTemplate):
        for variant in recipe.variants:
            check_cutoff(chat, variant.training)
    for variant in recipe.variants:
        if variant.assessment:
            assess.check_expected_scores(variant.assessment, chat)
    run = RunFolder(out, out)
    last = next(iteration for iteration in range(recipe.iterations + 1) if is_last_iteration(recipe, run, iteration))
    if is_unfinished(recipe, run, last):
        if isinstance(chat, ChatTemplate):
            check_tokenizer_files(recipe.model, chat)
        for note in backend.check_engine(recipe, benchmarks_need_logprobs(recipe)):
            console.print(note, markup=False, soft_wrap=True)
    evaluate.check_benchmarks_ready(recipe, run, range(last + 1), backend=backend)


def is_unfinished(recipe: Recipe, run: RunFolder, last: int) -> bool:
    """Return whether a model up to iteration `last`, or a score of one, is still missing."""
    folders = [iteration_dir(run, iteration) for iteration in range(last + 1)]
    results = [f"eval/{benchmark.label}.json" for benchmark in recipe.evaluation]
    has_models = all(folder.has("adapter") for folder in folders[1:])
    return not (has_models and all(folder.has(result) for folder in folders for result in results))


# --- many runs


def run_sweep(recipes: Mapping[str, Recipe], out: Path, *, backend: Backend = DEFAULT_BACKEND) -> list[Path]:
    """Run recipes by name, each in the folder of its name in `out`, or continue their runs; return the folders.

    Raises UserError before anything runs if one of them can't begin, or if `out` is a run folder itself. A recipe that
    can't be finished (a threshold may keep nothing to train on) does not stop the others: the error is raised at the
    end.
    """
    if (out / "recipe.yaml").exists():
        another = f"give another {option('out')}"
        raise UserError(f"{out} is a run folder: a run for each setting needs a folder of its own; {another}")
    for name, recipe in recipes.items():
        check_recipe_ready(recipe, out / name, backend=backend)
    errors = []
    for name, undated in recipes.items():
        console.print(f"== {out / name}", markup=False, soft_wrap=True)
        try:
            recipe = with_run_date(undated, out / name, backend)
            run_recipe(recipe, out / name, find_reusable_files(recipe, out / name), backend=backend)
        except UserError as error:
            errors.append(f"{name}: {error}")
    if errors:
        raise UserError(f"{len(errors)} of {len(recipes)} settings could not be finished: {'; '.join(errors)}")
    return [out / name for name in recipes]


def find_reusable_files(recipe: Recipe, run_dir: Path) -> Callable[[str], Path | None]:
    """Return RunFolder.reuse_from for a run: a function that looks for a file in the runs beside it."""
    folders = [path.parent for path in sorted(run_dir.parent.glob("*/recipe.yaml")) if path.parent != run_dir]
    other_runs = [(folder, open_run(folder)[0]) for folder in folders if has_current_format(folder)]

    def reuse_from(file: str) -> Path | None:
        fingerprint = source_fingerprint(recipe, run_dir, file)
        if fingerprint is None:
            return None
        for folder, other_recipe in other_runs:
            path = folder / file
            if (
                path.exists()
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
        benchmark = stop_settings(recipe) if recipe.stop and half_name(stop_settings(recipe)) else None
    else:
        benchmark = benchmark_of_file(recipe, name) if folder else None
    if benchmark is None:
        return True
    result = Path(folder, part, f"{benchmark.label}.json")
    return result.exists() and evaluate.same_fingerprints(
        read_result(result), evaluate.result_fingerprints(recipe, benchmark)
    )


def benchmark_of_file(recipe: Recipe, name: str) -> BenchmarkSettings | None:
    """Return the benchmark of `evaluation` that a file in eval/ belongs to: NAME.json, NAME, or a file in NAME/."""
    for benchmark in reported_benchmarks(recipe):
        if name in (benchmark.label, f"{benchmark.label}.json") or name.startswith(f"{benchmark.label}/"):
            return benchmark
    return None


# --- what a file is made from


def source_fingerprint(recipe: Recipe, run_dir: Path, file: str) -> str | None:
    """Return a hash of everything that a file of a run ("iter-1/pairs.jsonl") is made from.

    None if the file is not to be shared, or if one of its sources does not exist.
    """
    iteration, name = parse_run_file(file)
    artifact = artifact_of(name)
    if artifact is None or not artifact.shared:
        return None
    recipe = recipe.at(iteration)
    paths = [run_dir / "seeds.jsonl", *_source_files(artifact, recipe, run_dir, iteration)]
    if not all(path.exists() for path in paths):
        return None
    settings = _settings_of_file(artifact, recipe, name)
    prompts = saved_prompts(run_dir)
    settings["prompts"] = [prompts.get(name) for name in recipe.own_prompts(artifact.recipe_keys)]
    return hashlib.sha256(json.dumps([file, settings, _digests(paths)]).encode()).hexdigest()


def _source_files(artifact: Artifact, recipe: Recipe, run_dir: Path, iteration: int) -> list[Path]:
    """Return the files that an artifact is made from, those of the model that makes it included."""
    folder = run_dir / iteration_name(iteration)
    # The current model's adapter is among the model's files below.
    files = [folder / source for source in artifact.sources if source != "adapter"]
    if artifact.model == "current":
        model_iteration = iteration
    elif artifact.model == "start" and recipe.training.start == "base":
        model_iteration = 0
    else:
        model_iteration = iteration - 1
    if model_iteration > 0:
        files += [run_dir / iteration_name(model_iteration) / name for name in MODEL_FILES]
    return files


def _settings_of_file(artifact: Artifact, recipe: Recipe, name: str) -> dict[str, Any]:
    """Return the settings that the file `name` of an artifact depends on."""
    settings = recipe.model_dump(mode="json", include={*COMMON_KEYS, *artifact.recipe_keys})
    if artifact.name == "adapter":
        # These two choose the model and the rows to start from, whose files are among the sources.
        del settings["training"]["start"], settings["training"]["data"]
    elif artifact.name == "eval":
        benchmark = benchmark_of_file(recipe, name.removeprefix("eval/"))
        settings["evaluation"] = benchmark.model_dump(mode="json") if benchmark else None
    elif artifact.name == "validation":
        # The rule's numbers do not change a score.
        settings["stop"] = stop_settings(recipe).model_dump(mode="json") if recipe.stop else None
    return settings


def _digests(paths: Iterable[Path]) -> list[str]:
    return [_digest(path, path.stat().st_mtime_ns) for path in paths]


@cache
def _digest(path: Path, modified: int) -> str:
    """Return the SHA-256 of a file. `modified` is its modification time, so that a new content is read anew."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
