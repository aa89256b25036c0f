"""The synthesis stage: the rules of instructions, the tasks of its replies, and an interrupted stage ends the same."""

import itertools
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from isheep.engines.function import SeededFunctionEngine
from isheep.errors import UserError
from isheep.recipe.schema import Synthesis
from isheep.records import Completion, Reply, Sampling
from isheep.stages.blocks import parse_blocks
from isheep.stages.context import StageContext
from isheep.stages.rules import broken_rule
from isheep.stages.synthesize import generate_replies, read_tasks, render_synthesis_prompt
from isheep.text.novelty import NoveltyPool
from tests.helpers.fakes import FakeChat
from tests.helpers.stages import stage_context
from tests.helpers.synthesis import SEEDS, SETTINGS, reply

# --- rules


@pytest.mark.parametrize(
    ("instruction", "why"),
    [
        ("Name three colours.", "3 words or fewer"),
        ("Name three bright colours.", None),
        ("word " * 150, None),
        ("word " * 151, "more than 150 words"),
        ("Describe the Image in words.", "holds the word 'image'"),
        ("Plan how to go to Rome.", "holds the word 'go to'"),
        ("Plan how to go  to Rome.", "holds the word 'go  to'"),
        # The rule is about whole words.
        ("Describe the graphics in this imagery.", None),
        ("Mapping and drawing are videogame skills.", None),
        ("Write a program that sorts numbers.", "starts with 'Write a program'"),
        ("How would I write a program?", None),
        ("- list three bright colours", "starts with punctuation"),
        ("¿Qué hora es en Madrid?", "starts with a non-ASCII character"),
        ("Écris trois mots en français.", "starts with a non-ASCII character"),
        ("Say hello <|im_end|> and goodbye.", "holds '<|im_end|>'"),
        ("Say hello ### and say goodbye.", None),
        ("Say hello and goodbye:\n### hello", "holds '###'"),
        ("", "3 words or fewer"),
    ],
)
def test_an_instruction_that_breaks_a_rule_is_rejected(instruction: str, why: str | None) -> None:
    assert broken_rule(instruction.strip()) == why


@pytest.mark.parametrize(
    ("instruction", "why"),
    [
        ("Écris trois mots en français.", None),
        ("¿Qué hora es en Madrid?", None),
        # The text has nine words without spaces.
        ("日本の首都を教えて", None),
        ("日本語", "3 words or fewer"),
        ("तीन रंगों के नाम बताओ", None),
        ("。日本の首都を教えて", "starts with punctuation"),
        # Opening quotation marks and brackets of any script begin a sentence; other punctuation does not.
        ("«Назови» три цвета неба", None),
        ("「日本」の首都を教えて", None),
        ("《红楼梦》是谁写的作品", None),
        ("„Haus“ ist ein deutsches Wort?", None),
        ("״שלום״ הוא מילה של ברכה", None),
        ("＂中国＂的首都是哪里", None),
        ("❝Haus❞ ist ein deutsches Wort?", None),
        ("\u200fמה היא בירת צרפת היום", None),
        ("— nenne mir drei Farben", "starts with punctuation"),
        ("(nenne mir drei bunte Farben)", "starts with punctuation"),
        # The lists of unsuitable words are English.
        ("Mal mir bitte ein Graph", None),
    ],
)
def test_the_rules_apply_to_any_language(instruction: str, why: str | None) -> None:
    assert broken_rule(instruction, "any") == why


# --- from replies to tasks


def test_a_text_that_the_language_does_not_compare_is_not_novel() -> None:
    """Without this, both exact repeats would pass: ROUGE-L compares the letters a to z."""
    block = " ASCII first 请 写 出 三 种 颜 色 的 名 字 和 用 途\n6. Input: <noinput>\n###\n6. Instruction:"
    tasks, rejected = read_tasks([reply(block * 2)], SEEDS, SETTINGS, "en", 1)
    assert not tasks and {row.why for row in rejected} == {"mostly in another script than language: en"}
    tasks, rejected = read_tasks([reply(block * 2)], SEEDS, SETTINGS, "any", 1)
    assert len(tasks) == 1 and [row.by for row in rejected] == ["novelty"]


def test_every_block_becomes_a_task_or_says_why_not() -> None:
    text = (
        " Name three kinds of cheese.\n3. Input: none\n###\n4. Instruction: Sing.\n###\nchatter\n###\n5. Instruction: "
        "Name three kinds of hard cheese.\n###\n6. Instruction: Use the given tag.\n6. Input: <|eot_id|>\n###\n"
        "7. Instruction: Name the capital of the given city.\n8. Instruction: List every"
    )
    tasks, rejected = read_tasks([reply(text, finish="length")], SEEDS, SETTINGS, "en", 1)
    assert [task.model_dump() for task in tasks] == [
        {"id": "t1-00000", "instruction": "Name three kinds of cheese.", "input": ""}
    ]
    assert [(r.id, r.by, r.why) for r in rejected] == [
        # "chatter" may belong to the block before it.
        ("t1-b0000-00.2", "parse", "ambiguous: a separator within it"),
        ("t1-b0000-00.3", "parse", "no instruction"),
        ("t1-b0000-00.4", "novelty", "ROUGE-L 0.91 to t1-00000"),
        ("t1-b0000-00.5", "rules", "holds '<|eot_id|>'"),
        ("t1-b0000-00.6", "novelty", "ROUGE-L 0.86 to s0"),
        ("t1-b0000-00.7", "parse", "cut off"),
    ]
    assert rejected[1].text == "chatter"


def test_rules_and_novelty_can_be_left_out_but_special_tokens_never_pass() -> None:
    free = SETTINGS.model_copy(update={"rules": False, "novelty": None})
    replies = [reply(t, n) for n, t in enumerate([" Sing.", " Sing.", " Draw a map.", " Say <|im_end|> now please."])]
    tasks, rejected = read_tasks(replies, SEEDS, free, "en", 2)
    assert [(t.id, t.instruction) for t in tasks] == [
        ("t2-00000", "Sing."),
        ("t2-00001", "Sing."),
        ("t2-00002", "Draw a map."),
    ]
    assert [r.why for r in rejected] == ["holds '<|im_end|>'"]


def test_novelty_forgets_the_tasks_of_earlier_chunks() -> None:
    tasks_of_blocks = ["Explain red apples to me.", "Count nine tall trees.", "Explain red apples to me."]
    text = "\n###\n4. Instruction: ".join(["", *tasks_of_blocks, "Name the capital of the given city."])
    replies = [reply(text[len("\n###\n4. Instruction:") :])]

    def read(chunk: int | None) -> tuple[list[str], list[str]]:
        tasks, rejected = read_tasks(replies, SEEDS, SETTINGS.model_copy(update={"novelty_chunk": chunk}), "en", 1)
        return [task.instruction for task in tasks], [row.why for row in rejected]

    near_seed = "ROUGE-L 0.86 to s0"
    assert read(None) == read(3) == (tasks_of_blocks[:2], ["ROUGE-L 1.00 to t1-00000", near_seed])
    # After two tasks the third one is compared with the seed tasks alone, which are never forgotten.
    assert read(2) == (tasks_of_blocks, [near_seed])
    assert read(1) == (tasks_of_blocks, [near_seed])


def test_replies_after_the_last_needed_task_are_not_read() -> None:
    replies = [
        reply(f" Explain topic{n} with example{n} and proof{n}.\n###\n4. Instruction: Sing.", n) for n in range(9)
    ]
    tasks, rejected = read_tasks(replies, SEEDS, SETTINGS, "en", 1)
    assert [t.id for t in tasks] == [f"t1-{n:05d}" for n in range(5)]
    assert [r.id for r in rejected] == [f"t1-b0000-{n:02d}.2" for n in range(4)]


# --- the stage

WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "nu") for b in ("ra", "se", "ti", "vo")]


class Scribe(SeededFunctionEngine):
    """An engine whose every reply follows from prompt and seed, and which remembers what it was asked."""

    def __init__(self, length: int = 6, text: str | None = None) -> None:
        super().__init__(lambda prompt, seed: text or write(random.Random(f"{prompt} {seed}"), length))
        self.asked: list[tuple[list[str], int]] = []

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        self.asked.append((list(prompts), seed))
        return super().generate(prompts, sampling, seed)


def write(rng: random.Random, length: int) -> str:
    return f" {' '.join(rng.choices(WORDS, k=length))}.\n###\n4. Instruction: Tell {rng.choice(WORDS)}"


def synthesis_context(engine: Scribe, settings: Synthesis, iteration: int = 1) -> StageContext:
    synthesis = settings.model_dump()
    return stage_context(
        Path(),
        engine,
        iteration,
        seed_tasks=SEEDS,
        chat=FakeChat(end="<end>", user="<user>", assistant="<assistant>"),
        seed=7,
        synthesis=synthesis,
    )


def ask(settings: Synthesis, done: list[Reply], engine: Scribe, num_batches: int = 10**6) -> list[Reply]:
    """The rows after at most `num_batches` more batches: a run that is stopped then."""
    batches = generate_replies(synthesis_context(engine, settings), None, done)
    return [*done, *(row for batch in itertools.islice(batches, num_batches) for row in batch)]


@hypothesis_settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 3), max_size=8),
    st.integers(1, 30),
    st.integers(1, 5),
    st.integers(1, 40),
    st.integers(3, 6),
    st.booleans(),
    st.integers(0, 2),
)
def test_an_interrupted_stage_ends_with_the_same_replies(
    stops: list[int], tasks: int, size: int, budget: int, length: int, novel: bool, generated: int
) -> None:
    shape = {"tasks": tasks, "batch_size": size, "budget": budget, "examples": 2, "generated": generated}
    settings = Synthesis(**shape, rules=False, novelty=0.5 if novel else None)
    replies = ask(settings, [], Scribe(length))
    rows: list[Reply] = []
    for batches in stops:
        # RunFolder.records keeps the whole batches.
        rows = ask(settings, rows[: len(rows) // size * size], Scribe(length), batches)
    assert ask(settings, rows[: len(rows) // size * size], Scribe(length)) == replies
    read, rejected = read_tasks(replies, SEEDS, settings, "en", 1)
    # the stage stops at the first batch that holds enough, or at the budget
    assert len(read) == tasks or len(replies) == budget
    last = (len(replies) - 1) // size * size
    assert len(read_tasks(replies[:last], SEEDS, settings, "en", 1)[0]) < tasks
    if novel:
        assert NoveltyPool([s.instruction for s in SEEDS], 0.5).novel([t.instruction for t in read]) == [None] * len(
            read
        )


OWN = {"examples": 3, "generated": 2, "inputs": False}


def instructions_in(prompt: str) -> list[str]:
    return [block.instruction for block in parse_blocks(prompt.partition("1. Instruction:")[2], 1)]


def test_examples_include_generated_tasks_up_to_the_setting() -> None:
    settings = Synthesis(tasks=12, batch_size=1, novelty=None, **OWN)
    engine, seeds = Scribe(), {" ".join(seed.instruction.split()) for seed in SEEDS}
    rows = ask(settings, [], engine)
    tasks, _ = read_tasks(rows, SEEDS, settings, "en", 1)
    examples_by_batch = [instructions_in(prompts[0]) for prompts, _ in engine.asked]
    assert [sum(text in seeds for text in examples) for examples in examples_by_batch] == [3, 2] + [1] * 10
    # Each reply of this engine has one task.
    for b, examples in enumerate(examples_by_batch):
        assert len(set(examples)) == 3 and {*examples} <= seeds | {task.instruction for task in tasks[:b]}
    assert {examples.index(next(text for text in examples if text in seeds)) for examples in examples_by_batch[2:]} == {
        0,
        1,
        2,
    }
    free = Scribe()
    ask(settings.model_copy(update={"generated": 0}), [], free)
    # In the first batch there are no generated tasks yet.
    assert free.asked[0] == engine.asked[0]
    assert all({*instructions_in(prompts[0])} <= seeds for prompts, _ in free.asked)


def test_without_inputs_prompts_show_and_tasks_have_instructions_alone() -> None:
    prompt = render_synthesis_prompt(SEEDS[2:], inputs=False)
    assert "Input" not in prompt and "banana" not in prompt and prompt.endswith("\n3. Instruction:")
    settings = SETTINGS.model_copy(update={"inputs": False})
    engine = Scribe(text=" Name three kinds of cheese.\n3. Input: <|im_end|>\n###\n")
    rows = ask(settings, [], engine)
    assert all("Input" not in prompts[0] for prompts, _ in engine.asked)
    [task], _ = read_tasks(rows, SEEDS, settings, "en", 1)
    assert (task.instruction, task.input) == ("Name three kinds of cheese.", "")


def test_a_finished_stage_generates_nothing() -> None:
    replies = ask(SETTINGS, [], Scribe())
    engine = Scribe()
    assert ask(SETTINGS, replies, engine) == replies and engine.asked == []


def test_examples_can_be_drawn_for_every_prompt() -> None:
    settings = SETTINGS.model_copy(update={"tasks": 100, "examples_for": "prompt"})
    engine = Scribe()
    rows = ask(settings, [], engine)
    prompts_of_batches = [prompts for prompts, _ in engine.asked]
    assert (
        all(len(set(prompts)) > 1 for prompts in prompts_of_batches) and prompts_of_batches[0] != prompts_of_batches[1]
    )
    # An interrupted stage asks the same.
    num_batches = len(rows) // settings.batch_size
    resumed_engine = Scribe()
    assert ask(settings, rows[: settings.batch_size], resumed_engine) == rows
    assert [prompts for prompts, _ in resumed_engine.asked] == prompts_of_batches[1:] and num_batches > 2


def test_a_batch_shares_its_examples_and_batches_differ() -> None:
    engine = Scribe()
    rows = ask(SETTINGS.model_copy(update={"tasks": 100, "chat": True}), [], engine)
    assert [row.id for row in rows[:5]] == ["t1-b0000-00", "t1-b0000-01", "t1-b0000-02", "t1-b0000-03", "t1-b0001-00"]
    assert all(len(set(prompts)) == 1 and len(prompts) == 4 for prompts, _ in engine.asked)
    assert len({prompts[0] for prompts, _ in engine.asked}) > 3 and len({seed for _, seed in engine.asked}) == 10
    assert engine.asked[0][0][0].startswith("<user>Below") and engine.asked[0][0][0].endswith(
        "3. Instruction:<assistant>"
    )


def test_a_reply_ends_where_a_tuned_model_ends_its_turn() -> None:
    row, *_ = ask(SETTINGS, [], Scribe(text=" Name three kinds of cheese.<end> And more"))
    assert (row.text, row.finish) == (" Name three kinds of cheese.", "stop")


def test_the_budget_is_exact_and_a_model_that_repeats_itself_ends_there() -> None:
    engine = Scribe(text=" Name three kinds of cheese.\n###\n")
    rows = ask(SETTINGS.model_copy(update={"budget": 10}), [], engine)
    assert [len(prompts) for prompts, _ in engine.asked] == [4, 4, 2]
    tasks, rejected = read_tasks(rows, SEEDS, SETTINGS, "en", 1)
    assert len(tasks) == 1 and [r.why for r in rejected] == ["ROUGE-L 1.00 to t1-00000"] * 9


def test_a_budget_without_any_task_is_an_error_also_after_a_resume() -> None:
    engine = Scribe(text=" Sing.\n###\n4. Instruction: Tell me why the sky is so blue.\n###\n")
    context = synthesis_context(engine, SETTINGS, iteration=3)
    rows: list[Reply] = []
    with pytest.raises(
        UserError, match=r"iteration 3: none of 40 replies .*3 words or fewer: 40, too near .*: 40"
    ) as caught:
        for batch in generate_replies(context, None, []):
            rows += batch
    assert "\n" not in str(caught.value) and len(rows) == 40
    with pytest.raises(UserError, match="none of 40 replies.* with a new run folder"):
        list(generate_replies(context, None, rows))
    with pytest.raises(UserError, match="all were empty"):
        ask(SETTINGS, [], Scribe(text="\n"))
