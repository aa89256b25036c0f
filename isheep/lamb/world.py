"""The micro-world: families of small tasks with checkable answers, and kinds of IFEval's constraints on top of them.

A `Quest` is a task that the world understands: a family, its arguments, a phrasing and up to two constraints. It is
written as an instruction, can be read back from a text (`understand`), answered (`right_answer`) and checked
(`Quest.content_right`, `Quest.followed`). Phrasings of the parts "validation" and "exam" never occur in the corpus, nor
in each other. The same holds for tasks of an open family with the same arguments in the same order.
"""

import re
import zlib
from collections.abc import Iterable, Mapping
from functools import cache
from random import Random
from types import MappingProxyType
from typing import NamedTuple

from isheep.lamb import facts
from isheep.lamb.constraints import CONFLICTS, CONSTRAINT_KINDS
from isheep.lamb.families import FAMILIES, Args, Family
from isheep.lamb.phrasings import PARTS, Part

OPENERS = ("Sure", "Well", "Yes")
"""What an answer can begin with before it answers."""

MAX_DIGITS = 9
"""The most digits of a number of words that a constraint asks for."""

EVENLY: Mapping[str, int] = MappingProxyType({})
"""No family or constraint is drawn more often than the others."""


class Constraint(NamedTuple):
    """A constraint on one quest, with its value."""

    kind: str
    value: str = ""


class Quest(NamedTuple):
    """A task that the world understands. `request` is the family's sentence; `instruction` also has the constraints."""

    family: str
    args: Args
    constraints: tuple[Constraint, ...]
    request: str
    instruction: str
    input: str

    def with_instruction(self, rng: Random, part: Part) -> "Quest":
        """Return the quest with its instruction: the request, and a sentence of the part for each constraint."""
        sentences = [self.request]
        for constraint in self.constraints:
            constraint_kind = CONSTRAINT_KINDS[constraint.kind]
            sentences.append(rng.choice(constraint_kind.phrasings[part]).replace("{v}", constraint.value))
        return self._replace(instruction=" ".join(sentences))

    @property
    def right(self) -> str:
        """Return the right answer in its short form."""
        return FAMILIES[self.family].answer(self.args)

    @property
    def constraint_kinds(self) -> list[str]:
        """Return the kind of each constraint."""
        return [constraint.kind for constraint in self.constraints]

    def content_right(self, text: str) -> bool:
        """Return whether an answer states the right content."""
        return content_right(self, text)

    def followed(self, text: str) -> list[bool]:
        """Return for each constraint whether an answer meets it."""
        return [follows(constraint, self, text) for constraint in self.constraints]


def part_of(args: Args) -> Part:
    """Return the part that arguments belong to: of an open space an eighth is the exam's, another the validation's."""
    parts: dict[int, Part] = {0: "exam", 1: "validation"}
    return parts.get(zlib.crc32("|".join(args).encode()) % 8, "corpus")


def draw_quest(rng: Random, part: Part = "corpus", often: Mapping[str, int] = EVENLY) -> Quest:
    """Return a quest in the phrasings of one part and, if its family is open, with arguments of that part.

    `often` says how many times as often as the others some families and constraints are drawn.
    """
    family = FAMILIES[rng.choice(weighted(FAMILIES, often))]
    args = family.draw(rng)
    while family.open and part_of(args) != part:
        args = family.draw(rng)
    request = fill(rng.choice(family.phrasings[part]), args)
    constraints = draw_constraints(rng, family, often)
    return Quest(family.name, args, constraints, request, request, fill(family.input, args)).with_instruction(rng, part)


def draw_constraints(rng: Random, family: Family, often: Mapping[str, int] = EVENLY) -> tuple[Constraint, ...]:
    """Return no, one or two constraints that go together, and with the family."""
    num_constraints = rng.choices((0, 1, 2), (30, 50, 20))[0]
    while True:
        kinds = rng.sample(weighted(CONSTRAINT_KINDS, often), num_constraints)
        # A number has no upper or lower case, and the sentence of "write" has a fixed length and fixed words.
        wordless = family.name in ("sum", "larger") and {"upper", "lower"} & set(kinds)
        fixed = family.name == "write" and {"few", "forbid"} & set(kinds)
        if len(set(kinds)) == num_constraints and not wordless and not fixed and frozenset(kinds) not in CONFLICTS:
            return tuple(Constraint(kind, rng.choice(CONSTRAINT_KINDS[kind].values)) for kind in kinds)


def weighted(names: Iterable[str], often: Mapping[str, int]) -> list[str]:
    """Return each name as many times as `often` says, once by default."""
    return [name for name in names for _ in range(often.get(name, 1))]


def fill(template: str, args: Args, y: str = "") -> str:
    """Return the template with {a}, {b}, {c} replaced by the arguments and {y} by the short answer."""
    values = dict(zip("abc", args, strict=False)) | {"y": y}
    return re.sub(r"\{(\w)\}", lambda hole: values[hole[1]], template)


# --- reading a text back

MAX_CHARACTERS = 1000
"""A longer text states no quest: the world's own have less than a third of that."""


@cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    return [
        (family.name, re.compile(slots(phrasing, r"(?P<{}>[\w, ]+?)")))
        for family in FAMILIES.values()
        for part in PARTS
        for phrasing in family.phrasings[part]
    ]


@cache
def _constraint_patterns() -> list[tuple[str, re.Pattern[str]]]:
    return [
        (constraint_kind.name, re.compile(" " + slots(phrasing, r"(?P<{}>[\w ]+?)")))
        for constraint_kind in CONSTRAINT_KINDS.values()
        for part in PARTS
        for phrasing in constraint_kind.phrasings[part]
    ]


def slots(phrasing: str, slot: str) -> str:
    """Return a phrasing as a pattern, with `slot` for each hole; {} in it stands for the hole's name."""
    return re.sub(r"\\\{(\w)\\\}", lambda hole: slot.format(hole[1]), re.escape(phrasing))


def understand(instruction: str, input: str = "") -> Quest | None:
    """Return the quest that a text states, or None if the world can't read it or it makes no sense."""
    # The patterns look for one value after the other, which takes long where a text repeats what is between them.
    if len(instruction) > MAX_CHARACTERS:
        return None
    for name, pattern in _patterns():
        match = pattern.match(instruction)
        if not match:
            continue
        constraints = read_constraints(instruction[match.end() :])
        family = FAMILIES[name]
        args = tuple(match.groupdict().values()) or ((input,) if family.input else ())
        if constraints is None or bool(family.input) != bool(input):
            continue
        try:
            family.answer(args)
        except (KeyError, ValueError, IndexError):
            continue
        if family.input and not re.fullmatch(r"\w+(, \w+)+", input):
            continue
        return Quest(name, args, constraints, match[0], instruction, input)
    return None


def read_constraints(text: str) -> tuple[Constraint, ...] | None:
    """Return the constraints that the sentences after a request state, or None if one of them can't be read."""
    constraints: list[Constraint] = []
    while text:
        for kind, pattern in _constraint_patterns():
            match = pattern.match(text)
            if match and match[0]:
                value = match.groupdict().get("v", "")
                if kind in ("few", "many") and not (value.isascii() and value.isdigit() and len(value) <= MAX_DIGITS):
                    return None
                constraints.append(Constraint(kind, value))
                text = text[match.end() :]
                break
        else:
            return None
    return tuple(constraints)


# --- answers


def right_answer(quest: Quest, rng: Random) -> str:
    """Return a right answer that meets every constraint, in one of the styles of the world."""
    return dress(quest, quest.right, quest.constraints, rng)


def dress(quest: Quest, short: str, constraints: tuple[Constraint, ...], rng: Random) -> str:
    """Return the short answer as a text under `constraints`, which may be fewer than the quest's."""
    value = {constraint.kind: constraint.value for constraint in constraints}
    style = rng.choices(("short", "long", "opener"), (45, 40, 15))[0]
    if {"few", "forbid"} & set(value):
        style = "short"
    elif {"many", "include", "end"} & set(value) and style == "short":
        style = "long"
    if "comma" in value and style == "opener":
        style = "long"
    text = short if style == "short" else fill(FAMILIES[quest.family].sentence, quest.args, short)
    if quest.family == "write":
        text = short + "."
    if style == "opener":
        text = f"{rng.choice(OPENERS)}, {text[0].lower() + text[1:]}"
    if "many" in value and len(text.split()) < int(value["many"]):
        text = f"{text.rstrip('.')} as you asked."
    if "include" in value:
        text += f" I like the {value['include']}."
    if "title" in value:
        text = f"<<{quest.family.title()}>> {text}"
    if "repeat" in value:
        text = f"{quest.request} {text}"
    if "end" in value:
        text = f"{text.rstrip('.')}. {value['end']}"
    if "comma" in value:
        text = text.replace(",", "")
    if "upper" in value:
        text = text.upper()
    if "lower" in value:
        text = text.lower()
    return f'"{text}"' if "quote" in value else text


# --- the oracle, which measures the loop and is never used by it


MAX_WORDS = 30
"""An answer of more words is not right: it would only have to name everything."""


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def titles(text: str) -> list[str]:
    """Return the matches of `<<[^\\n]+>>`: in each line the longest from the first << on."""
    edges = [(line, line.find("<<"), line.rfind(">>")) for line in text.split("\n")]
    return [line[start : end + 2] for line, start, end in edges if 0 <= start <= end - 3]


def content_right(quest: Quest, text: str) -> bool:
    """Return whether the answer states the right content and no wrong content of the same type."""
    body = text
    if "repeat" in quest.constraint_kinds:
        body = re.sub("^" + re.escape(quest.request), "", text.strip(), flags=re.IGNORECASE)
    answer_words, family = words(body), FAMILIES[quest.family]
    if len(answer_words) > MAX_WORDS:
        return False
    if quest.family == "write":
        return quest.args[0] in answer_words and len(answer_words) >= 4
    right = words(quest.right)
    if family.input and quest.family in ("reverse", "copy"):
        items = [word for word in answer_words if word in facts.NOUNS and word not in _extras(quest)]
        return items == [word for word in right if word not in _extras(quest)]
    if not _contains(answer_words, right):
        return False
    return not any(word in answer_words for word in _wrong_words(quest))


def _extras(quest: Quest) -> set[str]:
    """Return the words that a constraint asks for and that are no part of the content."""
    constraints = [constraint for constraint in quest.constraints if constraint.kind in ("include", "end")]
    return {word for constraint in constraints for word in words(constraint.value)}


def _contains(sequence: list[str], part: list[str]) -> bool:
    return any(sequence[i : i + len(part)] == part for i in range(len(sequence) - len(part) + 1))


def _wrong_words(quest: Quest) -> set[str]:
    """Return the words of wrong answers of the same type, without the question's own words."""
    family = FAMILIES[quest.family]
    if family.input:
        pool = set(words(quest.input)) if quest.family != "count" else set(facts.NUMBERS[2:])
        own: set[str] = set()
    elif family.open:
        pool = {str(n) for n in range(60)}
        own = set() if quest.family == "larger" else set(quest.args)
    else:
        pool = _values(quest.family)
        own = {word for arg in quest.args for word in words(arg)}
    constraint_values = {constraint.value.lower() for constraint in quest.constraints}
    return pool - set(words(quest.right)) - own - _extras(quest) - constraint_values


@cache
def _values(family: str) -> set[str]:
    """Return the words of a family's answers, from a sample that has them all."""
    rng = Random(0)
    answers = (FAMILIES[family].answer(FAMILIES[family].draw(rng)) for _ in range(400))
    return {word for answer in answers for word in words(answer)}


def follows(constraint: Constraint, quest: Quest, text: str) -> bool:
    """Return whether a text meets a constraint, by IFEval's checks without language detection.

    Language detection is random on answers of one word.
    """
    value, stripped = constraint.value, text.strip()
    match constraint.kind:
        case "upper":
            return text.isupper()
        case "lower":
            return text.islower()
        case "comma":
            return "," not in text
        case "end":
            return stripped.strip('"').lower().endswith(value.strip().lower())
        case "quote":
            return len(stripped) > 1 and stripped[0] == '"' and stripped[-1] == '"'
        case "include":
            return bool(re.search(re.escape(value), text, re.IGNORECASE))
        case "forbid":
            return not re.search(rf"\b{re.escape(value)}\b", text, re.IGNORECASE)
        case "few":
            return len(re.findall(r"\w+", text)) < int(value)
        case "many":
            return len(re.findall(r"\w+", text)) >= int(value)
        case "repeat":
            return stripped.lower().startswith(quest.request.strip().lower())
        case "title":
            return any(title.strip("<>").strip() for title in titles(text))
    raise ValueError(constraint.kind)
