"""Reading a continuation of a synthesis prompt: numbered blocks with labels, which become tasks."""

import re
import string
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from isheep.seeds.no_input import is_no_input

# A label at the start of a line: "7. Instruction:", "7) input :", or a bare "Input:".
LABEL = re.compile(r"(?im)^[ \t]*([0-9]+[ \t]*[.)][ \t]*)?(instruction|input|output)[ \t]*:")
# A line of number signs, or number signs before a label.
SEPARATOR = re.compile(r"(?im)^[ \t]*#{3,}[ \t]*(?=$|(?:[0-9]+[ \t]*[.)][ \t]*)?(?:instruction|input|output)[ \t]*:)")
# A label or a separator that does not begin its line: perhaps the end of the text before it, perhaps part of that text.
INLINE_LABEL = re.compile(r"(?i)(?:\b[0-9]+[ \t]*[.)]|(?<!#)#{3,})[ \t]*(?:instruction|input|output)[ \t]*:")


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
    """A label with its position. `numbered` tells "7. Input:" from a bare "Input:"."""

    kind: str
    numbered: bool
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
    blocks = [_parse_block(piece, cut and number == len(pieces)) for number, piece in enumerate(pieces, 1)]
    return [block for block in blocks if LABEL.sub("", block.text).strip(string.whitespace + string.digits + ".")]


def normalize_newlines(text: str) -> str:
    """Return the text with every line end as one newline character."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _find_labels(text: str) -> list[_Label]:
    return [_Label(label[2].lower(), bool(label[1]), label.start(), label.end()) for label in LABEL.finditer(text)]


def _split_section(section: str) -> Iterator[str]:
    """Yield the pieces of a section that begin with an instruction label.

    A bare "Instruction:" begins a piece only after an input or an output: within an instruction it may be its text.
    """
    start, kinds = 0, set[str]()
    for label in _find_labels(section):
        is_next = label.kind == "instruction" and "instruction" in kinds and (label.numbered or len(kinds) > 1)
        if is_next:
            yield section[start : label.start]
            start, kinds = label.start, set()
        kinds.add(label.kind)
    yield section[start:]


def _parse_block(text: str, cut: bool) -> Block:
    labels, ambiguous = _choose_labels(_find_labels(text))
    ends = [*(label.start for label in labels[1:]), len(text)]
    # A section without a label has no field.
    fields = {label.kind: text[label.end : end].strip() for label, end in zip(labels, ends, strict=False)}
    instruction, input = fields.get("instruction", ""), fields.get("input", "")
    if not ambiguous and any(map(INLINE_LABEL.search, (instruction, input))):
        ambiguous = "a label within a line"
    return Block(
        text=text.strip(),
        instruction=instruction,
        input="" if is_no_input(input) else input,
        cut=cut and "output" not in fields,
        ambiguous=ambiguous,
    )


def _choose_labels(labels: Sequence[_Label]) -> tuple[list[_Label], str]:
    """Return the labels of a block that count, up to its output, and why the block is ambiguous, if it is."""
    last_numbered = max((index for index, label in enumerate(labels) if label.numbered), default=-1)
    chosen: list[_Label] = []
    kinds: set[str] = set()
    for index, label in enumerate(labels):
        if "output" in kinds:
            break
        if label.kind in kinds and (label.numbered or label.kind == "instruction"):
            return chosen, f"two labels {label.kind!r}"
        if label.kind not in kinds and (label.numbered or index > last_numbered):
            chosen.append(label)
            kinds.add(label.kind)
    return chosen, ""
