"""The Python API on lamb: runs with the real model, and with functions of the test in place of it."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import isheep
from isheep.benchmarks import Result, Score, register_benchmark
from isheep.recipe.evaluation import BenchmarkSettings
from tests.helpers.command import isheep as command_line
from tests.helpers.hashes import hash_files

ROOT = Path(__file__).parents[1]
SMALL: dict[str, Any] = {
    "iterations": 1, "evaluation": [], "synthesis.tasks": 8, "assessment.criteria": ["quality"],
    "training.batch_size": 4, "training.max_steps": 2, "training.eval_every": 1, "training.held_out": 0.25,
    "filters": [{"kind": "score", "at_least": 8}],
}  # fmt: skip


def write_texts(prompts: list[str]) -> Sequence[str]:
    """Stand in for a language model: write new tasks, answers, and ratings of 9."""
    write_texts.calls += 1  # type: ignore[attr-defined]
    return [write_text(prompt, f"{write_texts.calls}-{index}") for index, prompt in enumerate(prompts)]  # type: ignore[attr-defined]


def write_text(prompt: str, name: str) -> str:
    if "Please rate" in prompt or "Grade it" in prompt:
        return "9||good"
    if prompt.endswith("Instruction:"):
        return f" Tell me about colour {name}\nInput: <noinput>\n###\n"
    return f"It is {name}."


write_texts.calls = 0  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> isheep.Run:
    """A run of one iteration in which a function writes and lamb is trained; tests do not change it."""
    run_dir = tmp_path_factory.mktemp("api") / "run"
    return isheep.align(isheep.load_recipe("lamb", SMALL), run_dir, engine=write_texts).run()


# --- importing


def test_import_is_fast_and_light() -> None:
    """The time is that of the processor, because other processes may be at work."""
    script = "import sys, time; started = time.process_time(); import isheep; seconds = time.process_time() - started\n"
    script += "print(seconds, *sorted({'torch', 'transformers', 'pydantic', 'numpy', 'isheep.api'} & set(sys.modules)))"
    runs = [subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT) for _ in range(3)]
    outputs = [run.stdout.split() for run in runs]
    assert [output[1:] for output in outputs] == [[]] * 3
    assert min(float(output[0]) for output in outputs) < 0.05


def test_every_public_name_loads_and_is_documented() -> None:
    for name in isheep.__all__:
        value = getattr(isheep, name)
        assert name == "__version__" or value.__doc__, name
    assert set(isheep.__all__) <= set(dir(isheep))
    with pytest.raises(AttributeError, match="has no attribute 'aline'"):
        _ = isheep.aline


@pytest.mark.parametrize("name", ["align", "compare", "evaluate", "load_recipe", "load_sweep", "read_run"])
def test_every_function_shows_an_example(name: str) -> None:
    assert f"isheep.{name}(" in getattr(isheep, name).__doc__.partition("Example:")[2]


# --- running


@pytest.mark.numeric
@pytest.mark.slow
def test_the_real_model_aligns_itself_as_by_the_command_line(tmp_path: Path) -> None:
    settings = {**SMALL, "filters": [], "synthesis.batch_size": 4}
    recipe = isheep.load_recipe("lamb", settings)
    models = list(isheep.align(recipe, tmp_path / "api"))
    assert [str(model) for model in models] == [
        f"base of {tmp_path / 'api'}: lamb",
        f"iteration 1 of {tmp_path / 'api'}: lamb with adapter {tmp_path / 'api'}/iter-1/adapter",
    ]
    assert command_line("run", tmp_path / "api" / "recipe.yaml", "--out", tmp_path / "cli").code == 0
    assert hash_files(tmp_path / "cli") == hash_files(tmp_path / "api")
    answers = models[1].answer(["What is 12 plus 30?"], max_tokens=8)
    assert len(answers) == 1 and answers == models[1].answer(["What is 12 plus 30?"], max_tokens=8)


def test_nothing_runs_before_it_is_asked_for(tmp_path: Path) -> None:
    alignment = isheep.align(isheep.load_recipe("lamb", SMALL), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert repr(alignment) == f"<Alignment of lamb in {tmp_path}/run, 1 iterations: iterate over it, or call run()>"


def test_a_run_that_was_left_is_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = isheep.load_recipe("lamb", {**SMALL, "iterations": 2})
    for model in isheep.align(recipe, tmp_path / "run", engine=write_texts):
        if model.iteration == 1:
            break
    first = hash_files(tmp_path / "run")
    assert str(isheep.read_run(tmp_path / "run")).endswith("1 of 2 iterations are trained")
    models = list(isheep.align(recipe, tmp_path / "run", engine=write_texts))
    assert [model.iteration for model in models] == [0, 1, 2]
    assert {name: content for name, content in hash_files(tmp_path / "run").items() if name in first} == first
    assert "nothing to do" not in capsys.readouterr().err
    assert len(list(isheep.align(recipe, tmp_path / "run", engine=write_texts))) == 3
    assert capsys.readouterr().err == "this run is complete: nothing to do\n"


def test_a_recipe_that_cannot_run_is_refused_at_once(tmp_path: Path) -> None:
    recipe = isheep.load_recipe("lamb", {**SMALL, "machine.device": "cuda:99"})
    with pytest.raises(isheep.UserError, match="machine.device 'cuda:99' is not on this machine"):
        isheep.align(recipe, tmp_path / "run").run()
    with pytest.raises(isheep.UserError, match="unknown key 'epoch' in training: did you mean 'epochs'"):
        isheep.load_recipe("lamb", {"training.epoch": 1})


# --- reading


def test_a_run_reads_as_rows(finished: isheep.Run) -> None:
    [iteration] = finished.iterations
    assert len(iteration.tasks) == len(iteration.pairs) == len(iteration.rated_pairs) == 8
    assert all(pair.grades["quality"].score == 9 for pair in iteration.rated_pairs)
    assert list(iteration.kept_pairs) == list(iteration.rated_pairs) and not iteration.dropped
    assert [row.output for row in iteration.training_rows] == [pair.output for pair in iteration.pairs]
    assert finished.recipe.synthesis.tasks == 8 and iteration.path == finished.path / "iter-1"
    assert [model.iteration for model in finished.models] == [0, 1]


def test_a_run_is_read_while_it_is_not_finished(tmp_path: Path) -> None:
    recipe = isheep.load_recipe("lamb", SMALL)
    next(iter(isheep.align(recipe, tmp_path / "run", engine=write_texts)))
    run = isheep.read_run(tmp_path / "run")
    assert run.iterations == [] and [model.iteration for model in run.models] == [0] and run.results == [{}]
    with pytest.raises(isheep.UserError, match="is not a run folder"):
        isheep.read_run(tmp_path)


# --- filters of one's own


def is_even(pair: isheep.Pair) -> str | None:
    """Drop every second pair."""
    return "even" if int(pair.id[-1]) % 2 == 0 else None


def test_a_function_is_a_filter(tmp_path: Path) -> None:
    recipe = isheep.load_recipe("lamb", SMALL)
    run = isheep.align(recipe, tmp_path / "run", engine=write_texts, filters=[is_even]).run()
    drops = run.iterations[0].dropped
    assert [(drop.by, drop.why) for drop in drops] == [("is_even", "even")] * 4
    assert len(run.iterations[0].training_rows) == 4


def test_a_run_with_a_function_is_continued_with_the_same_one_only(tmp_path: Path) -> None:
    recipe = isheep.load_recipe("lamb", SMALL)
    next(iter(isheep.align(recipe, tmp_path / "run", filters=[is_even], engine=write_texts)))
    before = hash_files(tmp_path / "run")
    with pytest.raises(isheep.UserError, match="was begun with engine write_texts, filters is_even"):
        isheep.align(recipe, tmp_path / "run", engine=write_texts).run()
    done = command_line("run", tmp_path / "run")
    assert done.code == 2 and "was begun with engine write_texts, filters is_even" in done.err
    assert hash_files(tmp_path / "run") == before


@pytest.mark.parametrize("name", ["engine", "filters"])
def test_what_is_no_function(tmp_path: Path, name: str) -> None:
    arguments: dict[str, Any] = {"engine": 3} if name == "engine" else {"filters": ["short"]}
    with pytest.raises(isheep.UserError, match=name.removesuffix("s")):
        isheep.align(isheep.load_recipe("lamb", SMALL), tmp_path / "run", **arguments)


# --- evaluating and comparing


def run_colours(context: isheep.EvalContext) -> Result:
    prompts = [context.prompt(prompt) for prompt in colour_prompts(context.settings)]
    answers = context.answers(prompts, isheep.Sampling(temperature=0, max_tokens=8))
    return Result(scores={"colour": Score(items=["It is" in answer.output for answer in answers])})


def colour_prompts(settings: BenchmarkSettings) -> list[str]:
    return [f"Name colour {number}." for number in range(4)]


COLOURS = isheep.Benchmark(
    name="colours", run=run_colours, prompts=colour_prompts, score_inputs=lambda settings: "It is"
)


def test_a_benchmark_of_ones_own(finished: isheep.Run) -> None:
    results = [isheep.evaluate(model, COLOURS) for model in finished.models]
    assert [result.scores["colour"].mean for result in results] == [1, 1]
    assert str(results[0]) == "colour 1.000"
    assert isheep.read_run(finished.path).results[1]["colours"].scores["colour"].mean == 1
    assert "colours" in command_line("status", finished.path).out
    calls = write_texts.calls  # type: ignore[attr-defined]
    assert isheep.evaluate(finished.models[1], COLOURS) == results[1]
    assert write_texts.calls == calls  # type: ignore[attr-defined]


def test_a_benchmark_of_the_package(finished: isheep.Run) -> None:
    result = isheep.evaluate(finished.models[0], "lamb")
    assert len(result.scores["right"].items) == 1000 and str(result).startswith("right 0.0")
    with pytest.raises(isheep.UserError, match="did you mean 'lamb'"):
        isheep.evaluate(finished.path, "lamp")


def test_two_models_are_compared(finished: isheep.Run) -> None:
    base, aligned = finished.models
    comparison = isheep.compare(base, aligned, COLOURS)
    assert comparison.scores["colour"].difference == 0 and comparison.scores["colour"].num_items == 4
    assert "colour  1.000 -> 1.000" in str(comparison)
    assert isheep.compare(finished.path, finished.path, COLOURS).before.iteration == 1


# --- prompts and a chat template of one's own


def test_prompts_and_a_chat_template_of_ones_own(tmp_path: Path) -> None:
    prompts: list[str] = []

    def record(batch: list[str]) -> list[str]:
        prompts.extend(batch)
        return [write_text(prompt, f"{len(prompts)}-{index}") for index, prompt in enumerate(batch)]

    settings = {
        **SMALL,
        "synthesis.prompt": {
            "meta": "More of these.",
            "block": "{k}. Instruction: {instruction}",
            "open": "{k}. Instruction:",
        },
        "assessment.prompt": {"quality": "Grade it: {instruction} {output} as <score>||<reason>:"},
        "chat_template": "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}",
    }
    isheep.align(isheep.load_recipe("lamb", settings), tmp_path / "run", engine=record).run()
    for start in ("More of these.", "Grade it: ", "<|im_start|>user: "):
        assert any(prompt.startswith(start) for prompt in prompts), start
    saved = isheep.read_run(tmp_path / "run").recipe
    assert saved == isheep.load_recipe("lamb", settings)


@pytest.mark.parametrize(
    ("source", "overrides", "message"),
    [
        (None, None, "recipe None: give a name"),
        ("lamb", "training.epochs=1", "give a mapping or a list"),
        ("lamb", [5], "each key must be a text"),
        ("lamb", {5: 6}, "each key must be a text"),
        ("lamb", 5, "give a mapping or a list"),
    ],
)
def test_a_recipe_of_a_wrong_type_is_refused(source: Any, overrides: Any, message: str) -> None:
    with pytest.raises(isheep.UserError, match=message):
        isheep.load_recipe(source, overrides)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"filters": len}, "filters must be a list"),
        ({"filters": None}, "filters must be a list"),
        ({"engine": object()}, "engine object is <object object"),
        ({"recipe": "lamb"}, "is not a Recipe"),
    ],
)
def test_wrong_arguments_of_align_are_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"recipe": isheep.load_recipe("lamb"), "run_dir": tmp_path / "run"} | changed
    with pytest.raises(isheep.UserError, match=message):
        isheep.align(**arguments)


def test_filters_may_be_an_iterator(tmp_path: Path) -> None:
    alignment = isheep.align(isheep.load_recipe("lamb"), tmp_path, filters=(f for f in [lambda pair: "all"]))
    assert len(alignment.filters) == 1


@pytest.mark.parametrize("name", ["../../x", "/abs/x", "", "a\0b", "x" * 300, ".hidden"])
def test_a_benchmark_name_that_is_no_file_name_is_refused(name: str) -> None:
    benchmark = isheep.Benchmark(
        name=name, run=lambda context: None, prompts=lambda settings: ["a"], score_inputs=lambda settings: 1
    )  # type: ignore[arg-type, return-value]
    with pytest.raises(isheep.UserError, match="benchmark name"):
        register_benchmark(benchmark)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda prompts: None, "must return one text per prompt"),
        (lambda prompts: (text for text in prompts), "must return one text per prompt"),
        (lambda prompts: 1 / 0, "failed on 2 prompts: ZeroDivisionError"),
    ],
)
def test_an_engine_function_that_returns_no_texts_is_refused(function: Any, message: str) -> None:
    with pytest.raises(isheep.UserError, match=message):
        isheep.FunctionEngine(function).generate(["a", "b"], isheep.Sampling(), 1)
