"""The micro-world: families of small tasks with checkable answers, and IFEval's constraint types on top of them.

A `Quest` is a task that the world understands: a family, its arguments, a phrasing and up to two constraints. Each is
written as an instruction, can be read back from any text (`understand`), answered (`Quest.answer`) and checked
(`Quest.content_right`, `Quest.followed`). `held=True` phrasings and argument values never occur in the corpus.
"""

import re
import zlib
from collections.abc import Callable
from functools import cache
from random import Random
from typing import NamedTuple

from isheep.lamb import facts

Args = tuple[str, ...]


class Family(NamedTuple):
    """`draw` gives arguments, `answer` the short answer to them, `wrong` a wrong one of the same type."""

    name: str
    phrasings: tuple[str, ...]
    held: tuple[str, ...]
    draw: Callable[[Random], Args]
    answer: Callable[[Args], str]
    wrong: Callable[[Args, Random], str]
    sentence: str  # the long answer, {a} {b} {c} arguments and {y} the short answer
    input: str = ""  # the task's input field, where it has one
    open: bool = False  # arguments are drawn from a large space, a part of which is held out


def lookup(name: str, facts_: dict[str, str], phrasings: str, held: str, sentence: str) -> Family:
    keys, values = list(facts_), sorted(set(facts_.values()))

    def wrong(args: Args, rng: Random) -> str:
        return rng.choice([value for value in values if value != facts_[args[0]]])

    return Family(
        name,
        lines(phrasings),
        lines(held),
        lambda rng: (rng.choice(keys),),
        lambda args: facts_[args[0]],
        wrong,
        sentence,
    )


def lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().split("\n"))


def number_family(
    name: str,
    draw: Callable[[Random], tuple[int, ...]],
    answer: Callable[..., int],
    phrasings: str,
    held: str,
    sentence: str,
) -> Family:
    def wrong(args: Args, rng: Random) -> str:
        right = answer(*map(int, args))
        near = [n for n in range(max(0, right - 3), right + 4) if n != right]
        choices = [int(a) for a in args if int(a) != right] if name == "larger" else near
        return str(rng.choice(choices or near))

    return Family(
        name,
        lines(phrasings),
        lines(held),
        lambda rng: tuple(map(str, draw(rng))),
        lambda args: str(answer(*map(int, args))),
        wrong,
        sentence,
        open=True,
    )


def list_family(
    name: str, size: tuple[int, int], answer: Callable[[list[str]], str], phrasings: str, held: str, sentence: str
) -> Family:
    """A list of nouns as the task's input."""

    def draw(rng: Random) -> Args:
        return (", ".join(rng.sample(facts.NOUNS, rng.randint(*size))),)

    def right(args: Args) -> str:
        return answer(args[0].split(", "))

    def wrong(args: Args, rng: Random) -> str:
        words = args[0].split(", ")
        if name == "count":
            return rng.choice([w for w in facts.NUMBERS[2:7] if w != right(args)])
        if name in ("first", "last"):
            return rng.choice([w for w in words if w != right(args)])
        shuffles = [", ".join(rng.sample(words, len(words))) for _ in range(4)] + [args[0]]
        return next((s for s in shuffles if s != right(args)), ", ".join(words[:-1]))

    return Family(name, lines(phrasings), lines(held), draw, right, wrong, sentence, input="{a}", open=True)


PLACES = ("near the old house", "in the big garden", "on the long road", "behind the green wall")


def _sentence_answer(args: Args) -> str:
    return f"I see the {args[0]} {PLACES[zlib.crc32(args[0].encode()) % len(PLACES)]}"


FAMILIES = {
    family.name: family
    for family in (
        lookup(
            "capital",
            facts.CAPITALS,
            """What is the capital of {a}?
            Name the capital city of {a}.
            Which city is the capital of {a}?
            Tell me the capital of {a}.
            Give the capital of the country {a}.""",
            """Please name the capital of {a}.
            What city is the capital of {a}?""",
            "The capital of {a} is {y}.",
        ),
        lookup(
            "continent",
            facts.CONTINENTS,
            """On which continent is {a}?
            Which continent is {a} in?
            Name the continent of {a}.
            Tell me the continent where {a} is.""",
            """Please tell me the continent of {a}.""",
            "The continent of {a} is {y}.",
        ),
        lookup(
            "opposite",
            facts.OPPOSITES,
            """What is the opposite of {a}?
            Give the opposite of the word {a}.
            Name a word that means the opposite of {a}.
            Tell me the opposite of {a}.
            Find the antonym of {a}.""",
            """Please give the opposite of {a}.
            Which word is the opposite of {a}?""",
            "The opposite of {a} is {y}.",
        ),
        lookup(
            "sound",
            facts.SOUNDS,
            """What sound does a {a} make?
            Name the sound of a {a}.
            Tell me what a {a} says.
            Which sound does the {a} make?""",
            """Please name the sound that a {a} makes.""",
            "The sound of a {a} is {y}.",
        ),
        lookup(
            "young",
            facts.YOUNG,
            """What is a young {a} called?
            Name the young of a {a}.
            What do we call a baby {a}?
            Give the word for a young {a}.""",
            """Tell me what a young {a} is called.""",
            "A young {a} is called a {y}.",
        ),
        lookup(
            "colour",
            facts.COLOURS,
            """What colour is {a}?
            Name the colour of {a}.
            Which colour does {a} have?
            Tell me the colour of {a}.""",
            """Please give the colour of {a}.""",
            "The colour of {a} is {y}.",
        ),
        lookup(
            "plural",
            facts.PLURALS,
            """What is the plural of {a}?
            Give the plural form of {a}.
            Write the plural of the word {a}.
            Tell me the plural of {a}.""",
            """Please name the plural of {a}.""",
            "The plural of {a} is {y}.",
        ),
        lookup(
            "past",
            facts.PASTS,
            """What is the past tense of {a}?
            Give the past tense of the verb {a}.
            Put the verb {a} into the past tense.
            Tell me the past form of {a}.""",
            """Please write the past tense of {a}.""",
            "The past tense of {a} is {y}.",
        ),
        lookup(
            "spanish",
            facts.SPANISH,
            """What is {a} in Spanish?
            Translate the word {a} into Spanish.
            Give the Spanish word for {a}.
            How do you say {a} in Spanish?""",
            """Please translate {a} into Spanish.""",
            "The Spanish word for {a} is {y}.",
        ),
        lookup(
            "kind",
            facts.KINDS,
            """What kind of thing is a {a}?
            Sort the word {a} into its group.
            To which group does {a} belong?
            Classify the word {a}.""",
            """Tell me what kind of thing {a} is.""",
            "The word {a} belongs to the group {y}.",
        ),
        lookup(
            "home",
            facts.HOMES,
            """Where does a {a} live?
            Name the home of a {a}.
            What is the home of a {a} called?
            Tell me where a {a} lives.""",
            """Please name the place where a {a} lives.""",
            "The home of a {a} is the {y}.",
        ),
        lookup(
            "job",
            facts.JOBS,
            """Who works with {a}?
            Name the person whose job is {a}.
            Which person works with {a} all day?
            Tell me who takes care of {a}.""",
            """Please name the person who works with {a}.""",
            "The person who works with {a} is the {y}.",
        ),
        lookup(
            "day",
            {a: b for a, b in zip(facts.DAYS, facts.DAYS[1:] + facts.DAYS[:1], strict=True)},
            """Which day comes after {a}?
            Name the day after {a}.
            What day follows {a}?
            Tell me the day that comes after {a}.""",
            """Please name the day that follows {a}.""",
            "The day after {a} is {y}.",
        ),
        lookup(
            "month",
            {a: b for a, b in zip(facts.MONTHS, facts.MONTHS[1:] + facts.MONTHS[:1], strict=True)},
            """Which month comes after {a}?
            Name the month after {a}.
            What month follows {a}?
            Tell me the month that comes after {a}.""",
            """Please name the month that follows {a}.""",
            "The month after {a} is {y}.",
        ),
        number_family(
            "sum",
            lambda rng: (rng.randint(1, 9), rng.randint(1, 9)),
            lambda a, b: a + b,
            """What is {a} plus {b}?
            Add {a} and {b}.
            Compute the sum of {a} and {b}.
            How much is {a} plus {b}?""",
            """Please add {a} and {b}.""",
            "The sum of {a} and {b} is {y}.",
        ),
        number_family(
            "larger",
            lambda rng: tuple(rng.sample(range(1, 41), 2)),
            max,
            """Which number is larger, {a} or {b}?
            Name the larger of {a} and {b}.
            Tell me which is larger, {a} or {b}.
            Pick the larger number of {a} and {b}.""",
            """Please pick the larger of {a} and {b}.""",
            "The larger number is {y}.",
        ),
        number_family(
            "next",
            lambda rng: (rng.randint(1, 40),),
            lambda a: a + 1,
            """Which number comes after {a}?
            Name the number that follows {a}.
            What number comes next after {a}?
            Tell me the number after {a}.""",
            """Please name the number after {a}.""",
            "The number after {a} is {y}.",
        ),
        list_family(
            "first",
            (3, 4),
            lambda words: words[0],
            """Name the first word of the list.
            What is the first word in this list?
            Give me the first item of the list.
            Which word comes first in the list?""",
            """Tell me the first word of this list.""",
            "The first word of the list is {y}.",
        ),
        list_family(
            "last",
            (3, 4),
            lambda words: words[-1],
            """Name the last word of the list.
            What is the last word in this list?
            Give me the last item of the list.
            Which word comes last in the list?""",
            """Tell me the last word of this list.""",
            "The last word of the list is {y}.",
        ),
        list_family(
            "count",
            (2, 5),
            lambda words: facts.NUMBERS[len(words)],
            """How many words are in the list?
            Count the words in this list.
            Count the items of the list.
            Tell me how many words the list has.""",
            """Tell me how many words are in this list.""",
            "The number of words in the list is {y}.",
        ),
        list_family(
            "reverse",
            (3, 3),
            lambda words: ", ".join(words[::-1]),
            """Reverse the list.
            Write the list in reverse order.
            Put the words of this list in reverse order.
            Turn the list around.""",
            """Give me the list in reverse order.""",
            "The list in reverse order is {y}.",
        ),
        list_family(
            "copy",
            (3, 3),
            ", ".join,
            """Copy the list.
            Write the list again.
            Repeat the words of the list.
            Write down all words of this list.""",
            """Give me all words of the list again.""",
            "The words of the list are {y}.",
        ),
        Family(
            "write",
            lines("""Write a sentence with the word {a}.
            Use the word {a} in a sentence.
            Make a short sentence about the {a}.
            Write one sentence about a {a}."""),
            lines("""Please use the word {a} in one sentence."""),
            lambda rng: (rng.choice(facts.NOUNS),),
            _sentence_answer,
            lambda args, rng: _sentence_answer((rng.choice([n for n in facts.NOUNS if n != args[0]]),)),
            "{y}.",
        ),
    )
}


class Constraint(NamedTuple):
    """One of IFEval's instruction types. `check` has IFEval's semantics; {v} is its value in the phrasing."""

    kind: str
    ifeval: str
    phrasings: tuple[str, ...]
    held: tuple[str, ...]
    values: tuple[str, ...] = ("",)


CONSTRAINTS = {
    c.kind: c
    for c in (
        Constraint(
            "upper",
            "change_case:english_capital",
            lines("""Answer in capital letters only.
            Use only capital letters.
            Write everything in capital letters.
            Your whole answer must be in capital letters."""),
            lines("""Only use capital letters in your answer."""),
        ),
        Constraint(
            "lower",
            "change_case:english_lowercase",
            lines("""Answer in lower case only.
            Use only lower case letters.
            Write everything in lower case.
            No capital letters are allowed."""),
            lines("""Only use lower case letters in your answer."""),
        ),
        Constraint(
            "comma",
            "punctuation:no_comma",
            lines("""Do not use any commas.
            Answer without commas.
            No commas are allowed.
            Use no commas in your answer."""),
            lines("""Your answer must have no commas."""),
        ),
        Constraint(
            "end",
            "startend:end_checker",
            lines("""End your answer with the words {v}.
            Finish with the words {v}.
            The last words must be {v}.
            Close your answer with {v}."""),
            lines("""Your answer must end with the words {v}."""),
            tuple(facts.PHRASES),
        ),
        Constraint(
            "quote",
            "startend:quotation",
            lines("""Put your answer in double quotes.
            Wrap the whole answer in double quotes.
            Use double quotes around your answer.
            Your answer must stand in double quotes."""),
            lines("""Write your whole answer in double quotes."""),
        ),
        Constraint(
            "include",
            "keywords:existence",
            lines("""Include the word {v} in your answer.
            Your answer must contain the word {v}.
            Use the word {v} too.
            Mention the word {v}."""),
            lines("""The word {v} must be in your answer."""),
            tuple(facts.EXTRAS),
        ),
        Constraint(
            "forbid",
            "keywords:forbidden_words",
            lines("""Do not use the word {v}.
            Avoid the word {v}.
            Answer without the word {v}.
            The word {v} is not allowed."""),
            lines("""Your answer must not contain the word {v}."""),
            ("the", "is", "of"),
        ),
        Constraint(
            "few",
            "length_constraints:number_words",
            lines("""Answer with less than {v} words.
            Use less than {v} words.
            Keep it to less than {v} words."""),
            lines("""Your answer must have less than {v} words."""),
            ("4", "5"),
        ),
        Constraint(
            "many",
            "length_constraints:number_words",
            lines("""Answer with at least {v} words.
            Use at least {v} words.
            Write at least {v} words."""),
            lines("""Your answer must have at least {v} words."""),
            ("4", "5", "6"),
        ),
        Constraint(
            "repeat",
            "combination:repeat_prompt",
            lines("""First repeat the request, then answer.
            Repeat the request before you answer.
            Start with the request itself, then answer.
            Say the request again first, then answer it."""),
            lines("""First say the request again, then answer."""),
        ),
        Constraint(
            "title",
            "detectable_format:title",
            lines("""Add a title in double angular brackets.
            Start with a title in double angular brackets.
            Give your answer a title in double angular brackets.
            Put a title in double angular brackets first."""),
            lines("""Your answer must have a title in double angular brackets."""),
        ),
    )
}

# Pairs that can't hold together, or that IFEval's checkers would contradict.
CONFLICTS = {
    frozenset(pair.split())
    for pair in lines(
        """upper lower
        few include
        few repeat
        few end
        few title
        few many
        forbid many
        forbid repeat
        forbid include
        forbid end
        repeat quote
        comma repeat"""
    )
}


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


def held_out(args: Args) -> bool:
    """A fixed eighth of every open argument space is kept out of the corpus."""
    return zlib.crc32("|".join(args).encode()) % 8 == 0


def draw_quest(rng: Random, held: bool = False) -> Quest:
    """A quest of the corpus; with `held`, one whose phrasings (and, where open, arguments) the corpus never has."""
    family = FAMILIES[rng.choice(list(FAMILIES))]
    args = family.draw(rng)
    while family.open and held_out(args) != held:
        args = family.draw(rng)
    request = fill(rng.choice(family.held if held else family.phrasings), args)
    demands = draw_demands(rng, family)
    parts = [request]
    for demand in demands:
        constraint = CONSTRAINTS[demand.kind]
        parts.append(rng.choice(constraint.held if held else constraint.phrasings).replace("{v}", demand.value))
    return Quest(family.name, args, demands, request, " ".join(parts), fill(family.input, args))


def draw_demands(rng: Random, family: Family) -> tuple[Demand, ...]:
    number = rng.choices((0, 1, 2), (30, 50, 20))[0]
    while True:
        kinds = rng.sample(list(CONSTRAINTS), number)
        wordless = family.name in ("sum", "larger", "next") and {"upper", "lower"} & set(kinds)
        fixed = family.name == "write" and {"few", "forbid"} & set(kinds)
        if not wordless and not fixed and frozenset(kinds) not in CONFLICTS:
            return tuple(Demand(kind, rng.choice(CONSTRAINTS[kind].values)) for kind in kinds)


def fill(template: str, args: Args, y: str = "") -> str:
    values = dict(zip("abc", args, strict=False)) | {"y": y}
    return re.sub(r"\{(\w)\}", lambda hole: values[hole[1]], template)


# --- reading a text back


@cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    return [
        (family.name, re.compile(_slots(phrasing, r"(?P<{}>[\w, ]+?)")))
        for family in FAMILIES.values()
        for phrasing in family.phrasings + family.held
    ]


@cache
def _demand_patterns() -> list[tuple[str, re.Pattern[str]]]:
    return [
        (constraint.kind, re.compile(" " + _slots(phrasing, r"(?P<{}>[\w ]+?)")))
        for constraint in CONSTRAINTS.values()
        for phrasing in constraint.phrasings + constraint.held
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
