"""Synthesis prompts: they read back as their tasks, and any reply to one can be read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isheep.prompts import fill_template
from isheep.stages.blocks import parse_blocks
from isheep.stages.synthesize import read_tasks, render_synthesis_prompt
from tests.helpers.synthesis import SEEDS, SETTINGS, reply

# --- render and parse


def test_a_prompt_ends_with_the_open_number_and_reads_back_as_its_tasks() -> None:
    prompt = render_synthesis_prompt(SEEDS)
    assert prompt.endswith(
        "apple\n###\n4. Instruction: Rewrite the sentence in the past tense:\n4. Input: I run.\n###\n5. Instruction:"
    )
    blocks = parse_blocks(prompt.partition("1. Instruction:")[2], 1)
    assert [(b.instruction, b.input) for b in blocks] == [(" ".join(s.instruction.split()), s.input) for s in SEEDS]
    assert "2. Input: <noinput>" in prompt


A, B = ("Name three kinds of cheese.", ""), ("Translate the word into French.", "house")

# {A} and {B} stand for the instructions.
READS = {
    "as asked": " {A}\n6. Input: <noinput>\n###\n7. Instruction: {B}\n7. Input: house\n###\n",
    "numbers without separators": "{A}\n6. Input: none\n7. Instruction: {B}\n7. Input: house",
    "no input line": " {A}\n###\n7. Instruction: {B}\n7. Input: house",
    "wrong numbers": " {A}\n2. Input: N/A\n### 2. Instruction: {B}\n99. Input: house",
    "no numbers": " {A}\nInput: (None).\nInstruction: {B}\nInput: house",
    "other case": " {A}\n6. INPUT: <NoInput>\n###\n7.instruction : {B}\n7) input: house",
    "outputs": " {A}\n6. Input: no input\n6. Output: Brie.\nInput: x\n7. Instruction: {B}\n7. Input: house\nOutput: m",
    "carriage returns": " {A}\r\n6. Input:\r\n###\r\n7. Instruction: {B}\r\n7. Input: house\r\n",
    "first label again": "\n6. Instruction: {A}\n6. Input: <noinput>\n###\n7. Instruction: {B}\n7. Input: house",
    "empty sections": " {A}\n6. Input: <noinput> ok\n####\n\n##### 7. Instruction: {B}\n7. Input: house",
    "full-width signs": " {A}\n6．Input：<noinput>\n###\n7、Instruction：{B}\n7）Input：house",
    "text between label and colon": " {A}\n6 . Input : <noinput>\n###\n7 ) Instruction : {B}\n7. Input: house",
}


@pytest.mark.parametrize("form", READS)
def test_a_reply_reads_the_same_in_every_form(form: str) -> None:
    blocks = parse_blocks(fill_template(READS[form], A=A[0], B=B[0]), 6)
    assert [(b.instruction, b.input, b.cut) for b in blocks] == [(*A, False), (*B, False)]


@pytest.mark.parametrize(
    ("text", "instruction", "input"),
    [
        ("Explain what a heading with ### means.", "Explain what a heading with ### means.", ""),
        ("Say what 7. Input means.\n6. Input: 4 ### 5", "Say what 7. Input means.", "4 ### 5"),
        # A label without a number is text where a numbered one of its block follows.
        ("Solve the puzzle.\ninput: 5\noutput: 6\n6. Input: 7", "Solve the puzzle.\ninput: 5\noutput: 6", "7"),
        ("Read the log.\n6. Input: start\ninput: 5", "Read the log.", "start\ninput: 5"),
        ("Read the log.\nInput: start\nOutput: end", "Read the log.", "start"),
        ("Read the log.\n６．Input：start\n６．Output：end", "Read the log.", "start"),
        ("Read the log.\n٦. Input: start\n٦. Output: end", "Read the log.", "start"),
        ("Add the 2 inputs: 3 and 4.\n6. Input: start", "Add the 2 inputs: 3 and 4.", "start"),
    ],
)  # fmt: skip
def test_only_labels_and_separators_at_the_start_of_a_line_count(text: str, instruction: str, input: str) -> None:
    [block] = parse_blocks(f" {text}\n###\n", 6)
    assert (block.instruction, block.input, block.ambiguous) == (instruction, input, "")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Name a cheese. 6. Input: <noinput> ### 7. Instruction: Name a river.", "ambiguous: a label within a line"),
        ("Name a cheese. ### 7. Instruction: Name a river.", "ambiguous: a label within a line"),
        ("Name a cheese.\n6. Input: soft 6. Output: Brie", "ambiguous: a label within a line"),
        ("Name a cheese.\n6. Input: house\n6. Input: garden", "ambiguous: two labels 'input'"),
        ("Rewrite the request.\nInstruction: be brief", "ambiguous: two labels 'instruction'"),
        ("Summarize the text below.\n6. Input: Title\n### Heading\nA text.", "holds '###'"),
        ("Explain what the markdown means\n###\n6. Input: foo\n6. Output: bar", "ambiguous: a separator within it"),
        ("Convert it to HTML.\n6. Input: # Title\n###\nA text.", "ambiguous: a separator within it"),
        ("Translate it.\n6. Input: A manual:\nInstruction: press\n6. Output: x", "ambiguous: two labels 'instruction'"),
        ("Write a short story about\ninput: the thing\nInput: real\nOutput: o", "ambiguous: two labels 'input'"),
        ("Convert this log.\n6. Input: one\n8. Output: fake\nrest\n6. Output: z", "ambiguous: two labels 'output'"),
        ("Translate it.\n6. **Input:** Good day\n6. **Output:** Bonjour", "ambiguous: a label within a line"),
        ("Translate it.\n**Input:** Good day", "ambiguous: a label within a line"),
        ("Translate it.\n**6．Input：** Good day", "ambiguous: a label within a line"),
        ("Translate it.\n> (6) Input: Good day", "ambiguous: a label within a line"),
        ("Translate it.\n6. Inputs: Good day\n6. Outputs: Bonjour", "ambiguous: a label within a line"),
        ("Instruction: Translate the words below.\n6. Input: Good day", "ambiguous: a label within a line"),
        ("Name a cheese. ###", "ambiguous: a separator within a line"),
        ("Translate it.\n6. Input: Good day ####", "ambiguous: a separator within a line"),
    ],
)
def test_what_is_ambiguous_is_rejected_whole(text: str, why: str) -> None:
    replies = [reply(f" {text}\n###\n7. Instruction: Name three kinds of bread.\n")]
    tasks, rejected = read_tasks(replies, SEEDS, SETTINGS.model_copy(update={"examples": 5}), "en", 1)
    assert [task.instruction for task in tasks] == ["Name three kinds of bread."]
    # A piece behind a separator is rejected by itself.
    assert rejected[0].why == why and all(row.why == "no instruction" for row in rejected[1:])
    assert text.split()[-1] in rejected[-1].text


def test_endless_repeats_are_blocks_for_novelty_to_judge() -> None:
    blocks = parse_blocks(" Say it again and again.\n6. Input: <noinput>\n###\n6. Instruction:" * 300, 6, cut=True)
    assert {b.instruction for b in blocks} == {"Say it again and again."} and len(blocks) == 300


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" Name three kinds of che", []),
        (" Name three kinds of cheese.\n6. Inp", []),
        # The input may have been cut off.
        (" Name three kinds of cheese.\n6. Input: <noinput>", []),
        (" Name three kinds of cheese.\n6. Input: <noinput>\n###", [A]),
        (" Name three kinds of cheese.\n6. Input: <noinput>\n###\n7", [A]),
        (" Name three kinds of cheese.\n6. Input: <noinput>\n###\n7. Instruction: Trans", [A]),
        (" Name three kinds of cheese.\n6. Output: Brie, Goud", [A]),
        ("", []),
    ],
)
def test_only_the_last_block_of_a_reply_that_was_cut_off_is_lost(text: str, expected: list[tuple[str, str]]) -> None:
    assert [(b.instruction, b.input) for b in parse_blocks(text, 6, cut=True) if not b.cut] == expected


MARKS = [
    "###",
    "#",
    "\n",
    "\r\n",
    "6. ",
    "7.",
    "99)",
    "Instruction:",
    "instruction :",
    "Input:",
    "Output:",
    "none",
    " ",
]
FRAGMENT = st.one_of(st.sampled_from(MARKS), st.text(max_size=8))


@given(st.lists(FRAGMENT, max_size=20).map("".join), st.booleans())
def test_any_text_can_be_read(text: str, cut: bool) -> None:
    blocks = parse_blocks(text, 6, cut)
    for block in blocks:
        assert block.text and block.instruction == block.instruction.strip()
    assert sum(block.cut for block in blocks) <= cut
