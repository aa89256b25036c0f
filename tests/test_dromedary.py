"""Dromedary's stages: topics for new tasks, answers after thoughts under principles, engraving, verbose cloning."""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from isheep import prompts
from isheep.engines.function import SeededFunctionEngine
from isheep.errors import UserError
from isheep.filters.score import ScoreFilter
from isheep.prompts.forms import load_answer_form, load_topic_guide
from isheep.recipe.schema import Assessment, Synthesis
from isheep.records import Completion, Pair, Reply, Sampling, Task
from isheep.stages.assess import grade_pairs
from isheep.stages.filters import find_drops
from isheep.stages.measure import measure_perplexities
from isheep.stages.respond import respond
from isheep.stages.rules import broken_rule
from isheep.stages.synthesize import generate_replies, read_tasks
from isheep.stages.topics import MAX_TOPIC_WORDS, TopicPrompts, generate_topics, parse_topics
from tests.helpers.dromedary import LONG, SHORT
from tests.helpers.stages import stage_context, write_killed_stage

TASKS = [Task(id="t1-0", instruction="Name a river.", input=""), Task(id="t1-1", instruction="Sort.", input="b, a")]


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
