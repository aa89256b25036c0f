"""Sweeps, seeds and iterative settings on a fake engine and trainer: what is shared, what each setting changes."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import isheep.algorithm
import isheep.evaluate
import isheep.sweep
from isheep import prompts, recipe_files
from isheep.batching import seed_of
from isheep.cli import main
from isheep.engines.fake import Fake
from isheep.errors import UserError
from isheep.evaluate import no_gain
from isheep.recipe import Recipe
from isheep.records import Model, Pair
from isheep.run import events
from isheep.sweep import conduct, sweep

TASKS = {"tasks": 24, "size": 8, "novelty": None}
SMALL = {"model": "fake", "iterations": 2, "synthesis": TASKS, "response": {"size": 8}, "assessment": {"size": 8}}


class Chat(NamedTuple):
    end: str = "<|end|>"
    special: frozenset[str] = frozenset({"<|end|>"})

    def prompt(self, content: str) -> str:
        return f"<|user|>{content}<|answer|>"


def write(prompt: str, seed: int) -> str:
    if prompt.endswith("<|answer|>"):
        return f"The answer is {seed}.<|end|>"
    if "###" not in prompt:
        return f" {min(9, 6 + seed % 8)}||because"
    return f" Tell me at length about {seed}\nInput: <noinput>\n###\n7. Instruction: Draw {seed}\nInput: <noinput>"


class Trained(NamedTuple):
    """One call of the trainer."""

    start: str | None
    pairs: list[str]


class Lab:
    """Fakes at the doors, which count. A model writes what its adapter and its request's seed say."""

    def __init__(self) -> None:
        self.asked = 0
        self.trained: list[Trained] = []
        self.scores: dict[str, list[float]] = {}

    def open_engine(self, recipe: Recipe, model: Model) -> Fake:
        learned = weights(model) or ""

        def answer(prompt: str, seed: int) -> str:
            self.asked += 1
            return write(prompt, seed_of(prompt, seed, learned) % 10**6)

        return Fake(answer)

    def train(self, recipe: Recipe, chat: Any, start: Model, data: Sequence[Pair], seed: int, into: Path) -> None:
        self.trained.append(Trained(weights(start), [pair.id for pair in data]))
        settings = recipe.training.model_dump_json(exclude={"start", "data"})
        text = json.dumps([weights(start), [pair.output for pair in data], settings, seed])
        (into / "adapter_model.safetensors").write_text(str(seed_of(text)))


def weights(model: Model) -> str | None:
    return (model.adapter / "adapter_model.safetensors").read_text() if model.adapter else None


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    lab = Lab()
    for module in (isheep.algorithm, isheep.evaluate, isheep.sweep):
        monkeypatch.setattr(module, "load_chat", lambda name, model: Chat())
        if module is not isheep.sweep:
            monkeypatch.setattr(module, "open_engine", lab.open_engine)
    monkeypatch.setattr("isheep.chat.load_chat", lambda name, model: Chat())
    monkeypatch.setattr(isheep.algorithm, "train", lab.train)
    return lab


def recipe(**changed: Any) -> Recipe:
    return Recipe.model_validate({**SMALL, **changed})


def made(run: Path) -> list[str]:
    """The files that a run made by itself, over all tries."""
    return [event["file"] for event in events(run) if "seconds" in event]


def shared(run: Path) -> dict[str, str]:
    return {event["file"]: event["shared_from"] for event in events(run) if "shared_from" in event}


def contents(run: Path) -> dict[str, bytes]:
    files = {str(path.relative_to(run)): path for path in run.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name not in ("run.jsonl", "lock", "recipe.yaml")}


# --- sharing

STAGES = {f"iter-1/{name}.jsonl" for name in ("replies", "pairs", "assessed")}


def test_eight_thresholds_write_and_rate_iteration_1_once(lab: Lab, tmp_path: Path) -> None:
    recipes = {str(n): recipe(iterations=1, filters=[{"kind": "score", "at_least": n}]) for n in range(2, 10)}
    runs = sweep(recipes, tmp_path)
    for stage in STAGES:
        assert sum(made(run).count(stage) for run in runs) == 1
        assert [shared(run).get(stage) for run in runs[1:]] == [f"../2/{stage}"] * 7
    assert lab.asked == 24 * 4
    # Scores are 6 to 9: thresholds up to 6 keep the same pairs, and train the same model once.
    assert len(lab.trained) == 4 and len({contents(run)["iter-1/train.json"] for run in runs}) == 4
    assert shared(runs[4])["iter-1/adapter"] == "../2/iter-1/adapter"


def test_a_shared_run_has_the_files_of_one_alone(lab: Lab, tmp_path: Path) -> None:
    recipes = {
        "one": recipe(),
        "less": recipe(filters=[{"kind": "score", "at_least": 7}]),
        "unrated": recipe(assessment=None, filters=[]),
        "simple": recipe(assessment={"size": 8, "prompt": "simple"}),
        "one-last": recipe(training={"start": "last"}),
        "total-base": recipe(training={"data": "all"}),
        "long": recipe(training={"epochs": 3}),
        "more": recipe(synthesis={**TASKS, "tasks": 30}),
        "seed": recipe(seed=7),
    }
    for (name, one), run in zip(recipes.items(), sweep(recipes, tmp_path / "sweep"), strict=True):
        conduct(one, tmp_path / "alone" / name)
        assert contents(run) == contents(tmp_path / "alone" / name), name
    written = {"iter-1/replies.jsonl", "iter-1/pairs.jsonl"}
    two = STAGES | {stage.replace("1", "2") for stage in STAGES} | {"iter-1/adapter"}
    expected = {"less": STAGES, "unrated": written, "simple": written, "one-last": two, "total-base": two}
    for name in recipes:
        assert shared(tmp_path / "sweep" / name).keys() == {**expected, "long": STAGES}.get(name, set()), name


def test_a_sweep_made_again_makes_nothing(lab: Lab, tmp_path: Path) -> None:
    recipes = {"a": recipe(), "b": recipe(training={"epochs": 1})}
    before = [contents(run) for run in sweep(recipes, tmp_path)]
    asked, trained = lab.asked, len(lab.trained)
    assert [contents(run) for run in sweep(recipes, tmp_path)] == before
    assert (lab.asked, len(lab.trained)) == (asked, trained)


def test_a_stopped_sweep_goes_on(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = {"a": recipe(), "b": recipe(training={"epochs": 1})}
    whole = [contents(run) for run in sweep(recipes, tmp_path / "whole")]

    def stop(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(isheep.algorithm, "train", stop)
        sweep(recipes, tmp_path / "stopped")
    assert [contents(run) for run in sweep(recipes, tmp_path / "stopped")] == whole


def test_a_setting_that_fails_leaves_the_others(lab: Lab, tmp_path: Path) -> None:
    recipes = {"none": recipe(filters=[{"kind": "score", "above": 9}]), "some": recipe()}
    with pytest.raises(UserError, match="1 of 2 settings could not be finished: none: iteration 1: 0 of 24 pairs left"):
        sweep(recipes, tmp_path)
    assert (tmp_path / "some/iter-2/adapter").exists()


def test_ratings_by_other_prompts_of_the_same_name_are_not_shared(lab: Lab, tmp_path: Path) -> None:
    mine, out = tmp_path / "mine.yaml", tmp_path / "out"
    settings = recipe(iterations=1, assessment={"size": 8, "prompt": str(mine), "criteria": ["quality"]})
    for name, words in (("a", "Rate"), ("b", "Rate"), ("c", "Please rate")):
        mine.write_text(f'quality: "{words} {{instruction}} {{output}}"')
        prompts.load.cache_clear()
        sweep({name: settings}, out)
    assert shared(out / "b")["iter-1/assessed.jsonl"] == "../a/iter-1/assessed.jsonl"
    assert "iter-1/pairs.jsonl" in shared(out / "c") and "iter-1/assessed.jsonl" in made(out / "c")


def test_a_sweep_over_a_run_is_refused(lab: Lab, tmp_path: Path) -> None:
    conduct(recipe(iterations=1), tmp_path)
    with pytest.raises(UserError, match="is a run folder"):
        sweep({"a": recipe()}, tmp_path)


# --- the iterative settings of Section 4.5


def test_what_each_iterative_setting_trains_on(lab: Lab, tmp_path: Path) -> None:
    def run(**training: Any) -> list[Trained]:
        before = len(lab.trained)
        conduct(recipe(iterations=3, training=training), tmp_path / repr(training))
        return lab.trained[before:]

    def iterations(call: Trained) -> set[str]:
        return {row[:2] for row in call.pairs}

    one_base, one_last, total_base = run(), run(start="last"), run(data="all")
    assert [call.start for call in one_base] == [None] * 3 == [call.start for call in total_base]
    assert [iterations(call) for call in one_base] == [{"t1"}, {"t2"}, {"t3"}] == [iterations(c) for c in one_last]
    assert [iterations(call) for call in total_base] == [{"t1"}, {"t1", "t2"}, {"t1", "t2", "t3"}]
    models = [(tmp_path / repr({"start": "last"}) / f"iter-{t}/adapter/adapter_model.safetensors") for t in (1, 2)]
    assert [call.start for call in one_last] == [None, *(path.read_text() for path in models)]


def test_the_data_of_all_iterations_are_written_and_exported(lab: Lab, tmp_path: Path) -> None:
    from isheep.take import take

    conduct(recipe(training={"data": "all"}), tmp_path)
    rows = json.loads((tmp_path / "iter-2/train.json").read_text())
    assert len(rows) == len(lab.trained[1].pairs) > len(lab.trained[0].pairs)
    take(tmp_path, "alpaca", None, tmp_path / "data.json")
    assert json.loads((tmp_path / "data.json").read_text()) == rows


# --- the stop rule


@pytest.mark.parametrize(
    ("scores", "patience", "stops"),
    [([0.5], 1, False), ([0.5, 0.6], 1, False), ([0.5, 0.6, 0.6], 1, True), ([0.5, 0.4], 1, True),
     ([0.5, 0.4], 2, False), ([0.5, 0.4, 0.45], 2, True), ([0.5, 0.4, 0.51], 2, False)],
)  # fmt: skip
def test_no_gain(scores: list[float], patience: int, stops: bool) -> None:
    assert no_gain(scores, patience) is stops


@pytest.fixture
def examined(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """A benchmark whose validation part gives these scores to M^0, M^1, ..."""
    from isheep.benchmarks import lamb

    def examined(*scores: float) -> list[float]:
        left = list(scores)
        monkeypatch.setattr(lamb, "validate", lambda exam: {"score": left.pop(0)})
        return left

    return examined


def test_a_run_stops_where_it_no_longer_gains(
    examined: Callable[..., list[float]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = recipe(iterations=5, stop={"benchmark": "lamb", "patience": 1})
    left = examined(0.3, 0.4, 0.4, 0.5, 0.6, 0.7)
    assert conduct(one, tmp_path)[1] == 2 and len(left) == 3
    assert conduct(one, tmp_path)[1] == 2 and len(left) == 3  # a resumed one ends there too, without being asked again
    assert "stopped after iteration 2 of 5" in capsys.readouterr().err
    assert not (tmp_path / "iter-3").exists() and not list(tmp_path.rglob("eval"))
    with pytest.raises(SystemExit) as end:
        main(["status", str(tmp_path)])
    assert end.value.code in (0, None)
    assert "to go on" not in capsys.readouterr().out


def test_a_run_that_gains_goes_on_to_the_end(examined: Callable[..., list[float]], tmp_path: Path) -> None:
    examined(0.3, 0.4, 0.5)
    assert conduct(recipe(stop={"benchmark": "lamb"}), tmp_path)[1] == 2


# --- at the command line


def command(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return int(end.value.code or 0)


BASE = "model: fake\niterations: 1\nsynthesis: {tasks: 24, size: 8, novelty: null}\nresponse: {size: 8}\n"


def test_seeds_get_a_folder_each(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(BASE)
    assert command("run", tmp_path / "mine.yaml", "--seeds", "3", "--out", tmp_path / "out", "seed=5") == 0
    runs = sorted(path for path in (tmp_path / "out").iterdir())
    assert [run.name for run in runs] == ["seed-5", "seed-6", "seed-7"]
    assert len({contents(run)["iter-1/pairs.jsonl"] for run in runs}) == 3


def test_a_grid_and_names_make_folders(lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "grid.yaml").write_text(
        "like: base.yaml\nfilters: [{kind: score, at_least: 6}]\n"
        "settings: {base: {}, last: {training: {start: last}}}\ngrid: {filters.0.at_least: [6, 7]}\n"
    )
    out = tmp_path / "out"
    assert command("sweep", tmp_path / "grid.yaml", "--out", out, "response.size=4") == 0
    names = {f"{name},filters.0.at_least={n}" for name in ("base", "last") for n in (6, 7)}
    assert {path.name for path in out.iterdir()} == names
    assert len(lab.trained) == 2
    shown = capsys.readouterr().out
    assert "rows trained on" in shown and "runs     " in shown
    saved = recipe_files.load(out / "last,filters.0.at_least=7" / "recipe.yaml")
    assert saved.training.start == "last" and saved.response.size == 4 and saved.filters[0].at_least == 7


def test_a_sweep_may_list_recipe_files(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("model: lamb\nseed: 1\n")
    (tmp_path / "two.yaml").write_text("like: one.yaml\niterations: 7\n")
    (tmp_path / "both.yaml").write_text("seed: 3\nsettings: [one.yaml, two.yaml]\n")
    found = recipe_files.load_sweep(tmp_path / "both.yaml", ["training.epochs=1"])
    shown = {name: (one.iterations, one.seed, one.training.epochs) for name, one in found.items()}
    assert shown == {"one": (3, 3, 1), "two": (7, 3, 1)}


WRONG = {
    "model: lamb": "is no sweep, it has neither settings nor grid",
    "model: lamb\ngrid: {training.epoch: [1]}": "s.yaml line 2: unknown key 'epoch' in training: did you mean 'epochs'",
    "model: lamb\ngrid: {training.epochs: 3}": "s.yaml line 2: grid.training.epochs must be a list of values",
    "model: lamb\ngrid: [1]": "s.yaml line 2: grid must map",
    "model: lamb\nsettings: 3": "s.yaml line 2: settings must map",
    "model: lamb\nsettings: {a: 3}": "s.yaml line 2: setting 'a' must be a mapping",
    "model: lamb\nsettings:\n  a: {}\n  b: {sed: 1}": "s.yaml line 4: unknown key 'sed': did you mean 'seed'",
    "model: lamb\nsettings: {a/b: {}, a b: {}}": "two settings are named 'a-b'",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_sweeps(text: str, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        recipe_files.load_sweep(tmp_path / "s.yaml")
    assert WRONG[text] in str(error.value) and "\n" not in str(error.value)


def test_a_sweep_is_not_run_as_a_recipe() -> None:
    with pytest.raises(UserError, match="is a sweep over many settings: run it with isheep sweep"):
        recipe_files.load(recipe_files.find("paper/table2"))


# --- every recipe on lamb, to its end

ON_LAMB = [name for name in recipe_files.names() if name.startswith("lamb/")]


def recipes_of(name: str) -> dict[str, Recipe]:
    path = recipe_files.find(name)
    return recipe_files.load_sweep(path) if recipe_files.is_sweep(path) else {"": recipe_files.load(path)}


@pytest.mark.parametrize("name", [name for name in ON_LAMB if not recipe_files.is_sweep(recipe_files.find(name))])
def test_every_recipe_on_lamb_runs(name: str, lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from isheep.benchmarks import lamb

    monkeypatch.setattr(lamb, "run", lambda exam: {"items": {"right": [True]}})
    monkeypatch.setattr(lamb, "validate", lambda exam: {"score": 0.5})
    [one] = recipes_of(name).values()
    run, t = conduct(one, tmp_path)
    assert t == (1 if one.stop else one.iterations) and run.has(f"iter-{t}/adapter") and run.has("base/eval/lamb.json")
    assert len(lab.trained[0].pairs) >= (one.training.rows or 2)


def test_recipes_differ_as_far_as_they_say_so() -> None:
    """No recipe is another one's copy, but for Table 2 to 4's rows that are one setting under two names."""
    for folder in ("paper", "lamb"):
        names = [name for name in recipe_files.names() if name.startswith(f"{folder}/")]
        found: dict[str, list[str]] = {}
        for name in (name for name in names if not recipe_files.is_sweep(recipe_files.find(name))):
            found.setdefault(recipe_files.dump(recipes_of(name)[""]), []).append(name.removeprefix(f"{folder}/"))
        same = {tuple(names) for names in found.values() if len(names) > 1}
        assert same == {("one-base", "prompt-combined"), ("assess-both", "prompt-simple")}


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_LAMB)
def test_every_recipe_on_lamb_runs_for_real(name: str, tmp_path: Path) -> None:
    recipes = recipes_of(name)
    assert len(sweep(recipes, tmp_path)) == len(recipes)
