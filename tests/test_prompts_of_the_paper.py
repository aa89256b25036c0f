"""The assessment prompts are those of the paper's Appendix A, byte for byte."""

import re
from pathlib import Path

import pytest

from isheep.prompts import load_prompts

PAPER = Path(__file__).parents[2] / "shared" / "paper" / "i-sheep.txt"


@pytest.fixture(scope="module")
def appendix() -> str:
    if not PAPER.exists():
        pytest.skip("the text of the paper is not beside this checkout")
    text = PAPER.read_text(encoding="utf-8")
    return text[text.index("A Self-Assessment Prompt Content") : text.index("B Case Study")]


def as_template(text: str) -> str:
    """Return a prompt of the paper in our form: a line break for its \\n, and our names of the fields."""
    text = text.replace("\\n", "\n").replace("{output_data}", "{output}").replace("{Output_data}", "{output}")
    return text.replace("{Instruction}", "{instruction}")


def test_simple_and_combined_prompts(appendix: str) -> None:
    quoted = re.findall("^Here are the instruction.*is:$", appendix, re.MULTILINE)
    packaged = [
        load_prompts(name)[criterion] for name in ("simple", "combined") for criterion in ("quality", "following")
    ]
    assert [as_template(text) for text in quoted] == packaged


def test_icl_prompt(appendix: str) -> None:
    """The template puts a full stop after each answer, also after one that ends with a full stop."""
    examples, template = re.search("^(Instruction1: .*) ICL Prompt (.*)$", appendix, re.MULTILINE).groups()
    fields = r"Instruction\d: (.*?) Output_?\s?data\d: (.*?) Score\d: ?(\d+) Explanation\d: (.*?)(?= Example \d|$)"
    values = re.findall(fields, examples)
    assert len(values) == 3
    for number, (instruction, output, score, explanation) in enumerate(values, 1):
        names = ("Instruction", "Output_data", "Score", "Explanation")
        for name, value in zip(names, (instruction, output, score, explanation), strict=True):
            template = template.replace(f"{{{name}{number}}}", value)
    assert as_template(template) == load_prompts("icl")["overall"]
