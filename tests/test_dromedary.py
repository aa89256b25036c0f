"""Dromedary's stages: topics for new tasks, answers after thoughts under principles, engraving, verbose cloning."""

import json
import re
import shutil
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from isheep import prompts
from isheep.algorithm import align
from isheep.backends import Backend
from isheep.cli import main
from isheep.engines.function import SeededFunctionEngine
from isheep.errors import UserError
from isheep.evaluation.counts import count_rows
from isheep.filters.score import ScoreFilter
from isheep.lamb import CHECKPOINT as LAMB_CHECKPOINT
from isheep.prompts.forms import load_answer_form, load_topic_guide
from isheep.recipe.schema import Assessment, Recipe, Synthesis
from isheep.records import Completion, Drop, Model, Pair, Reply, Sampling, Task
from isheep.rundir.folder import RunFolder
from isheep.rundir.run import open_run_for_writing
from isheep.rundir.training_file import read_training_file
from isheep.stages.assess import grade_pairs
from isheep.stages.filters import find_drops
from isheep.stages.measure import measure_perplexities
from isheep.stages.respond import respond
from isheep.stages.rules import broken_rule
from isheep.stages.synthesize import generate_replies, read_tasks
from isheep.stages.topics import MAX_TOPIC_WORDS, TopicPrompts, generate_topics, parse_topics
from tests.helpers.fakes import FakeChat
from tests.helpers.hashes import hash_files
from tests.helpers.kills import count_moments, run_until_killed
from tests.helpers.stages import stage_context, write_killed_stage

TASKS = [Task(id="t1-0", instruction="Name a river.", input=""), Task(id="t1-1", instruction="Sort.", input="b, a")]
LONG, SHORT = "dromedary/principles", "principles"


class Heard(SeededFunctionEngine):
    """A fake engine that remembers its calls."""

    def __init__(self, text: str = " Be true.\nAssistant: The Rhine.\nUser: And?") -> None:
        super().__init__(lambda prompt, seed: text)
        self.prompts: list[str] = []
        self.scored: list[tuple[str, str]] = []

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        self.prompts += prompts
        return super().generate(prompts, sampling, seed)

    def logprobs(self, prompts: Sequence[str], outputs: Sequence[str]) -> Any:
        self.scored += zip(prompts, outputs, strict=True)
        return super().logprobs(prompts, outputs)


def answered(engine: SeededFunctionEngine, prompt: str, **settings: Any) -> list[Pair]:
    with tempfile.TemporaryDirectory() as folder:
        context = stage_context(Path(folder), engine, response={"prompt": prompt, **settings})
        return list(respond(context, TASKS))


# --- the prompts


@pytest.mark.parametrize("name", [LONG, SHORT])
def test_there_are_sixteen_principles(name: str) -> None:
    assert re.findall(r"(\d+) \([a-z ]+\)", prompts.load_prompts(name)["preamble"]) == [str(n) for n in range(1, 17)]


def test_worked_examples_are_turns_that_read_back_and_name_their_principles() -> None:
    texts, form = prompts.load_prompts(LONG), load_answer_form(LONG)
    names = dict(re.findall(r"(\d+) \(([a-z ]+)\)", texts["preamble"]))
    turns = re.split(r"(?:^|\n\n)User: ", texts["examples"])[1:]
    assert len(turns) == 5
    for turn in turns:
        thoughts, answer = form.read(turn.partition("\nThoughts:")[2])
        assert thoughts and answer
        cited = re.findall(r"(\d+) \(([a-z ]+)\)", thoughts)
        assert cited and all(names[number] == name for number, name in cited)


def test_a_guide_s_worked_instructions_pass_the_rules_and_are_of_twenty_kinds() -> None:
    kinds = load_topic_guide("dromedary/topics").kinds
    assert len({kind.kind for kind in kinds}) == 20
    for kind in kinds:
        assert broken_rule(kind.instruction) is None and len(set(kind.topics)) == len(kind.topics) >= 3
        assert all(len(topic.split()) <= MAX_TOPIC_WORDS for topic in kind.topics)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("chat: Say it.", "asks for no answer: it needs chat with {instruction}, or turn"),
        ("turn: '{thoughts} {instruction}: '", "asks for no answer: it needs chat with {instruction}, or turn"),
        ("chat: '{instruction}'\nturn: '{instruction}'", "asks for no answer: it needs chat with"),
        ("chat: '{instruction} {thoughts} so:'", "asks for no answer: it needs chat with"),
        ("turn: 'Q: {instruction} {thoughts}\n'", "in turn nothing after {thoughts} marks the answer"),
        ("turn: [1]", "must map names to texts"),
    ],
)
def test_a_file_that_asks_for_no_answer_is_refused(text: str, wrong: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_answer_form(str(path))
    assert wrong in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


# --- answers


def test_under_principles_the_answer_follows_the_thoughts() -> None:
    engine = Heard()
    pairs = answered(engine, LONG)
    texts = prompts.load_prompts(LONG)
    head = f"{texts['preamble']}\n\n{texts['examples']}\n\n"
    assert engine.prompts == [
        f"{head}User: Name a river.\nThoughts:",
        f"{head}User: Sort.\nb, a\nThoughts:",
    ]
    assert {(pair.thoughts, pair.output, pair.finish) for pair in pairs} == {("Be true.", "The Rhine.", "stop")}
    # Without the form, the reply is not split.
    assert answered(Heard(), "chat")[0].output.startswith("Be true.\nAssistant:")


def test_a_verbose_prompt_is_the_user_s_turn() -> None:
    engine = Heard("At length.")
    assert answered(engine, "dromedary/verbose")[0].thoughts is None
    prompt = prompts.load_prompts("dromedary/verbose")["chat"].replace("{instruction}", "Sort.\nb, a")
    assert engine.prompts[1] == f"<|user|>{prompt}<|answer|>"


def test_a_file_of_one_s_own_may_ask_without_thoughts(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text('preamble: Be kind.\nturn: "Q: {instruction}\\nA:"\n')
    engine = Heard(" Yes.\nQ: No?")
    assert [(pair.thoughts, pair.output) for pair in answered(engine, str(path))] == [(None, "Yes.")] * 2
    assert engine.prompts[0] == "Be kind.\n\nQ: Name a river.\nA:"


@pytest.mark.parametrize(
    ("reply", "thoughts", "output"),
    [
        (" Be true.\nAssistant: The Rhine.", "Be true.", "The Rhine."),
        (" One.\nTwo.\nAssistant: The\n\nRhine. ", "One.\nTwo.", "The\n\nRhine."),
        ("\nAssistant: The Rhine.", "", "The Rhine."),
        (" Yes.\nAssistant: A.\nAssistant: B.", "Yes.", "A.\nAssistant: B."),
        (" Be true. The Rhine.", "Be true. The Rhine.", ""),
        (" Be true. Assistant: The Rhine.", "Be true. Assistant: The Rhine.", ""),
        (" Be true.\nAssistant: \n", "Be true.\nAssistant:", ""),
        ("", "", ""),
    ],
)
def test_a_reply_is_split_into_thoughts_and_answer(reply: str, thoughts: str, output: str) -> None:
    [pair, _] = answered(SeededFunctionEngine(lambda prompt, seed: reply), SHORT)
    assert (pair.thoughts, pair.output, pair.unanswered) == (thoughts, output, not output)


def test_a_pair_without_an_answer_is_dropped_whatever_the_rules_and_never_rated(tmp_path: Path) -> None:
    cut = answered(Heard(" I think and think."), SHORT, sampling={"max_tokens": 3})
    pairs = [*cut, *answered(Heard(" I think."), SHORT), *answered(Heard(), SHORT)]
    pairs = [pair.model_copy(update={"id": str(n)}) for n, pair in enumerate(pairs)]
    for on in (True, False):
        assert [(drop.row, drop.by, drop.why) for drop in find_drops(pairs, [], on, [])] == [
            *((str(n), "answer", "no answer after the thoughts (cut off)") for n in (0, 1)),
            *((str(n), "answer", "no answer after the thoughts") for n in (2, 3)),
        ]
    judge = Heard("9||good")
    settings = Assessment(batch_size=3)
    graded = grade_pairs(stage_context(tmp_path, judge), settings, pairs)
    assert [len(row.grades) for row in graded] == [0] * 4 + [2] * 2 and len(judge.prompts) == 4
    assert {drop.by for drop in find_drops(graded, [ScoreFilter(at_least=9)], True, [])} == {"answer"}


def test_the_perplexity_is_of_the_answer_after_its_thoughts(tmp_path: Path) -> None:
    engine, pairs = Heard(), [*answered(Heard(), SHORT), *answered(Heard(" Nothing."), SHORT)]
    rows = measure_perplexities(stage_context(tmp_path, engine, response={"prompt": SHORT}), pairs)
    head = prompts.load_prompts(SHORT)["preamble"]
    assert engine.scored[0] == (f"{head}\n\nUser: Name a river.\nThoughts: Be true.\nAssistant:", " The Rhine.")
    assert [row.output is None for row in rows] == [False, False, True, True]


# --- topics


def replies_of(*texts: str, finish: str = "stop") -> list[Reply]:
    return [Reply(id=f"t1-k00-{n:02d}", text=text, finish=finish, tokens=1) for n, text in enumerate(texts)]


def test_topics_are_read_by_kind_and_refused_ones_are_counted() -> None:
    guide = load_topic_guide("dromedary/topics")
    texts = [
        " a new stadium; THE stock  MARKET; the Moon\u2019s orbit (new).",
        " ; ###; {k}; <|end|>; 12; " + "very " * 7,
    ]
    texts += ["one; one; two words;"] + [""] * 17 + ["a new stadium; a newer one"]
    topics, refused = parse_topics(replies_of(*texts), guide)
    first = [list(kind.topics) for kind in guide.kinds]
    assert topics[0] == [*first[0], "a new stadium", "the Moon\u2019s orbit (new)", "a newer one"]
    assert topics[1:3] == [first[1], [*first[2], "one", "two words"]] and topics[3:] == first[3:]
    assert refused == 8
    cut, refused = parse_topics(replies_of("one; two wor", finish="length"), guide)
    assert cut[0] == [*first[0], "one"] and refused == 1


def test_a_model_continues_each_kind_s_list_in_fixed_batches(tmp_path: Path) -> None:
    guide, engine, resumed_engine = (
        load_topic_guide("dromedary/topics"),
        Heard(" a river; a lake\nKind"),
        Heard(" a river; a lake\nKind"),
    )
    rows = generate_topics(stage_context(tmp_path / "whole", engine), guide, 3)
    resumed = stage_context(tmp_path / "resumed", resumed_engine)
    write_killed_stage(resumed, "topics.jsonl", rows[:20])
    assert len(rows) == 60 == len(engine.prompts)
    assert generate_topics(resumed, guide, 3) == rows and len(resumed_engine.prompts) == 40
    assert rows[0].text == " a river; a lake" and [rows[0].id, rows[59].id] == ["t1-k00-00", "t1-k02-19"]
    assert engine.prompts[1].endswith(
        "Kind of question: asks what will happen\nTopics: house prices; the next election; a chess final;"
    )
    topics_by_kind = parse_topics(rows, guide)[0]
    assert all(topics[-2:] == ["a river", "a lake"] for topics in topics_by_kind)


SEEDS = [Task(id=f"s{n}", instruction=f"Tell me about word{n} and more.") for n in range(6)]


def synthesized(
    share: float | None, text: str, **changed: Any
) -> tuple[list[str], list[Reply], Synthesis, TopicPrompts | None]:
    """What is asked for 10 prompts, and the replies."""
    synthesis = {"tasks": 50, "batch_size": 4, "budget": 10, "examples": 3, **changed}
    context = stage_context(Path(), Heard(text), seed_tasks=SEEDS, seed=7, synthesis=synthesis)
    guide = load_topic_guide("dromedary/topics")
    topics = TopicPrompts(guide, [[f"topic{n}"] for n in range(20)], share, 3) if share else None
    rows = [row for batch in generate_replies(context, topics, []) for row in batch]
    return context.engine.prompts, rows, context.recipe.synthesis, topics  # type: ignore[attr-defined]


def guided(guide: Sequence[str]) -> list[bool]:
    return ["Topic: topic" in prompt for prompt in guide]


def test_a_share_of_the_prompts_is_guided_by_a_kind_and_a_topic() -> None:
    text = " Tell me all about the weather there.\n###\n"
    texts, rows, *_ = synthesized(0.5, text)
    assert guided(texts) == [False, False, True, True] * 2 + [False, True]
    assert sum(guided(synthesized(0.3, text)[0])) == 3 and all(guided(synthesized(1.0, text)[0]))
    assert not any(guided(synthesized(None, text)[0]))
    head, _, opened = texts[2].rpartition("###\n")
    match = re.fullmatch(r"4\. Kind: (.*)\n4\. Topic: topic(\d+)\n4\. Instruction:", opened)
    assert match and load_topic_guide("dromedary/topics").kinds[int(match[2])].kind == match[1]
    # A batch shares its examples.
    assert texts[3].startswith(head) and head.count("Input: <noinput>") == 3
    # The prompts of seed tasks do not depend on the topics.
    assert texts[0] == synthesized(None, text)[0][0]


def test_a_worked_instruction_of_the_guide_is_not_new() -> None:
    text = f" {load_topic_guide('dromedary/topics').kinds[4].instruction}\n###\n"
    with pytest.raises(UserError, match="none of 10 replies held a usable task .*too near a known text: 10"):
        synthesized(0.5, text)
    _, rows, settings, _ = synthesized(None, text)
    assert len(read_tasks(rows, SEEDS, settings, "en", 1)[0]) == 1


# --- the whole of it, on fakes

SETTINGS: dict[str, Any] = {
    "model": "fake",
    "iterations": 2,
    "synthesis": {"tasks": 8, "batch_size": 4, "novelty": None, "budget": 12, "topics": {"share": 0.5, "rounds": 2}},
    "response": {"batch_size": 4, "prompt": LONG},
    "assessment": None,
    "filters": [],
    "iteration": {
        2: {"synthesis": {"tasks_of": 1}, "response": {"prompt": "dromedary/verbose"}, "training": {"start": "last"}}
    },
}


class World:
    """Fakes at the doors: what each model is asked, and what each training starts from."""

    def __init__(self) -> None:
        self.asked: dict[Path | None, list[str]] = {}
        self.starts: list[Path | None] = []

    def open_engine(self, recipe: Recipe, model: Model) -> SeededFunctionEngine:
        def answer(prompt: str, seed: int) -> str:
            self.asked.setdefault(model.adapter, []).append(prompt)
            if prompt.endswith("Thoughts:"):
                return f" Think {seed}.\n" + "Assistant: Short." * (not prompt.endswith("7.\nThoughts:"))
            if prompt.endswith(";"):
                return " new topic; newer topic"
            return "Long." if prompt.endswith("<|answer|>") else f" Tell me about {seed % 10**6} and {seed % 10}."

        return SeededFunctionEngine(answer)

    def train(self, recipe: Recipe, chat: Any, start: Model, training_file: Path, seed: int, into: Path) -> None:
        self.starts.append(start.adapter)
        (into / "training.json").write_text(
            json.dumps({"rows": {"trained": len(read_training_file(training_file).rows)}})
        )

    def run(self, path: Path, **changed: Any) -> RunFolder:
        recipe = Recipe.model_validate({**SETTINGS, **changed})
        backend = Backend(self.open_engine, self.train, lambda name, model: FakeChat())  # type: ignore[arg-type, return-value]
        with open_run_for_writing(path, recipe) as folder:
            list(align(recipe, folder, backend=backend))
            return folder


@pytest.fixture
def world() -> World:
    return World()


def test_a_run_has_dromedary_s_four_stages(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = world.run(tmp_path / "run")
    first = tmp_path / "run/iter-1"
    base, engraved = world.asked[None], world.asked[first / "adapter"]
    # topics and tasks, in part for topics, which the model has written in part itself
    assert [prompt.endswith(";") for prompt in base[:40]] == [True] * 40
    assert "iteration 1: 40 new topics in 40 replies, 40 refused" in capsys.readouterr().err
    assert [bool(re.search(r"Topic: .*\n6\. Instruction:$", prompt)) for prompt in base[40:48]] == [
        False,
        False,
        True,
        True,
    ] * 2
    # answers under principles, and engraving: the thoughts and the principles are not trained on
    assert all(prompt.startswith(prompts.load_prompts(LONG)["preamble"]) for prompt in base[48:])
    tasks, pairs = folder / "iter-1", (folder / "iter-1").read("pairs.jsonl", Pair)
    silent = [pair.id for pair in pairs if pair.instruction.endswith("7.")]
    assert [pair.id for pair in pairs if pair.unanswered] == silent
    assert (folder / "iter-1").read("dropped.jsonl", Drop) == [
        Drop(row=id, by="answer", why="no answer after the thoughts") for id in silent
    ]
    trained = json.loads((first / "train.json").read_text())
    assert trained == [
        {"instruction": pair.instruction, "input": "", "output": "Short.", "finish": "stop"}
        for pair in pairs
        if not pair.unanswered
    ]
    # verbose cloning: the same tasks, no principles, from the engraved model and onto it
    verbose = prompts.load_prompts("dromedary/verbose")["chat"]
    again = tasks.read("tasks.jsonl", Task)
    assert engraved == [f"<|user|>{verbose.replace('{instruction}', task.content)}<|answer|>" for task in again]
    assert {path.name for path in (tmp_path / "run/iter-2").glob("*.jsonl")} == {
        "tasks.jsonl",
        "pairs.jsonl",
        "dropped.jsonl",
    }
    assert (tmp_path / "run/iter-2/tasks.jsonl").read_bytes() == (first / "tasks.jsonl").read_bytes()
    cloned = json.loads((tmp_path / "run/iter-2/train.json").read_text())
    assert cloned == [
        {"instruction": task.instruction, "input": "", "output": "Long.", "finish": "stop"} for task in again
    ]
    assert world.starts == [None, first / "adapter"]


def test_every_iteration_may_have_settings_of_its_own(world: World, tmp_path: Path) -> None:
    """Each key of iteration 2 by itself changes what it says, and nothing else does."""
    world.run(tmp_path / "plain", iteration={})
    assert (tmp_path / "plain/iter-2/replies.jsonl").exists() and world.starts == [None, None]
    world.run(tmp_path / "tasks", iteration={2: {"synthesis": {"tasks_of": 1}}})
    assert not (tmp_path / "tasks/iter-2/replies.jsonl").exists()
    assert all(prompt.endswith("Thoughts:") for prompt in world.asked[tmp_path / "tasks/iter-1/adapter"])
    world.run(tmp_path / "start", iteration={2: {"training": {"start": "last"}}})
    assert world.starts[-1] == tmp_path / "start/iter-1/adapter"
    world.run(tmp_path / "prompt", iteration={2: {"response": {"prompt": "dromedary/verbose"}}})
    assert sum(prompt.endswith("<|answer|>") for prompt in world.asked[tmp_path / "prompt/iter-1/adapter"]) == 8


def test_topics_may_be_of_a_file_of_one_s_own(world: World, tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    kinds = [{"kind": "sings", "topics": [f"bird {n}"], "instruction": f"Sing to me of bird {n}."} for n in range(5)]
    own.write_text(yaml.safe_dump({**prompts.read_prompt_file("dromedary/topics"), "kinds": kinds}))
    synthesis = {**SETTINGS["synthesis"], "topics": {"file": str(own), "share": 1.0, "rounds": 1}}
    folder = world.run(tmp_path / "run", synthesis=synthesis)
    assert all(world.asked[None][n].endswith(f"sings\nTopics: bird {n};") for n in range(5))
    assert all("6. Kind: sings\n" in prompt for prompt in world.asked[None][5:13])
    assert yaml.safe_load((folder.path / "prompts.yaml").read_text()) == {str(own): own.read_text()}


def test_the_seeds_are_enough_for_every_iteration(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="seed tasks .* found, 999 needed for one prompt"):
        world.run(tmp_path / "run", iteration={2: {"synthesis": {"examples": 999, "topics": None}}})


def test_pairs_without_an_answer_are_counted_and_shown(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = world.run(tmp_path / "run", synthesis={**SETTINGS["synthesis"], "tasks": 12}, seed=3)
    number = sum(pair.unanswered for pair in (folder / "iter-1").read("pairs.jsonl", Pair))
    assert number and count_rows(folder, 1).unanswered == number and count_rows(folder, 2).unanswered is None
    for words, expected in (
        (["status", str(folder.path)], rf"unreadable answers +{number} +-"),
        (["show", str(folder.path), "1", "--dropped"], rf"dropped by answer: {number}"),
        (["show", str(folder.path), "1", "--dropped"], r"thoughts: Think \d+\.\n +output: \(no answer\)"),
        (["show", str(folder.path), "2"], r"instruction: Tell me .*\n +output: Long\."),
    ):
        with pytest.raises(SystemExit):
            main(words)
        assert re.search(expected, capsys.readouterr().out), expected


class SilentWorld(World):
    """Models that never write an answer after their thoughts."""

    def open_engine(self, recipe: Recipe, model: Model) -> SeededFunctionEngine:
        return SeededFunctionEngine(lambda prompt, seed: f" Tell me {seed}")


def test_a_run_without_any_answer_ends_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"0 of 8 pairs left .*dropped by: answer 8;"):
        SilentWorld().run(tmp_path / "run", synthesis={**SETTINGS["synthesis"], "rules": False, "topics": None})


@pytest.mark.parametrize("share", [0.05, 0.4, 0.8])
def test_a_run_that_is_killed_and_started_again_has_the_same_files(
    undisturbed: Path, tmp_path: Path, share: float
) -> None:
    out = tmp_path / "killed"
    assert run_until_killed(out, 1 + int(share * count_moments(undisturbed)), "dromedary") == -signal.SIGKILL
    assert run_until_killed(out, 3, "dromedary") == -signal.SIGKILL
    assert run_until_killed(out, 0, "dromedary") == 0
    assert hash_files(out) == hash_files(undisturbed)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert run_until_killed(out, 0, "dromedary") == 0
    assert {"iter-1/topics.jsonl", "iter-2/adapter/weights"} <= hash_files(out).keys()
    return out


# --- real models


@pytest.mark.numeric
def test_lamb_answers_under_the_short_principles(tmp_path: Path) -> None:
    """It has read pages of this form: nearly all of its replies hold an answer."""
    from isheep.engines.transformers import open_engine
    from isheep.lamb.pages import content
    from isheep.lamb.suite import validation
    from isheep.models.chat_template import load_chat_template

    tasks = [Task(id=str(n), instruction=content(quest)) for n, quest in enumerate(validation()[:32])]
    response = {"prompt": SHORT, "sampling": {"top_p": 1.0, "max_tokens": 96}}
    engine = open_engine(Model("lamb"), threads=1, device="cpu")
    chat = load_chat_template("tokenizer", "lamb")
    pairs = respond(stage_context(tmp_path, engine, chat=chat, response=response), tasks)
    assert sum(pair.unanswered for pair in pairs) <= 4 and all("Assistant:" not in pair.output for pair in pairs)


def test_a_prompt_that_does_not_fit_lamb_is_refused_before_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for verb, name in (("run", "lamb/dromedary"), ("sweep", str(tmp_path / "sweep.yaml"))):
        (tmp_path / "sweep.yaml").write_text("model: lamb\ngrid: {seed: [1, 2]}\n")
        with pytest.raises(SystemExit) as end:
            main([verb, name, "--out", str(tmp_path / "run"), f"response.prompt={LONG}"])
        error = capsys.readouterr().err
        assert end.value.code == 2 and error.count("\n") == 1 and not (tmp_path / "run").exists()
        assert re.match(rf"isheep: response.prompt '{LONG}' has 1\d\d\d tokens .* and 'lamb' reads 1024: take", error)


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lamb with a context that it was never trained on: it reads the long principles, and writes noise after them."""
    folder = tmp_path_factory.mktemp("base") / "far"
    shutil.copytree(LAMB_CHECKPOINT, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    return folder


SMALL = [
    "synthesis={tasks: 12, batch_size: 8, novelty: null, sampling: {max_tokens: 48}, topics: {share: 0.5, rounds: 1}}",
    "response={batch_size: 12, sampling: {temperature: 3.0, top_p: 1.0, max_tokens: 24}}",
    "training={epochs: 1, batch_size: 4, eval_every: 1}",
    *("evaluation=[]", "filters=[]", "machine.threads=1", "machine.device=cpu"),
]


@pytest.mark.numeric
def test_the_long_principles_run_end_to_end_on_noise(
    far: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All four stages through the command line; a letter marks the answer, which noise writes now and then."""
    prompt_file = tmp_path / "mine.yaml"
    turn = {"turn": "User: {instruction}\nThoughts: {thoughts}e"}
    prompt_file.write_text(yaml.safe_dump(prompts.load_prompts(LONG) | turn))
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as end:
        main(["run", "lamb/dromedary", f"model={far}", *SMALL, f"response.prompt={prompt_file}", "--out", str(out)])
    assert end.value.code in (0, None), capsys.readouterr().err
    folder = RunFolder(out, out)
    pairs = (folder / "iter-1").read("pairs.jsonl", Pair)
    dropped = {drop.row for drop in (folder / "iter-1").read("dropped.jsonl", Drop) if drop.by == "answer"}
    assert {pair.id for pair in pairs if pair.unanswered} == dropped and 0 < len(dropped) < 11
    assert len((folder / "iter-1").read("topics.jsonl", Reply)) == 20
    assert [p.id for p in (folder / "iter-2").read("pairs.jsonl", Pair)] == [p.id for p in pairs]
    adapters = [out / f"iter-{t}/adapter/adapter_model.safetensors" for t in (1, 2)]
    assert adapters[0].read_bytes() != adapters[1].read_bytes()
    assert yaml.safe_load((out / "prompts.yaml").read_text()) == {str(prompt_file): prompt_file.read_text()}


def test_a_model_that_never_answers_under_principles_ends_the_run_with_an_error(
    far: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(
            ["run", "lamb/dromedary", f"model={far}", *SMALL, f"response.prompt={LONG}", "--out", str(tmp_path / "run")]
        )
    assert end.value.code == 2
    assert "0 of 12 pairs left to train on, and training needs 2 (dropped by: answer 12;" in capsys.readouterr().err
