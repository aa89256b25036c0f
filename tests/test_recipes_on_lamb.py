"""Every recipe on lamb, on a fake engine and for real."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from isheep import api
from isheep.evaluation.matched_steps import with_steps
from isheep.recipe import loading
from isheep.recipe.schema import Recipe
from isheep.sweep import run_sweep
from tests.helpers.lab import Lab, own_files, right

# --- every recipe on lamb, to its end

ON_LAMB = [name for name in loading.recipe_names() if name.startswith("lamb/")]


def recipes_of(name: str) -> dict[str, Recipe]:
    path = loading.find_recipe(name)
    return api.load_sweep(path) if loading.is_sweep(path) else {"": api.load_recipe(path)}


# The recipes that run in the quick suite: one for each way to start, to read a score, to filter and to stop.
QUICK_ON_LAMB = ("one-base", "one-last", "total-base-uncapped", "direct-20k", "read-expected", "density", "stop")


def mark_slow(name: str) -> object:
    """Return a parameter of a test: a recipe, with the mark `slow` if another recipe stands for it."""
    return name if name.removeprefix("lamb/") in QUICK_ON_LAMB else pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "name", [mark_slow(name) for name in ON_LAMB if not loading.is_sweep(loading.find_recipe(name))]
)
def test_every_recipe_on_lamb_runs(name: str, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from isheep.benchmarks import lamb

    part = replace(lamb.BENCHMARK.validation, run=lambda context: right(*[True, False] * 200))  # type: ignore[type-var]
    stub = replace(lamb.BENCHMARK, run=lambda context: right(True), validation=part)
    monkeypatch.setattr(lamb, "BENCHMARK", stub)
    [settings] = recipes_of(name).values()
    # The fake trainer leaves no record of its steps with which a recipe could be matched.
    settings = with_steps(settings, 20) if settings.training.steps_of else settings
    run, t = lab.run_recipe(settings, tmp_path)
    assert (
        t == (1 if settings.stop else settings.iterations)
        and run.has(f"iter-{t}/adapter")
        and run.has("base/eval/lamb.json")
    )
    assert len(lab.trained[0].pairs) >= (settings.training.num_rows or 2)


def test_recipes_differ_as_far_as_they_say_so() -> None:
    """No recipe is another one's copy, but for Table 2 to 4's rows that are one setting under two names."""
    for folder in ("paper", "lamb"):
        names = [name for name in loading.recipe_names() if name.startswith(f"{folder}/")]
        names_by_recipe: dict[str, list[str]] = {}
        for name in (name for name in names if not loading.is_sweep(loading.find_recipe(name))):
            names_by_recipe.setdefault(loading.dump_recipe(recipes_of(name)[""]), []).append(
                name.removeprefix(f"{folder}/")
            )
        equal = {tuple(names) for names in names_by_recipe.values() if len(names) > 1}
        assert equal == {("one-base", "prompt-combined"), ("assess-both", "prompt-simple")}


@pytest.fixture
def short_exam(monkeypatch: pytest.MonkeyPatch) -> None:
    """lamb's exam and validation part, 20 quests each."""
    from isheep.benchmarks import lamb
    from isheep.lamb.suite import suite, validation

    monkeypatch.setattr(lamb, "suite", lambda: suite()[:20])
    monkeypatch.setattr(lamb, "validation", lambda: validation()[:20])


def finished(recipes: dict[str, Recipe], out: Path) -> None:
    """Run them on lamb itself: each ends with a model and its scores, and iteration 1 was written once."""
    for run, settings in zip(run_sweep(recipes, out), recipes.values(), strict=True):
        last = (
            settings.iterations
            if not settings.stop
            else max(int(p.parent.name[5:]) for p in run.glob("iter-*/adapter"))
        )
        rows = json.loads((run / f"iter-{last}/adapter/training.json").read_text())["rows"]
        assert 0 < rows["trained"] <= len(json.loads((run / f"iter-{last}/train.json").read_text()))
        assert len(json.loads((run / f"iter-{last}/eval/lamb.json").read_text())["scores"]["right"]["items"]) == 20


BRIEF = ["synthesis.tasks=36", "synthesis.budget=80", "training.epochs=1"]
# A recipe for each way to filter, to read a score, to start.
FEW = {
    "lamb/one-last": [],
    "lamb/density-perplexity": ["filters.1.clusters=12", "iterations=1"],
    "lamb/read-expected": ["filters.1.at_least=4", "iterations=1"],
    "lamb/stop": ["iterations=2"],
}


@pytest.mark.slow
def test_recipes_on_lamb_run_for_real(short_exam: None, tmp_path: Path) -> None:
    recipes = {name[5:]: api.load_recipe(loading.find_recipe(name), [*BRIEF, *words]) for name, words in FEW.items()}
    finished(recipes, tmp_path)
    for stage in ("iter-1/replies.jsonl", "iter-1/pairs.jsonl", "base/eval/lamb.json"):
        assert [name for name in recipes if stage in own_files(tmp_path / name)] == ["one-last"]


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all runs of the recipes on lamb, which share what they can."""
    return tmp_path_factory.mktemp("field")


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_LAMB)
def test_every_recipe_on_lamb_runs_for_real(name: str, short_exam: None, field: Path) -> None:
    recipes = {label or name[5:]: settings for label, settings in recipes_of(name).items()}
    for matched in [settings.training.steps_of for settings in recipes.values() if settings.training.steps_of]:
        recipes.setdefault(matched, recipes_of(f"lamb/{matched}")[""])
    finished(recipes, field)
