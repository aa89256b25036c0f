"""Signs of degenerate learning: each is said once, kept and shown, and stops the run if stop.on names it."""

import json
import math
import shlex
from pathlib import Path
from typing import Any

import pytest

import isheep
from isheep.backends import Backend
from isheep.models.chat_template import ChatTemplate
from isheep.recipe.evaluation import FindingName, Stop
from isheep.recipe.loading import dump_recipe
from isheep.rundir import progress
from isheep.rundir.events import read_events
from tests.helpers.backends import add_benchmark, use_backend
from tests.helpers.command import isheep as command_line
from tests.helpers.command import refused
from tests.helpers.halved_benchmark import halved_benchmark, judge_by_model

RECIPE = [
    *("lamb", "iterations=1", "evaluation=[]", "synthesis.tasks=20", "synthesis.batch_size=20", "filters=[]"),
    *("synthesis.novelty=null", "synthesis.rules=false", "training.num_rows=null"),
]


class Writer:
    """A function as engine. Tasks, answers and ratings differ, except for those with a text in `texts`."""

    def __init__(self, **texts: str) -> None:
        self.texts, self.num_prompts = texts, 0

    def __call__(self, prompts: list[str]) -> list[str]:
        return list(map(self.write, prompts))

    def write(self, prompt: str) -> str:
        self.num_prompts += 1
        if "Please rate" in prompt:
            return self.texts.get("rating", f"{5 + self.num_prompts % 5}||so")
        if prompt.endswith("Instruction:"):
            task = self.texts.get("instruction", f"Tell me about colour {self.num_prompts}")
            return f" {task}\nInput: <noinput>\n###\n"
        return self.texts.get("answer", f"It is {self.num_prompts}.")


class Trainer:
    """A trainer that reports losses by step, and writes an adapter with the record `figures`."""

    def __init__(self, losses: dict[int, float] | None = None, **figures: Any) -> None:
        self.losses, self.figures, self.num_calls = losses or {}, figures, 0

    def __call__(
        self, recipe: Any, chat: ChatTemplate, start: Any, training_file: Path, seed: int, output_dir: Path
    ) -> None:
        self.num_calls += 1
        for step, loss in self.losses.items():
            progress.report_losses(step, {"loss": loss})
        record = {"rows": {"trained": 18, "held_out": 2}, "loss": list(self.losses.items()), **self.figures}
        for name, value in (("training.json", record), ("adapter_config.json", {}), ("adapter_model.safetensors", 0)):
            (output_dir / name).write_text(json.dumps(value))


def use_models(monkeypatch: pytest.MonkeyPatch, writer: Writer, trainer: Trainer) -> None:
    """Let the commands generate with `writer` and train with `trainer`."""
    use_backend(monkeypatch, Backend(Backend.of_engine(writer).open_engine, trainer))


def stopped(*words: str | Path) -> str:
    """Return the last line of a command that ends with exit code 2."""
    done = command_line(*words)
    assert done.code == 2 and "Traceback" not in done.err
    return done.err.splitlines()[-1] + "\n"


# The finding, the writer and the trainer that lead to it, and its figure.
CASES: list[tuple[FindingName, Writer, Trainer, str]] = [
    (
        "same_instructions",
        Writer(instruction="Name a colour"),
        Trainer(),
        "all 20 instructions are the same text, 'Name a colour'",
    ),
    ("same_answers", Writer(answer="Red."), Trainer(), "all 20 answers are the same text, 'Red.'"),
    (
        "same_ratings",
        Writer(rating="10||good"),
        Trainer(),
        "all 20 rated pairs have the same ratings: quality 10, following 10 (the highest score)",
    ),
    ("few_rows", Writer(), Trainer(rows={"trained": 3, "held_out": 1}), "training on 4 rows only, fewer than 16"),
    ("bad_loss", Writer(), Trainer({1: 2.0, 2: 9.0}), "the loss at step 2 is 9, above 7.60, that of uniform guesses"),
    (
        "bad_loss",
        Writer(),
        Trainer(eval_loss=[[0, 7.55], [2, 7.7]], kept_step=2),
        "the held-out loss at step 2 is 7.7, above 7.60",
    ),
    (
        "worse_than_base",
        Writer(),
        Trainer(eval_loss=[[0, 2.0], [2, 2.5], [4, 3.0]], kept_step=2),
        "the held-out loss is 2.50 after the training, 2.00 before it",
    ),
]


@pytest.mark.parametrize(
    ("name", "writer", "trainer", "figure"),
    [pytest.param(*case, marks=() if case[0] == "same_ratings" else pytest.mark.slow, id=case[3]) for case in CASES],
)
def test_a_finding_is_said_once_and_stops_the_run_if_the_recipe_asks(
    name: FindingName, writer: Writer, trainer: Trainer, figure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    use_models(monkeypatch, writer, trainer)
    done = command_line("run", *RECIPE, "--out", "run")
    assert done.code == 0 and done.err.count(figure) == 1
    status = json.loads(command_line("status", "run", "--json").out)
    assert [(entry["iteration"], entry["name"]) for entry in status["findings"]] == [(1, name)]
    assert figure in " ".join(command_line("status", "run").out.split())
    assert figure not in command_line("run", "run").err
    assert [event["finding"] for event in read_events(tmp_path / "run") if "finding" in event] == [name]
    # A run that stops makes nothing more, and stops again without asking the model or training.
    names = ", ".join(dict.fromkeys(["few_rows", name]))
    line = stopped("run", *RECIPE, f"stop.on=[{names}]", "--out", "stopped")
    assert figure in line and f"stopped by stop.on: {name}" in line
    num_prompts, num_calls = writer.num_prompts, trainer.num_calls
    assert refused("run", "stopped") == line
    assert (writer.num_prompts, trainer.num_calls) == (num_prompts, num_calls)
    status_text = " ".join(command_line("status", "stopped").out.split())
    assert f"iterations are trained; stopped by stop.on: {name}" in status_text and status_text.count(figure) == 1
    # The command that the line proposes goes on, with the files that there are.
    command = line.partition("what stays the same: ")[2].rpartition(")")[0]
    forked = command_line(*shlex.split(command)[1:])
    assert forked.code == 0 and forked.err.count(figure) == 1
    shared = {event["file"] for event in read_events(tmp_path / "stopped-2") if "shared_from" in event}
    assert "iter-1/replies.jsonl" in shared


def test_no_finding_in_a_run_that_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer({1: 2.0, 2: 1.0}, eval_loss=[[0, 2.0], [2, 2.1]], kept_step=2)
    use_models(monkeypatch, Writer(), trainer)
    findings = "same_instructions, same_answers, same_ratings, few_rows, bad_loss, worse_than_base"
    assert command_line("run", *RECIPE, f"stop.on=[{findings}]", "--out", tmp_path).code == 0
    assert json.loads(command_line("status", tmp_path, "--json").out)["findings"] == []


@pytest.mark.parametrize("loss", [math.nan, pytest.param(math.inf, marks=pytest.mark.slow)])
def test_a_loss_that_is_no_number_ends_the_training_at_once(
    loss: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, trainer = Writer(), Trainer({3: loss, 4: 1.0})
    use_models(monkeypatch, writer, trainer)
    line = stopped("run", *RECIPE, "--out", tmp_path / "run")
    assert f"the loss at step 3 is {loss}; start again with a lower training.learning_rate" in line
    assert refused("run", tmp_path / "run") == line and trainer.num_calls == 1
    assert not (tmp_path / "run/iter-1/adapter").exists()
    # Set aside with the checkpoints, the losses end no other training.
    trainer.losses = {3: 1.0}
    assert command_line("redo", tmp_path / "run", "--from", "training").code == 0
    assert json.loads(command_line("status", tmp_path / "run", "--json").out)["findings"] == []


@pytest.mark.slow
def test_a_damaged_file_of_bad_losses_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer({3: math.nan})
    use_models(monkeypatch, Writer(), trainer)
    line = stopped("run", *RECIPE, "--out", tmp_path / "run")
    for content in ("", "[3]", "[3, [1]]", '[null, {"loss": "x"}]'):
        (tmp_path / "run/iter-1/adapter.part/bad_loss.json").write_text(content)
        assert refused("run", tmp_path / "run") == line
    assert trainer.num_calls == 5


@pytest.mark.slow
def test_a_model_that_is_clearly_worse_on_the_validation_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_benchmark(monkeypatch, halved_benchmark(judge_by_model({"base": 200, "iter-1": 199, "iter-2": 150})))
    use_models(monkeypatch, Writer(), Trainer())
    rule = "stop={benchmark: halved, patience: 2, on: [worse_than_base]}"
    line = stopped("run", *RECIPE, "iterations=3", rule, "--out", tmp_path / "run")
    assert "iteration 2: the mean score is 0.4211 on halved's validation part, and the base 0.5502" in line
    assert "'stop.on=[]' --fork run-2" in line
    assert refused("run", tmp_path / "run") == line and not (tmp_path / "run/iter-3").exists()


@pytest.mark.slow
@pytest.mark.report
def test_findings_are_in_the_report_and_follow_a_redo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(rating="9||good")
    use_models(monkeypatch, writer, Trainer())
    figure = "all 20 rated pairs have the same ratings: quality 9, following 9;"
    assert figure in command_line("run", *RECIPE, "--out", tmp_path / "run").err
    rigor = (tmp_path / "run/report.html").read_text().partition('id="rigor"')[2]
    assert figure in rigor
    export = ("export", tmp_path / "run", "--as", "alpaca", "--card", "--out", tmp_path / "data")
    assert command_line(*export).code == 0 and "have the same ratings" in (tmp_path / "data/README.md").read_text()
    assert figure in command_line("redo", tmp_path / "run", "--from", "ratings").err
    writer.texts = {}
    assert figure not in command_line("redo", tmp_path / "run", "--from", "ratings").err
    assert figure not in command_line("status", tmp_path / "run", "--json").out.partition('"findings"')[2]
    assert figure not in (tmp_path / "run/report.html").read_text().partition('id="rigor"')[2].partition("Notes")[0]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["stop={}"], "it has nothing to stop by: give stop.benchmark or stop.on"),
        (["stop={on: [few_rows], patience: 2}"], "it is for the gains on a benchmark, and stop.benchmark is null"),
        (["stop.on=[few_pairs]"], "few_pairs"),
    ],
)
def test_settings_that_stop_nothing_are_refused(settings: list[str], reason: str, tmp_path: Path) -> None:
    assert reason in refused("run", "lamb", *settings, "--out", tmp_path / "run")


def test_the_key_on_is_no_truth_value_of_yaml(tmp_path: Path) -> None:
    """YAML 1.1 reads `on` as true, as a key too."""
    (tmp_path / "mine.yaml").write_text("model: lamb\nstop: {on: [few_rows, bad_loss]}\n")
    recipe = isheep.load_recipe(tmp_path / "mine.yaml")
    assert recipe.stop == Stop(on=("few_rows", "bad_loss")) and recipe.stop_rule is None
    (tmp_path / "saved.yaml").write_text(dump_recipe(recipe))
    assert isheep.load_recipe(tmp_path / "saved.yaml") == recipe
    assert isheep.load_recipe("lamb", ["stop=null", "stop.on=[few_rows]"]).stop == Stop(on=("few_rows",))


@pytest.mark.slow
def test_the_trainer_measures_the_model_before_the_training_and_a_loss_that_explodes(tmp_path: Path) -> None:
    rows = ["iterations=1", "evaluation=[]", "synthesis.tasks=30", "filters=[]", "training.num_rows=null"]
    training = ["training.max_steps=6", "training.eval_every=2", "training.warmup_steps=0", "training.batch_size=4"]
    done = command_line("run", "lamb", *rows, *training, "--out", tmp_path / "run")
    assert done.code == 0
    record = json.loads((tmp_path / "run/iter-1/adapter/training.json").read_text())
    assert [step for step, _ in record["eval_loss"]] == [0, 2, 4, 6] and record["kept_step"] > 0
    settings = ["training.learning_rate=1000", "stop.on=[bad_loss]", "--fork", "exploding"]
    line = stopped("run", tmp_path / "run", *settings)
    assert "above 7.60" in line and "stopped by stop.on: bad_loss" in line
    assert stopped("run", tmp_path / "exploding") == line
