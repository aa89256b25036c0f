"""Runs: one recipe from the base to its last model, and many settings or seeds that share what comes out the same.

A file of a run is copied from another run of the sweep where it would be made from the same: the same bytes of the
files before it, and the same values of the recipe's keys that it depends on (rundir/artifacts.py). What a change leaves
as it was is found too: two thresholds that keep the same pairs train one model.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from isheep.algorithm import align
from isheep.backends import DEFAULT_BACKEND, Backend, check_engine, check_training
from isheep.errors import UserError
from isheep.evaluation import evaluate
from isheep.evaluation.evaluate import is_last_iteration, validation_scores
from isheep.evaluation.results import read_result
from isheep.models.checkpoint import check_device
from isheep.recipe.schema import Recipe
from isheep.records import Drop, Pair
from isheep.rundir.artifacts import artifact_of
from isheep.rundir.folder import RunFolder, check_run_dir, open_run, open_run_for_writing, saved_prompts
from isheep.rundir.iterations import iteration_dir
from isheep.rundir.progress import console
from isheep.stages import assess
from isheep.stages.filters import kept_pairs
from isheep.stages.respond import check_prompt_fits

COMMON = {"model", "chat_template", "seed", "machine"}
# Scores depend on the model and the benchmark, which `ingredients` adds.
SHARED_SOURCES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {"eval": ((), ()), "validation": ((), ())}
MODEL = ("adapter/adapter_model.safetensors", "adapter/adapter_config.json")  # what makes M^t of the base


def run_recipe(
    recipe: Recipe,
    out: Path,
    reuse_from: Callable[[str], Path | None] = lambda label: None,
    *,
    backend: Backend = DEFAULT_BACKEND,
) -> tuple[RunFolder, int]:
    """Run a recipe in the folder `out`, or go on with it; the folder and the last iteration.

    That is T, or where `stop` ends it. `reuse_from` is as in RunFolder.
    """
    with open_run_for_writing(out, recipe) as folder:
        folder = replace(folder, reuse_from=reuse_from)
        for t, model in enumerate(align(recipe, folder, backend=backend)):
            evaluate.evaluate(recipe, folder, t, model, backend=backend)
            if is_last_iteration(recipe, folder, t):
                break
        if recipe.stop and t < recipe.iterations:
            scores = validation_scores(folder, recipe.stop.benchmark, t)
            shown = ", ".join(f"{100 * score:.1f}" for score in scores)
            folder.notify(
                f"stopped after iteration {t} of {recipe.iterations}: no new best on {recipe.stop.benchmark}'s "
                f"validation part for {recipe.stop.patience} in a row ({shown}; the first is the base)"
            )
    return folder, t


def check_recipe_ready(recipe: Recipe, out: Path, *, backend: Backend = DEFAULT_BACKEND) -> None:
    """Raises UserError where a run of this recipe in the folder `out` can't work, before weights are loaded for it."""
    check_run_dir(out, recipe)
    check_device(recipe.machine.device)
    check_training(recipe)
    chat = backend.load_chat_template(recipe.chat_template, recipe.model)
    check_prompt_fits(recipe, chat)
    for one in recipe.variants:
        if one.assessment:
            assess.check_expected_scores(one.assessment, chat)
    run = RunFolder(out, out)
    last = next(t for t in range(recipe.iterations + 1) if is_last_iteration(recipe, run, t))
    if owed(recipe, run, last):
        for note in check_engine(recipe):
            console.print(note, markup=False, soft_wrap=True)
    evaluate.check_benchmarks_ready(recipe, run, range(last + 1), backend=backend)


def owed(recipe: Recipe, run: RunFolder, last: int) -> bool:
    """Whether a model, or a score of one, is still to be made up to iteration `last`."""
    homes = [iteration_dir(run, t) for t in range(last + 1)]
    scores = [f"eval/{one.label}.json" for one in recipe.evaluation]
    return not (all(one.has("adapter") for one in homes[1:]) and all(one.has(name) for one in homes for name in scores))


def run_sweep(recipes: Mapping[str, Recipe], out: Path, *, backend: Backend = DEFAULT_BACKEND) -> list[Path]:
    """Run recipes by name, each in the folder of its name in `out`, or go on with them; the folders.

    Raises UserError before anything runs where one of them can't begin, or `out` is a run folder itself. A setting that
    can't be finished (a threshold may leave nothing to train on) does not keep the others from running: what failed is
    raised at the end.
    """
    if (out / "recipe.yaml").exists():
        raise UserError(f"{out} is a run folder: a run for each setting needs a folder of its own; give another --out")
    for name, recipe in recipes.items():
        check_recipe_ready(recipe, out / name, backend=backend)
    failed = []
    for name, recipe in recipes.items():
        console.print(f"== {out / name}", markup=False, soft_wrap=True)
        try:
            run_recipe(recipe, out / name, find_reusable_files(recipe, out / name), backend=backend)
        except UserError as error:
            failed.append(f"{name}: {error}")
    if failed:
        raise UserError(f"{len(failed)} of {len(recipes)} settings could not be finished: {'; '.join(failed)}")
    return [out / name for name in recipes]


def find_reusable_files(recipe: Recipe, run: Path) -> Callable[[str], Path | None]:
    """RunFolder.reuse_from for a run: looks for a file among the runs beside it."""
    others = [path.parent for path in sorted(run.parent.glob("*/recipe.yaml")) if path.parent != run]
    known = [(path, open_run(path)[0]) for path in others]

    def reuse_from(label: str) -> Path | None:
        wanted = source_fingerprint(recipe, run, label)
        return next(
            (
                path / label
                for path, other in known
                if wanted
                and (path / label).exists()
                and source_fingerprint(other, path, label) == wanted
                and current(recipe, path / label)
            ),
            None,
        )

    return reuse_from


def current(recipe: Recipe, path: Path) -> bool:
    """Whether another run's file of a benchmark, if `path` is one, is about what the benchmark asks now."""
    home, _, name = str(path).rpartition("/eval/")
    one = next(
        (one for one in recipe.evaluation if home and name.startswith((f"{one.label}.json", f"{one.label}/"))), None
    )
    if not one:
        return True
    result = Path(home, "eval", f"{one.label}.json")  # says what was asked; without it nobody knows
    return result.exists() and evaluate.same_fingerprints(
        read_result(result), evaluate.result_fingerprints(recipe, one)
    )


def source_fingerprint(recipe: Recipe, run: Path, label: str) -> str | None:
    """A digest of all that a file of a run ("iter-1/pairs.jsonl") is made from; None where it is not to be shared."""
    home, _, name = label.partition("/")
    artifact = artifact_of(name)
    if artifact is None or not artifact.shared:
        return None
    kind = artifact.name
    files, keys = SHARED_SOURCES.get(kind, (artifact.sources, artifact.recipe_keys))
    t = 0 if home == "base" else int(home.removeprefix("iter-"))
    recipe, prompts = recipe.at(t), saved_prompts(run)
    values: dict[str, Any] = recipe.model_dump(mode="json", include={*COMMON, *keys})
    values["prompts"] = [prompts.get(name) for name in recipe.own_prompts(keys)]
    sources = [run / "seeds.jsonl", *(run / home / file for file in files)]
    model = t if kind in ("eval", "validation") else t - 1
    if kind == "adapter":
        model = model if values["training"].pop("start") == "last" else 0
        first = 1 if values["training"].pop("data") == "all" else t
        values["endings"] = [
            ending for s in range(first, t + 1) for ending in endings(RunFolder(run, run) / f"iter-{s}")
        ]
    if kind == "eval":
        ours = {one.label: one.model_dump(mode="json") for one in recipe.evaluation}
        values["benchmark"] = [
            ours[one] for one in ours if f"{name}/".startswith((f"eval/{one}.json/", f"eval/{one}/"))
        ]
    if model:
        sources += [run / f"iter-{model}" / file for file in MODEL]
    if not all(path.exists() for path in sources):
        return None
    digests = [_digest(path, path.stat().st_mtime_ns) for path in sources]
    return hashlib.sha256(json.dumps([label, values, digests]).encode()).hexdigest()


def endings(iteration: RunFolder) -> list[str]:
    """How the answers of D^t ended: training looks at it (rows.encode), and train.json does not hold it."""
    if not (iteration.has("pairs.jsonl") and iteration.has("dropped.jsonl")):
        return []
    return [
        pair.finish for pair in kept_pairs(iteration.read("pairs.jsonl", Pair), iteration.read("dropped.jsonl", Drop))
    ]


@cache
def _digest(path: Path, changed: int) -> str:
    """Of a file's bytes; `changed` is when, so that a new content is read anew."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
