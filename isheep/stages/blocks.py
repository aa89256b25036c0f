"""Reading a continuation of a synthesis prompt: numbered blocks with labels, which become tasks."""

import re
import string
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from isheep.seeds.no_input import is_no_input

# The number before a label, in the digits of any script: "7. ", "7) ", full-width "７．".
NUMBER = r"\d+[ \t]*[.)．）、][ \t]*"
FIELD = "instruction|input|output"
# A label at the start of a line: "7. Instruction:", "7) input :", a bare "Input:".
LABEL = re.compile(rf"(?im)^[ \t]*({NUMBER})?({FIELD})[ \t]*[:：]")
# A line of number signs, or number signs before a label.
SEPARATOR = re.compile(rf"(?im)^[ \t]*#{{3,}}[ \t]*(?=$|(?:{NUMBER})?(?:{FIELD})[ \t]*[:：])")
# A label or a separator that does not begin its line, a label in bold, in the plural, or at the start of a field, which
# has one: it may end the text before it, or be part of that text.
INLINE_LABEL = re.compile(
    rf"(?im)(?:\b{NUMBER}|(?<!#)#{{3,}}|^[ \t]*[*_]|\A)[*_ \t]*"
    rf"(?:{FIELD})s?[*_ \t]*[:：]"
)
# A separator at the end of a field, behind other text of its line.
FINAL_SEPARATOR = "###"


class Block(NamedTuple):
    """One numbered block of a reply. `instruction` is "" if there was none; `cut` says that the block was cut off.

    `ambiguous` says why the block can be read in several ways, "" if it can't.
    """

    text: str
    instruction: str
    input: str
    cut: bool
    ambiguous: str = ""


class _Label(NamedTuple):
    """A label with its position. `number` is the text before it, such as "7. "; "" for a bare "Input:"."""

    kind: str
    number: str
    start: int
    end: int


def parse_blocks(text: str, first: int, cut: bool = False) -> list[Block]:
    """Return the blocks of a continuation of a prompt that ended with "`first`. Instruction:"; never raises.

    Blocks are separated by lines of `###` and by labels at the start of a line ("7. Instruction:"; any number, any
    case). A label without a number counts after the last numbered label of its block; before it, it is text. What
    follows an "Output:" label is ignored. A block that can be read in several ways says so. `cut` says that the text
    was cut off: then its last block is cut off too, unless the block had come to its output.
    """
    sections = SEPARATOR.split(f"{first}. Instruction:{normalize_newlines(text)}")
    pieces = [piece for section in sections for piece in _split_section(section)]
    blocks: list[Block] = []
    for number, piece in enumerate(pieces, 1):
        block = _parse_block(piece, cut and number == len(pieces))
        if not LABEL.sub("", block.text).strip(string.whitespace + string.digits + "."):
            continue
        # What follows a separator without an instruction may belong to the block before it.
        if blocks and not block.instruction and not block.cut:
            blocks[-1] = blocks[-1]._replace(ambiguous=blocks[-1].ambiguous or "a separator within it")
        blocks.append(block)
    return blocks


def normalize_newlines(text: str) -> str:
    """Return the text with every line end as one newline character."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _find_labels(text: str) -> list[_Label]:
    return [_Label(label[2].lower(), label[1] or "", label.start(), label.end()) for label in LABEL.finditer(text)]


def _split_section(section: str) -> Iterator[str]:
    """Yield the pieces of a section that begin with an instruction label.

    A bare "Instruction:" begins a piece only after a bare input or output: elsewhere it may be text.
    """
    start, before = 0, list[_Label]()
    for label in _find_labels(section):
        if label.kind == "instruction" and before:
            fields = [field for field in before if field.kind != "instruction"]
            if label.number or (fields and not any(field.number for field in fields)):
                yield section[start : label.start]
                start, before = label.start, []
        before.append(label)
    yield section[start:]


def _parse_block(text: str, cut: bool) -> Block:
    labels, ambiguous = _choose_labels(_find_labels(text))
    ends = [*(label.start for label in labels[1:]), len(text)]
    # A section without a label has no field.
    fields = {label.kind: text[label.end : end].strip() for label, end in zip(labels, ends, strict=False)}
    instruction, input = fields.get("instruction", ""), fields.get("input", "")
    if not ambiguous and any(map(INLINE_LABEL.search, (instruction, input))):
        ambiguous = "a label within a line"
    if not ambiguous and (instruction.endswith(FINAL_SEPARATOR) or input.endswith(FINAL_SEPARATOR)):
        ambiguous = "a separator within a line"
    return Block(
        text=text.strip(),
        instruction=instruction,
        input="" if is_no_input(input) else input,
        cut=cut and "output" not in fields,
        ambiguous=ambiguous,
    )


def _choose_labels(labels: Sequence[_Label]) -> tuple[list[_Label], str]:
    """Return the labels of a block that count, up to its output, and why the block is ambiguous, if it is."""
    last_numbered = max((index for index, label in enumerate(labels) if label.number), default=-1)
    chosen: dict[str, _Label] = {}
    for index, label in enumerate(labels):
        first = chosen.get(label.kind)
        if "output" in chosen:
            # What follows an output is ignored, but for a label that may be the true one.
            if first and first.number.strip() != label.number.strip() and label.number:
                return list(chosen.values()), f"two labels {label.kind!r}"
        elif first and (label.number or not first.number or label.kind == "instruction"):
            return list(chosen.values()), f"two labels {label.kind!r}"
        elif not first and (label.number or index > last_numbered):
            chosen[label.kind] = label
    return list(chosen.values()), ""
