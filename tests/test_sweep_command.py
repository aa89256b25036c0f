"""Sweeps and seeds at the command line: their names, their table, what is refused."""

from pathlib import Path

import pytest
from rich.console import Console

from isheep import api
from isheep.cli import main
from isheep.errors import UserError
from isheep.evaluation.sweep_table import sweep_table
from isheep.recipe import loading
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.rundir.folder import RunFolder
from tests.helpers.lab import Lab, recipe, result_hashes

# --- at the command line


def command(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return int(end.value.code or 0)


BASE = "model: fake\niterations: 1\nsynthesis: {tasks: 24, batch_size: 8, novelty: null}\nresponse: {batch_size: 8}\n"


def test_seeds_get_a_folder_each(command_lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(BASE)
    assert command("run", tmp_path / "mine.yaml", "--seeds", "3", "--out", tmp_path / "out", "seed=5") == 0
    runs = sorted(path for path in (tmp_path / "out").iterdir())
    assert [run.name for run in runs] == ["seed-5", "seed-6", "seed-7"]
    assert len({result_hashes(run)["iter-1/pairs.jsonl"] for run in runs}) == 3
    num_calls, contents_before = command_lab.asked, [result_hashes(run) for run in runs]
    assert command("run", tmp_path / "mine.yaml", "--seeds", "4", "--out", tmp_path / "out", "seed=5") == 0
    assert [result_hashes(run) for run in runs] == contents_before and (tmp_path / "out/seed-8/iter-1/adapter").exists()
    assert command_lab.asked == num_calls + num_calls // 3 and len(command_lab.trained) == 4


def test_a_grid_and_names_make_folders(command_lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "grid.yaml").write_text(
        "like: base.yaml\nfilters: [{kind: score, at_least: 6}]\n"
        "settings: {base: {}, last: {training: {start: last}}}\ngrid: {filters.0.at_least: [6, 7]}\n"
    )
    out = tmp_path / "out"
    assert command("sweep", tmp_path / "grid.yaml", "--out", out, "response.batch_size=4") == 0
    names = {f"{name},filters.0.at_least={n}" for name in ("base", "last") for n in (6, 7)}
    assert {path.name for path in out.iterdir()} == names
    assert len(command_lab.trained) == 2
    output = capsys.readouterr().out
    assert "rows" in output and "runs     " in output
    saved = api.load_recipe(out / "last,filters.0.at_least=7" / "recipe.yaml")
    assert saved.training.start == "last" and saved.response.batch_size == 4 and saved.filters[0].at_least == 7


@pytest.mark.parametrize("count", [0, 1, 5])
def test_runs_side_by_side_fit_80_columns(tmp_path: Path, count: int) -> None:
    names = ["lamb", "ifeval", "alpaca_eval", "mt_bench", "harness"][:count]
    settings = recipe(iterations=1).model_copy(
        update={"evaluation": tuple(map(BenchmarkSettings.model_construct, [None] * count))}
    )
    for benchmark, name in zip(settings.evaluation, names, strict=True):
        vars(benchmark)["name"] = name
    long = "one-last-uncapped,filters.0.at_least=7,training.epochs=3"
    for setting in (long, "[b]b"):
        for t, right in ((0, 235), (1, 800)):
            folder = RunFolder(tmp_path / setting, tmp_path / setting) / (f"iter-{t}" if t else "base")
            (folder.path / "adapter").mkdir(parents=True)
            for name in names:
                folder.json(
                    f"eval/{name}.json",
                    lambda right=right: {"scores": {"a": {"items": [n < right for n in range(1000)]}}},
                )
    with (console := Console(width=80)).capture() as capture:
        console.print(sweep_table({long: settings, "[b]b": settings}, tmp_path))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= 80 and "…" not in capture.get()
    assert (
        capture.get().count("[b]b") == 1 and capture.get().count("23.5") == capture.get().count("[77,82]") == 2 * count
    )


def test_a_sweep_may_list_recipe_files(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("model: lamb\nseed: 1\n")
    (tmp_path / "two.yaml").write_text("like: one.yaml\niterations: 7\n")
    (tmp_path / "both.yaml").write_text("seed: 3\nsettings: [one.yaml, two.yaml]\n")
    recipes = api.load_sweep(tmp_path / "both.yaml", ["training.epochs=1"])
    values = {
        name: (settings.iterations, settings.seed, settings.training.epochs) for name, settings in recipes.items()
    }
    assert values == {"one": (3, 3, 1), "two": (7, 3, 1)}


WRONG = {
    "model: lamb": "is no sweep, it has neither settings nor grid",
    "model: lamb\ngrid: {training.epoch: [1]}": "s.yaml line 2: unknown key 'epoch' in training: did you mean 'epochs'",
    "model: lamb\ngrid: {training.epochs: 3}": "s.yaml line 2: grid.training.epochs must be a list of values",
    "model: lamb\ngrid: [1]": "s.yaml line 2: grid must map",
    "model: lamb\nsettings: 3": "s.yaml line 2: settings must map",
    "model: lamb\nsettings: {a: 3}": "s.yaml line 2: setting 'a' must be a mapping",
    "model: lamb\nsettings:\n  a: {}\n  b: {sed: 1}": "s.yaml line 4: unknown key 'sed': did you mean 'seed'",
    "model: lamb\nsettings: {a/b: {}, a b: {}}": "two settings are named 'a-b'",
    "model: lamb\ngrid: {}": "s.yaml: the folder of a setting would be named '': 1 to 200 bytes are needed; name",
    "model: lamb\nsettings: {..: {}}": "s.yaml: the folder of a setting would be named '': 1 to",
    f"model: lamb\ngrid: {{model: [{'x' * 201}]}}": "s.yaml: the folder of a setting would be named 'model=x",
    "settings: [s.yaml]": "s.yaml: s.yaml is a sweep itself: list the recipes that it is made of",
    "settings: [one.yaml, ./one.yaml]": "s.yaml: two settings are named 'one'",
    "settings: []": "s.yaml: the folder of a setting would be named ''",
    "model: lamb\ngrid: {1: [1]}": "s.yaml line 2: there is nothing at 1 in this recipe to set it in",
    "model: lamb\ngrid: {filters.0.at_least: [7]}": "s.yaml line 2: there is nothing at 0 in this recipe to set it in",
    "like: s.yaml\ngrid: {seed: [1]}": "s.yaml line 1: like leads round in a circle",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_sweep_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(text)
    (tmp_path / "one.yaml").write_text("model: lamb")
    with pytest.raises(UserError) as error:
        api.load_sweep(tmp_path / "s.yaml")
    assert WRONG[text] in str(error.value) and "\n" not in str(error.value)


def test_values_that_are_texts_are_named_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(
        "model: lamb\ngrid: {assessment.read: [generate, expected], seed: [1], training.max_rows: [null]}"
    )
    assert list(api.load_sweep(tmp_path / "s.yaml")) == [
        f"assessment.read={way},seed=1,training.max_rows=null" for way in ("generate", "expected")
    ]


def test_a_folder_with_the_name_of_an_earlier_version_is_continued(lab: Lab, tmp_path: Path) -> None:
    settings = recipe(training={"scheduler": "linear"})
    name, older = "seed=1,training.scheduler=linear", "seed=1,training.scheduler=-linear-"
    lab.run_sweep({older: settings}, tmp_path)
    before = result_hashes(tmp_path / older)
    assert lab.run_sweep({name: settings}, tmp_path) == [tmp_path / older]
    assert [path.name for path in tmp_path.iterdir()] == [older] and result_hashes(tmp_path / older) == before
    with (console := Console(width=100)).capture() as capture:
        console.print(sweep_table({name: settings}, tmp_path))
    assert "seed=1" in capture.get() and " 1 " in capture.get()


def test_a_sweep_is_not_run_as_a_recipe() -> None:
    with pytest.raises(UserError, match="is a sweep over many settings: run it with isheep sweep"):
        api.load_recipe(loading.find_recipe("paper/table2"))
