"""Mistakes in the arguments of the Python API: each is refused in one line."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import isheep
from isheep import extensions
from tests.helpers.command import isheep as command_line
from tests.helpers.command import refused
from tests.helpers.function_model import SMALL, write_texts
from tests.helpers.mistakes import Unprintable, benchmark, error_of
from tests.helpers.runs import make_run, write_result

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def no_code_is_allowed() -> None:
    extensions.allow_code(False)


# --- arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"judge": 5}, "judge 5: give a model's name, or a mapping of model, local"),
        ({"judge": {"modle": "a"}}, "judge: modle: extra inputs are not permitted; found 'a'; it has model, local"),
        ({"judge": {"local": "yes"}}, "judge: local: input should be a valid boolean; found 'yes'"),
        ({"judge": "mine"}, "judge is for alpaca_eval, alpaca_eval_2, mt_bench: lamb asks none"),
        ({"iteration": "1"}, "iteration '1': give a whole number"),
        ({"iteration": True}, "iteration True: give a whole number"),
        ({"iteration": -1}, "iteration -1: give a whole number"),
        ({"iteration": 5}, "iteration 5 with the model base of"),
        ({"data": 5}, "data 5: give the path"),
        ({"unsafe_code": "no"}, "unsafe_code 'no': give True or False"),
        ({"benchmark": 5}, "benchmark 5 is not a Benchmark: pass a name"),
        ({"benchmark": None}, "benchmark None is not a Benchmark"),
        ({"model": 5}, "model 5: give the path"),
    ],
)
def test_wrong_arguments_of_evaluate_are_refused(
    function_base: isheep.RunModel, arguments: dict[str, Any], message: str
) -> None:
    values: dict[str, Any] = {"model": function_base, "benchmark": "lamb", **arguments}
    assert message in str(error_of(lambda: isheep.evaluate(**values)))


def test_the_iteration_of_a_run_folder_must_exist(function_base: isheep.RunModel) -> None:
    error = error_of(lambda: isheep.evaluate(function_base.run_dir, "lamb", iteration=5))
    assert f"{function_base.run_dir} has no model of iteration 5: give 0 (the base)" in str(error)


def test_one_question_gets_one_answer(function_base: isheep.RunModel) -> None:
    answer = function_base.answer("Name a colour.")
    assert isinstance(answer, str) and answer.startswith("It is")
    assert len(function_base.answer(["Name a colour.", "Another one."])) == 2 and function_base.answer([]) == []
    for questions in (5, [5], None, {"a"}):
        assert "give a text, or a list of texts" in str(error_of(lambda value=questions: function_base.answer(value)))  # type: ignore[misc]
    assert "answer: temperature: input should be" in str(error_of(lambda: function_base.answer("a", temperature=-1)))
    assert "answer: max_tokens: input should be" in str(error_of(lambda: function_base.answer("a", max_tokens=0)))


recursive: dict[str, Any] = {"model": "lamb"}
recursive["synthesis"] = recursive


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"model": object()}, "model: <object object"),
        (
            {"model": "lamb", "synthesis": {"tasks": {1, 2}}},
            "synthesis.tasks: {1, 2} of type set: give a text, a number",
        ),
        ({"model": "lamb", "seed": -1}, "seed: input should be greater than or equal to 0; found -1"),
        ({"model": "lamb", "seed": 10**400}, "recipe: seed: a number of more than 18 digits"),
        ({"model": "lamb", "synthesis": {"tasks": 10**5000}}, "synthesis.tasks: a number of more than 18 digits"),
        ({"model": "x" * 5000}, "model: a path, or a name, has no NUL, and at most 255 bytes"),
        ({"model": "a\0b"}, "model: a path, or a name, has no NUL"),
        ({"model": "a\udcff"}, "recipe: model: a text that is not UTF-8"),
        ({"model": "lamb", "seed_tasks": "x" * 5000}, "seed_tasks: a path, or a name"),
        ({"model": "lamb", "chat_template": "x" * 5000 + ".jinja"}, "chat_template: "),
        ({"model": "lamb", "response": {"prompt": "x" * 5000}}, "response.prompt: "),
        ({"model": "lamb", "assessment": {"prompt": "x" * 5000 + ".yaml"}}, "prompt file 'xxx"),
        ("x" * 5000, "recipe 'xxx"),
        ("a\0b", r"recipe 'a\x00b' not found"),
        ("", "recipe '' not found"),
        (recursive, "recipe: nested too deeply, or a mapping or list that contains itself"),
        ({"like": "lam"}, "recipe: like: recipe 'lam' not found: did you mean lamb?"),
        ({"like": 5}, "recipe: like 5: give the name of a recipe"),
        ({"like": "lamb", "trainin": {}}, "recipe: unknown key 'trainin': did you mean 'training'?"),
        (object(), "recipe <object object"),
        (Unprintable(), "recipe <Unprintable>: give a name"),
    ],
)
def test_a_recipe_of_odd_values_is_refused_in_one_line(source: Any, message: str) -> None:
    assert message in str(error_of(lambda: isheep.load_recipe(source)))


def test_a_mapping_may_be_like_a_recipe() -> None:
    recipe = isheep.load_recipe({"like": "lamb", "synthesis": {"tasks": 5}})
    assert recipe == isheep.load_recipe("lamb", {"synthesis.tasks": 5})


def test_what_is_no_sweep_or_no_flag_is_refused() -> None:
    assert "sweep 5: give the name" in str(error_of(lambda: isheep.load_sweep(5)))  # type: ignore[arg-type]
    error = error_of(lambda: isheep.load_recipe("lamb", allow_code="no"))  # type: ignore[arg-type]
    assert "allow_code 'no': give True or False" in str(error) and not extensions.is_code_allowed()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "run_dir None: give the path of a folder"),
        (5, "run_dir 5: give the path"),
        ("", "run_dir '': give a path"),
        ("a\0b", "without a NUL"),
        ("x" * 300, "a name in it is longer than 255 bytes"),
        ("x\udcff", "is not UTF-8: rename the file or folder"),
    ],
)
def test_what_is_no_path_is_refused(name: Any, message: str) -> None:
    recipe = isheep.load_recipe("lamb", SMALL)
    assert message in str(error_of(lambda: isheep.align(recipe, name)))
    assert message in str(error_of(lambda: isheep.read_run(name)))


def test_a_run_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    recipe = isheep.load_recipe("lamb", SMALL)
    for run_dir, message in (("file/run", "lies below"), ("file/a/run", "lies below"), ("file", "is a file")):
        error = error_of(isheep.align(recipe, tmp_path / run_dir, engine=write_texts).run)
        assert message in str(error) and "run_dir" not in str(error).partition(";")[0]
        assert message in refused("run", "lamb", "--out", tmp_path / run_dir)
    assert (tmp_path / "file").read_text() == ""
    assert "is not a run folder" in str(error_of(lambda: isheep.read_run(tmp_path / "file" / "run")))


def test_messages_name_the_argument_of_python_or_the_option_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def short(pair):\n    return None\n")
    filters = [{"kind": "custom", "function": f"{tmp_path}/mine.py:short"}]
    assert "pass allow_code=True to execute it" in str(
        error_of(lambda: isheep.load_recipe("lamb", {"filters": filters}))
    )
    assert "pass --allow-code to execute it" in refused("run", "lamb", f"filters={json.dumps(filters)}")
    (tmp_path / "file").write_text("")
    error = error_of(isheep.align(isheep.load_recipe("lamb", SMALL), tmp_path, engine=write_texts).run)
    assert "give another run_dir" in str(error)
    assert "give another --out" in refused("run", "lamb", "--out", tmp_path)
    error = error_of(lambda: isheep.load_recipe("lamb", ["training.epochs=x"]))
    assert str(error).startswith("'training.epochs=x' in the overrides: ")
    assert "'training.epochs=x' on the command line: " in refused("run", "lamb", "training.epochs=x")


# --- comparisons


def test_scores_with_other_numbers_of_items_are_named(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 1)
    for name, num_items in (("base", 3), ("iter-1", 4)):
        items = {"common": [True] * 5, "other": [True] * num_items}
        scores = {score: {"items": values} for score, values in items.items()}
        write_result(run, name, "mine", {"scores": scores})
    done = command_line("compare", run)
    assert "mine other is left out: A has 3 items, B has 4" in done.out and "common" in done.out
    assert "corrected for one test (Holm)" in " ".join(done.out.split())
    left_out = json.loads(command_line("compare", run, "--json").out)["left_out"]
    assert left_out == [{"benchmark": "mine", "score": "other", "a": [3], "b": [4]}]
    assert "mine other is left out: A has 3 items, B has 4: score both anew" in refused(
        "compare", run, "--score", "other"
    )


def test_the_api_names_scores_with_other_numbers_of_items(tmp_path: Path) -> None:
    recipe = isheep.load_recipe("lamb", {**SMALL, "machine.threads": 1})
    models = list(isheep.align(recipe, tmp_path / "run", engine=write_texts))

    def run(context: isheep.EvalContext) -> isheep.Result:
        items = {"common": [True] * 5, "other": [True] * (3 if context.is_base else 4)}
        return isheep.Result(scores={name: isheep.Score(items=values) for name, values in items.items()})

    comparison = isheep.compare(*models, benchmark(name="uneven", run=run))
    assert list(comparison.scores) == ["common"] and comparison.left_out == {"other": (3, 4)}
    assert "other is left out: 3 items before, 4 after" in str(comparison)

    def run_uneven(context: isheep.EvalContext) -> isheep.Result:
        return isheep.Result(scores={"other": isheep.Score(items=[True] * (3 if context.is_base else 4))})

    error = error_of(lambda: isheep.compare(*models, benchmark(name="all-uneven", run=run_uneven)))
    assert "have no score with as many items (other 3 and 4 items)" in str(error)


# --- kills and edits


@pytest.mark.slow
def test_an_edit_of_the_training_file_after_a_kill_is_refused(tmp_path: Path) -> None:
    """The rows that a killed training had begun to learn are those that it goes on to learn."""
    run_dir = tmp_path / "run"
    command = [sys.executable, str(ROOT / "tests/helpers/killed_step.py"), str(run_dir)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, env=environment, capture_output=True, cwd=tmp_path, timeout=300)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    training_file = run_dir / "iter-1" / "train.json"
    text = training_file.read_text(encoding="utf-8")
    training_file.write_text(text.replace("It is", "It was"), encoding="utf-8")
    recipe = isheep.load_recipe("lamb", SMALL)
    error = error_of(isheep.align(recipe, run_dir, engine=write_texts).run)
    assert str(training_file) in str(error) and "changed" in str(error)
    training_file.write_text(text, encoding="utf-8")
    assert len(isheep.align(recipe, run_dir, engine=write_texts).run().models) == 2
