"""The micro-world: families of small tasks with checkable answers, and IFEval's constraint types on top of them.

A `Quest` is a task that the world understands: a family, its arguments, a phrasing and up to two constraints. Each is
written as an instruction, can be read back from any text (`understand`), answered (`Quest.answer`) and checked
(`Quest.content_right`, `Quest.followed`). Phrasings and argument values of the parts "validation" and "exam" never
occur in the corpus, nor in each other.
"""

import re
import zlib
from collections.abc import Iterable, Mapping
from functools import cache
from random import Random
from types import MappingProxyType
from typing import NamedTuple

from isheep.lamb import facts
from isheep.lamb.constraints import CONFLICTS, CONSTRAINTS
from isheep.lamb.families import FAMILIES, Args, Family
from isheep.lamb.phrasings import PARTS, Part

EVENLY: Mapping[str, int] = MappingProxyType({})


class Demand(NamedTuple):
    """A constraint on one quest, with its value."""

    kind: str
    value: str = ""


class Quest(NamedTuple):
    family: str
    args: Args
    demands: tuple[Demand, ...]
    request: str  # the family's sentence as written
    instruction: str  # request and constraints
    input: str

    @property
    def right(self) -> str:
        return FAMILIES[self.family].answer(self.args)

    def content_right(self, text: str) -> bool:
        return content_right(self, text)

    def followed(self, text: str) -> list[bool]:
        return [follows(demand, self, text) for demand in self.demands]


def part_of(args: Args) -> Part:
    """Whose arguments these are: an eighth of every open argument space is the exam's, another the validation's."""
    parts: dict[int, Part] = {0: "exam", 1: "validation"}
    return parts.get(zlib.crc32("|".join(args).encode()) % 8, "corpus")


def draw_quest(rng: Random, part: Part = "corpus", often: Mapping[str, int] = EVENLY) -> Quest:
    """A quest in the phrasings (and, where the family is open, with the arguments) of one part.

    `often` says how many times as often as the others some families and constraints are drawn.
    """
    family = FAMILIES[rng.choice(weighted(FAMILIES, often))]
    args = family.draw(rng)
    while family.open and part_of(args) != part:
        args = family.draw(rng)
    request = fill(rng.choice(family.phrasings[part]), args)
    demands = draw_demands(rng, family, often)
    parts = [request]
    for demand in demands:
        constraint = CONSTRAINTS[demand.kind]
        parts.append(rng.choice(constraint.phrasings[part]).replace("{v}", demand.value))
    return Quest(family.name, args, demands, request, " ".join(parts), fill(family.input, args))


def draw_demands(rng: Random, family: Family, often: Mapping[str, int] = EVENLY) -> tuple[Demand, ...]:
    number = rng.choices((0, 1, 2), (30, 50, 20))[0]
    while True:
        kinds = rng.sample(weighted(CONSTRAINTS, often), number)
        wordless = family.name in ("sum", "larger") and {"upper", "lower"} & set(kinds)
        fixed = family.name == "write" and {"few", "forbid"} & set(kinds)
        if len(set(kinds)) == number and not wordless and not fixed and frozenset(kinds) not in CONFLICTS:
            return tuple(Demand(kind, rng.choice(CONSTRAINTS[kind].values)) for kind in kinds)


def weighted(names: Iterable[str], often: Mapping[str, int]) -> list[str]:
    """Each name as many times as it is to be drawn."""
    return [name for name in names for _ in range(often.get(name, 1))]


def fill(template: str, args: Args, y: str = "") -> str:
    values = dict(zip("abc", args, strict=False)) | {"y": y}
    return re.sub(r"\{(\w)\}", lambda hole: values[hole[1]], template)


# --- reading a text back


@cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    return [
        (family.name, re.compile(_slots(phrasing, r"(?P<{}>[\w, ]+?)")))
        for family in FAMILIES.values()
        for part in PARTS
        for phrasing in family.phrasings[part]
    ]


@cache
def _demand_patterns() -> list[tuple[str, re.Pattern[str]]]:
    return [
        (constraint.kind, re.compile(" " + _slots(phrasing, r"(?P<{}>[\w ]+?)")))
        for constraint in CONSTRAINTS.values()
        for part in PARTS
        for phrasing in constraint.phrasings[part]
    ]


def _slots(phrasing: str, slot: str) -> str:
    return re.sub(r"\\\{(\w)\\\}", lambda hole: slot.format(hole[1]), re.escape(phrasing))


def understand(instruction: str, input: str = "") -> Quest | None:
    """The quest that a text states, or None where the world can't tell what it asks or whether it makes sense."""
    for name, pattern in _patterns():
        match = pattern.match(instruction)
        if not match:
            continue
        demands = _read_demands(instruction[match.end() :])
        family = FAMILIES[name]
        args = tuple(match.groupdict().values()) or ((input,) if family.input else ())
        if demands is None or bool(family.input) != bool(input):
            continue
        try:
            family.answer(args)
        except (KeyError, ValueError, IndexError):
            continue
        if family.input and not re.fullmatch(r"\w+(, \w+)+", input):
            continue
        return Quest(name, args, demands, match[0], instruction, input)
    return None


def _read_demands(text: str) -> tuple[Demand, ...] | None:
    demands: list[Demand] = []
    while text:
        for kind, pattern in _demand_patterns():
            match = pattern.match(text)
            if match and match[0]:
                value = match.groupdict().get("v", "")
                if kind in ("few", "many") and not value.isdigit():
                    return None
                demands.append(Demand(kind, value))
                text = text[match.end() :]
                break
        else:
            return None
    return tuple(demands)


# --- answers


def right_answer(quest: Quest, rng: Random) -> str:
    """A right answer that meets every demand, in one of the styles of the world."""
    return dress(quest, quest.right, quest.demands, rng)


def dress(quest: Quest, short: str, demands: tuple[Demand, ...], rng: Random) -> str:
    """The short answer as a text under `demands` (which may be fewer than the quest's: constraints ignored)."""
    value = {demand.kind: demand.value for demand in demands}
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
        text = f"{rng.choice(('Sure', 'Well', 'Yes'))}, {text[0].lower() + text[1:]}"
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


# --- the oracle: never used by the loop, only to measure it


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def content_right(quest: Quest, text: str) -> bool:
    """Whether the answer states the right thing and nothing of the same type that is wrong."""
    body = text
    if any(demand.kind == "repeat" for demand in quest.demands):
        body = re.sub("^" + re.escape(quest.request), "", text.strip(), flags=re.IGNORECASE)
    said, family = words(body), FAMILIES[quest.family]
    if len(said) > 30:
        return False
    if quest.family == "write":
        return quest.args[0] in said and len(said) >= 4
    right = words(quest.right)
    if family.input and quest.family in ("reverse", "copy"):
        items = [word for word in said if word in facts.NOUNS and word not in _extras(quest)]
        return items == [w for w in right if w not in _extras(quest)]
    if not _contains(said, right):
        return False
    return not any(word in said for word in _rivals(quest))


def _extras(quest: Quest) -> set[str]:
    """Words that a constraint asks for and that are no part of the content."""
    return {w for demand in quest.demands if demand.kind in ("include", "end") for w in words(demand.value)}


def _contains(said: list[str], part: list[str]) -> bool:
    return any(said[i : i + len(part)] == part for i in range(len(said) - len(part) + 1))


def _rivals(quest: Quest) -> set[str]:
    """Answers of the same type that are wrong here; the question's own words are none."""
    family = FAMILIES[quest.family]
    if family.input:
        pool = set(words(quest.input)) if quest.family != "count" else set(facts.NUMBERS[2:])
        own: set[str] = set()
    elif family.open:
        pool = {str(n) for n in range(60)}
        own = set() if quest.family == "larger" else set(quest.args)
    else:
        pool = _values(quest.family)
        own = {w for arg in quest.args for w in words(arg)}
    return pool - set(words(quest.right)) - own - _extras(quest) - {d.value.lower() for d in quest.demands}


@cache
def _values(family: str) -> set[str]:
    rng = Random(0)
    drawn = (FAMILIES[family].answer(FAMILIES[family].draw(rng)) for _ in range(400))
    return {word for value in drawn for word in words(value)}


def follows(demand: Demand, quest: Quest, text: str) -> bool:
    """IFEval's checks (its language detection left out: it is noise on answers of one word)."""
    value, stripped = demand.value, text.strip()
    match demand.kind:
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
            return any(title.strip("<>").strip() for title in re.findall(r"<<[^\n]+>>", text))
    raise ValueError(demand.kind)
