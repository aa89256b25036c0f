"""Every iteration's model on every benchmark of the recipe: one JSON file each, beside the model's adapter."""

from collections.abc import Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

from isheep import sandbox
from isheep.backends import open_engine, open_judge
from isheep.benchmarks import EvalContext, data_path, fingerprint, load_benchmark, prompt_fingerprint
from isheep.errors import UserError
from isheep.models.chat_template import load_chat_template
from isheep.recipe.schema import CODE, JUDGED, BenchmarkSettings, Recipe
from isheep.records import Model
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import iteration_dir

PLAIN = "plain"  # the template of an Exam that needs none


def evaluate(recipe: Recipe, run: RunFolder, t: int, model: Model) -> dict[str, Any]:
    """The results of M^t by benchmark, computed where they are not there yet.

    A benchmark is a module of isheep/benchmarks. The dict that it gives is written as JSON, with what `foundation` says
    that it is made from. What `stop` judges by is kept apart from these results, in validation/.
    """
    with closing(open_engine(recipe, model)) as engine:

        def result(one: BenchmarkSettings, part: str, folder: str) -> Any:
            def make() -> Any:
                chat, place = load_chat_template(recipe.chat, recipe.model), iteration_dir(run, t) / folder / one.name
                made_from = result_fingerprints(recipe, one) if part == "run" else {}
                unsafe, judge = recipe.machine.unsafe_code, open_judge(recipe, one)
                exam = EvalContext(engine, chat, recipe.seed, place, data_path(one), t == 0, one, judge, unsafe)
                found = getattr(load_benchmark(one.name), part)(exam)
                template = (
                    {} if found.get("template", PLAIN) == PLAIN else {"template text": fingerprint(chat.template)}
                )
                return {**made_from, **template, **found}

            return iteration_dir(run, t).json(f"{folder}/{one.name}.json", make)

        if recipe.stop:
            result(BenchmarkSettings(name=recipe.stop.benchmark), "validate", "validation")
        return {one.name: result(one, "run", "eval") for one in recipe.evaluation}


# --- what a result is made from


def result_fingerprints(recipe: Recipe, one: BenchmarkSettings) -> dict[str, str]:
    """Digests of what a benchmark asks, "asked", and of all that an answer's score depends on, "basis".

    Raises UserError where a benchmark lacks something that it needs.
    """
    prompts = prompt_fingerprint(one)
    judge = open_judge(recipe, one).identity if one.name in JUDGED else ""
    return {"asked": prompts, "basis": fingerprint([load_benchmark(one.name).basis(one), judge])}


def same_fingerprints(*results: dict[str, Any]) -> bool:
    """Whether results are scores of the same items by the same judge. Those of older versions don't say all of it."""
    return all(len({one[key] for one in results if key in one}) < 2 for key in ("asked", "basis"))


def check_benchmarks_ready(recipe: Recipe, run: RunFolder, models: Sequence[int]) -> None:
    """Raises UserError before anything is generated where a benchmark that these models still owe can't be run: for the
    lack of data, a package, a judge or a sandbox. Also where a result that is there has another foundation.

    Where nothing is owed and the data are elsewhere now, or on the Hub, nothing is said about them.
    """
    template = cache(lambda: fingerprint(load_chat_template(recipe.chat, recipe.model).template))
    for one in recipe.evaluation:
        files = {t: iteration_dir(run, t).path / "eval" / f"{one.name}.json" for t in models}
        there = [t for t, path in files.items() if path.exists()]
        owed, data = len(there) < len(files), data_path(one)
        if owed or (data.exists() if data else one.name == "lamb"):
            now = result_fingerprints(recipe, one)
            for t in there:
                found = iteration_dir(run, t).json(f"eval/{one.name}.json", dict)
                if (
                    not same_fingerprints(found, now)
                    or "template text" in found
                    and found["template text"] != template()
                ):
                    raise UserError(_changed(files[t], one, found, now))
        if owed and one.name in CODE:
            sandbox.find_wall(recipe.machine.unsafe_code)
        if owed and one.name in JUDGED:
            open_judge(recipe, one).ready()


def _changed(path: Path, one: BenchmarkSettings, found: dict[str, Any], now: dict[str, str]) -> str:
    """What a result was made from that is otherwise now, and the way out."""
    way_out = f"delete it and {path.with_suffix('')} in every iteration to score anew"
    if found.get("asked", now["asked"]) != now["asked"]:
        these = one.data or "those of the benchmark now"
        what = f"is about other items than {these}: give the data that it was made from"
    elif not same_fingerprints(found, now):
        rule = "its judge, or what the judge is told," if one.name in JUDGED else "what is right"
        what = f"was scored by another rule: {rule} has changed since; put it back"
    else:
        what = "was made with another chat template: put it back"
    return f"{path} {what}, or {way_out}"


# --- when a run ends


def is_last_iteration(recipe: Recipe, run: RunFolder, t: int) -> bool:
    """Whether M^t is a run's last model: all T iterations are made, or `stop` ends it. Reads what `evaluate` wrote."""
    if not recipe.stop or t == recipe.iterations:
        return t == recipe.iterations
    scores = validation_scores(run, recipe.stop.benchmark, t)
    return len(scores) > t and has_no_gain(scores, recipe.stop.patience)


def validation_scores(run: RunFolder, benchmark: str, t: int) -> list[float]:
    """The validation scores of M^0 to M^t, as far as they are there."""
    name = f"validation/{benchmark}.json"
    return [iteration_dir(run, s).json(name, dict)["score"] for s in range(t + 1) if iteration_dir(run, s).has(name)]


def has_no_gain(scores: Sequence[float], patience: int) -> bool:
    """Whether the last `patience` scores hold no new best."""
    return len(scores) > patience and max(scores[-patience:]) <= max(scores[:-patience])
