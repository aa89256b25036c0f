"""The stages at the engine door: answers, ratings, filters, the loop; and the final table."""

import errno
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from isheep.algorithm import align
from isheep.backends import Backend
from isheep.cli import main
from isheep.engines.function import SeededFunctionEngine
from isheep.engines.user_engine import UserEngine
from isheep.errors import UserError
from isheep.evaluation import tables
from isheep.evaluation.counts import count_rows
from isheep.filters.custom import PairFunction
from isheep.recipe.schema import Recipe
from isheep.records import Drop, Model, Pair, Task
from isheep.rundir.folder import RunFolder
from isheep.rundir.manifest import accept_files
from isheep.rundir.run import open_run_for_writing
from isheep.rundir.training_file import read_training_file
from isheep.stages.respond import respond
from tests.helpers.backends import use_backend
from tests.helpers.fakes import FakeChat
from tests.helpers.recording import RecordingEngine
from tests.helpers.stages import stage_context, write_killed_stage

TASKS = [Task(id=f"t1-{n}", instruction=f"Name thing {n}", input="here" if n % 2 else "") for n in range(7)]


# --- answers


def test_answers_come_in_fixed_batches_each_seeded_by_its_index(tmp_path: Path) -> None:
    first, resumed_engine = RecordingEngine(), RecordingEngine()
    response = {"batch_size": 3, "sampling": {"stop": ["STOP"]}}
    rows = respond(stage_context(tmp_path / "whole", first, response=response), TASKS)
    resumed = stage_context(tmp_path / "resumed", resumed_engine, response=response)
    write_killed_stage(resumed, "pairs.jsonl", rows[:4])
    assert respond(resumed, TASKS) == rows and resumed_engine.calls == first.calls[1:]
    assert [len(prompts) for prompts, _, _ in first.calls] == [3, 3, 1]
    assert len({seed for _, _, seed in first.calls}) == 3
    assert first.calls[0][0][1] == "<|user|>Name thing 1\nhere<|answer|>"
    assert first.calls[0][1].stop == ("<|end|>", "STOP")
    assert [row.id for row in rows] == [task.id for task in TASKS]
    assert rows[0].output.startswith("seed ") and not rows[0].output.endswith(" ")


def test_another_iteration_draws_other_noise(tmp_path: Path) -> None:
    engines = [RecordingEngine(), RecordingEngine()]
    for iteration, engine in enumerate(engines, 1):
        respond(stage_context(tmp_path, engine, iteration), TASKS)
    assert engines[0].calls[0][2] != engines[1].calls[0][2]


def test_a_plain_prompt_has_no_template(tmp_path: Path) -> None:
    engine = RecordingEngine()
    respond(stage_context(tmp_path, engine, response={"prompt": "plain"}), TASKS[:2])
    assert engine.calls[0][0][1] == "Instruction: Name thing 1\nhere\nResponse:"
    # A tuned model writes the end token after a plain prompt too.
    assert engine.calls[0][1].stop == ("<|end|>",)


# --- the loop


def recipe(**changed: Any) -> Recipe:
    small = {"synthesis": {"tasks": 6, "batch_size": 2, "novelty": None, "budget": 8}, "evaluation": ["lamb"]}
    return Recipe.model_validate({"model": "fake", "iterations": 2, **small, **changed})


class World:
    """Fakes at the doors: what the models write, and what was opened and trained."""

    score = "9"

    def __init__(self) -> None:
        self.opened: list[Model] = []
        self.generated: list[Model] = []
        self.trained: list[int] = []

    def open_engine(self, recipe: Recipe, model: Model) -> SeededFunctionEngine:
        self.opened.append(model)

        def write(prompt: str, seed: int) -> str:
            self.generated.append(model)
            if prompt.endswith("<|answer|>"):
                return f"It is {seed}.<|end|>"
            return (
                f"{self.score}||ok"
                if "Please rate" in prompt
                else f" Tell me all about {seed}\nInput: <noinput>\n###\n"
            )

        return SeededFunctionEngine(write)

    def train(self, recipe: Recipe, chat: Any, start: Model, training_file: Path, seed: int, into: Path) -> None:
        data = read_training_file(training_file)
        self.trained.append(len(data.rows))
        record = {"rows": {"trained": len(data.rows) - 1}, "training_file_sha256": data.sha256}
        (into / "training.json").write_text(json.dumps(record))

    @property
    def backend(self) -> Backend:
        return Backend(self.open_engine, self.train, lambda name, model: FakeChat())  # type: ignore[arg-type, return-value]

    def run(self, recipe: Recipe, path: Path, filters: Sequence[PairFunction] = ()) -> tuple[list[Model], RunFolder]:
        with open_run_for_writing(path, recipe) as folder:
            return list(align(recipe, folder, backend=self.backend, filters=filters)), folder


@pytest.fixture
def world() -> World:
    return World()


def test_the_loop_yields_the_base_and_a_model_for_each_iteration(world: World, tmp_path: Path) -> None:
    models, folder = world.run(recipe(), tmp_path / "run")
    adapters = [None, *(tmp_path / "run" / f"iter-{t}" / "adapter" for t in (1, 2))]
    assert models == [Model("fake", adapter) for adapter in adapters]
    # The last model generates nothing.
    assert set(world.generated) == set(models[:2])
    assert world.trained == [6, 6]
    assert count_rows(folder, 2) == (6, 6, 0, 5, None)


def test_a_finished_run_generates_nothing(world: World, tmp_path: Path) -> None:
    first, _ = world.run(recipe(), tmp_path / "run")
    world.generated.clear()
    assert world.run(recipe(), tmp_path / "run")[0] == first
    assert world.generated == [] and world.trained == [6, 6]


def test_a_run_continues_with_more_iterations(world: World, tmp_path: Path) -> None:
    world.run(recipe(), tmp_path / "run")
    grown, _ = world.run(recipe(iterations=3), tmp_path / "run")
    models, _ = world.run(recipe(iterations=3), tmp_path / "whole")
    names = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.json*") if path.is_file()]
    for name in names:
        if name.name != "run.jsonl":
            assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_base_may_judge(world: World, tmp_path: Path) -> None:
    judged = recipe(assessment={"judge": "base"})
    world.run(judged, tmp_path / "run")
    aligned = Model("fake", tmp_path / "run" / "iter-1" / "adapter")
    assert world.opened == [Model("fake"), aligned, Model("fake")]


def test_without_assessment_and_filters_every_pair_is_kept(world: World, tmp_path: Path) -> None:
    _, folder = world.run(recipe(assessment=None, filters=[]), tmp_path / "run")
    assert count_rows(folder, 1) == (6, 6, None, 5, None)
    assert not folder.has("iter-1/assessed.jsonl")


ASKING = {
    "perplexity.jsonl": {"kind": "perplexity", "at_most": 50},
    "embeddings.jsonl": {"kind": "density", "clusters": 3},
    "both": {"kind": "density", "clusters": 3, "choose": "lowest_perplexity"},
    "neither": {"kind": "random", "keep": 3},
}


@pytest.mark.parametrize("name", ASKING)
def test_the_model_computes_only_the_measures_that_a_filter_needs(world: World, tmp_path: Path, name: str) -> None:
    settings = recipe(filters=[{"kind": "score", "at_least": 8}, ASKING[name]], assessment={"judge": "base"})
    _, folder = world.run(settings, tmp_path / "run")
    files = {path.name for path in (folder.path / "iter-2").iterdir()} & {"perplexity.jsonl", "embeddings.jsonl"}
    assert files == {"both": {"perplexity.jsonl", "embeddings.jsonl"}, "neither": set()}.get(name, {name})
    assert world.trained == [6 if name == "perplexity.jsonl" else 3] * 2


def test_a_resume_does_not_filter_again(world: World, tmp_path: Path) -> None:
    settings, filtered_pairs = recipe(filters=[ASKING["both"]]), list[str]()

    def keep(pair: Pair) -> None:
        filtered_pairs.append(pair.id)

    first, folder = world.run(settings, tmp_path / "run", [keep])
    num_filtered = len(filtered_pairs)
    (folder.path / "iter-1" / "embeddings.jsonl").unlink()
    assert world.run(settings, tmp_path / "run", [keep])[0] == first and not folder.has("iter-1/embeddings.jsonl")
    assert num_filtered and len(filtered_pairs) == num_filtered


def test_a_run_that_keeps_no_pair_ends_with_an_error(world: World, tmp_path: Path) -> None:
    world.score = "no idea"
    wrong = r"iteration 1: 0 of 6 pairs left to train on.* with an unreadable rating 6;.* with a new run folder"
    with pytest.raises(UserError, match=wrong):
        world.run(recipe(), tmp_path / "run")


def test_a_run_says_that_its_budget_is_used_up(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = world.run(
        recipe(synthesis={"tasks": 50, "batch_size": 2, "novelty": None, "budget": 8}), tmp_path / "run"
    )
    assert (
        "all 8 prompts of synthesis.budget are used, going on with 8 of 50 tasks"
        in (folder.path / "run.jsonl").read_text()
    )


def test_a_full_disk_is_an_error_of_one_line_and_no_rows_are_lost(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    sections = "synthesis: {tasks: 6, batch_size: 2, novelty: null}\nresponse: {batch_size: 2}\n"
    file.write_text(f"model: fake\niterations: 1\n{sections}")
    run_it = ["run", str(file), "--out", str(tmp_path / "run")]
    answered: list[int] = []

    def full(self: World, *arguments: Any) -> Any:
        engine = World.open_engine(self, *arguments)
        write = engine.answer

        def answer(prompt: str, seed: int) -> str:
            answered.append(seed)
            if len(answered) == 11:
                raise OSError(errno.ENOSPC, "No space left on device", "pairs.jsonl.part")
            return write(prompt, seed)

        engine.answer = answer
        return engine

    use_backend(monkeypatch, replace(world.backend, open_engine=partial(full, world)))
    with pytest.raises(SystemExit) as end:
        main(run_it)
    error = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 2 and error.startswith("isheep: no space left on the device for pairs.jsonl.part")
    assert len((tmp_path / "run" / "iter-1" / "pairs.jsonl.part").read_text().splitlines()) == 4
    with pytest.raises(SystemExit) as end:
        main(run_it)
    assert end.value.code == 0 and "training rows" in capsys.readouterr().out


def test_an_interrupted_command_prints_one_line(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    use_backend(monkeypatch, replace(world.backend, train=interrupted))
    words = ["run", "lamb", "synthesis.tasks=6", "synthesis.novelty=null", "evaluation=[]"]
    with pytest.raises(SystemExit) as end:
        main([*words, "filters=[{kind: score, at_least: 8}]", "--out", str(tmp_path / "run")])
    assert end.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("isheep: interrupted; everything finished is saved")
    assert (tmp_path / "run" / "iter-1" / "train.json").exists()


def test_an_edited_training_file_is_learned_from_or_refused(world: World, tmp_path: Path) -> None:
    world.run(recipe(iterations=1), tmp_path)
    assert world.trained == [6]
    training_file, adapter = tmp_path / "iter-1" / "train.json", tmp_path / "iter-1" / "adapter"
    training_file.write_text(json.dumps(json.loads(training_file.read_text())[:-2]))
    with pytest.raises(UserError, match=r"train\.json has changed since the run made it"):
        world.run(recipe(iterations=1), tmp_path)
    accept_files(tmp_path, ["iter-1/train.json"])
    with pytest.raises(UserError, match=r"adapter/\S+ was made from another iter-1/train\.json"):
        world.run(recipe(iterations=1), tmp_path)
    # A run of an earlier version has no manifest.
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"train\.json has changed since .*adapter was trained on it: restore it, or"):
        world.run(recipe(iterations=1), tmp_path)
    (tmp_path / "manifest.json").unlink()
    shutil.rmtree(adapter)
    world.run(recipe(iterations=1), tmp_path)
    assert world.trained == [6, 4]


# --- functions of the user's own


def test_a_function_from_prompts_to_texts_is_an_engine(tmp_path: Path) -> None:
    world, prompts_of_calls = World(), []

    def generate(prompts: list[str]) -> list[str]:
        prompts_of_calls.append(prompts)
        engine = world.open_engine(recipe(), Model("fake"))
        return [engine.answer(prompt, len(prompts_of_calls) * 100 + row) for row, prompt in enumerate(prompts)]

    backend = replace(world.backend, open_engine=Backend.of_engine(generate).open_engine)
    with open_run_for_writing(tmp_path, recipe()) as folder:
        assert len(list(align(recipe(), folder, backend=backend))) == 3
    assert world.trained == [6, 6] and len(prompts_of_calls) > 10


def test_an_engine_that_is_passed_in_generates_for_every_model() -> None:
    engine = RecordingEngine()
    backend = Backend.of_engine(engine)
    opened = [backend.open_engine(recipe(), model) for model in (Model("fake"), Model("fake", Path("adapter")))]
    assert all(isinstance(user_engine, UserEngine) and user_engine.engine is engine for user_engine in opened)
    assert backend.check_engine(recipe(), False) == []


def test_a_function_from_a_pair_to_a_reason_is_a_filter(world: World, tmp_path: Path) -> None:
    def first_of_all(pair: Pair) -> str | None:
        return "it is the first" if pair.id.endswith("0") else None

    with open_run_for_writing(tmp_path, recipe()) as folder:
        list(align(recipe(), folder, backend=world.backend, filters=[first_of_all]))
        drops = folder.read("iter-1/dropped.jsonl", Drop)
    assert drops == [Drop(row="t1-00000", by="first_of_all", why="it is the first")] and world.trained == [5, 5]


# --- the training file


def test_an_edit_of_the_training_file_before_training_changes_what_is_learned(world: World, tmp_path: Path) -> None:
    def fail(*arguments: Any) -> None:
        raise KeyboardInterrupt

    training_file = tmp_path / "iter-1" / "train.json"
    with open_run_for_writing(tmp_path, recipe()) as folder:
        with pytest.raises(KeyboardInterrupt):
            list(align(recipe(), folder, backend=replace(world.backend, train=fail)))
        rows = json.loads(training_file.read_text())
        training_file.write_text(json.dumps(rows[:4]))
        list(align(recipe(), folder, backend=world.backend))
    assert world.trained == [4, 6]


# --- the table


def test_the_table_of_a_run_has_percentages_with_intervals(world: World, tmp_path: Path) -> None:
    from rich.console import Console

    _, folder = world.run(recipe(), tmp_path / "run")
    for t, right in enumerate([10, 30]):
        items = {"right": [n < right for n in range(40)]}
        (folder / ("iter-1" if t else "base")).json(
            "eval/lamb.json", lambda items=items: {"scores": {"right": {"items": items["right"]}}}
        )
    with (console := Console(width=100)).capture() as capture:
        console.print(tables.run_table(recipe(), folder, full=True))
    text = capture.get()
    assert "25 [14,40]" in text and "75 [60,86]" in text and "<0.0001" in text
