"""The families of small tasks: phrasings, arguments, right and wrong answers. Held-out phrasings are in no page."""

import zlib
from collections.abc import Callable
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
            """Please tell me the continent of {a}.
            Tell me which continent {a} is in.""",
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
            """Please name the sound that a {a} makes.
            What is the sound of a {a}?""",
            "The sound of a {a} is {y}.",
        ),
        lookup(
            "young",
            facts.YOUNG,
            """What is a young {a} called?
            Name the young of a {a}.
            What do we call a baby {a}?
            Give the word for a young {a}.""",
            """Tell me what a young {a} is called.
            What is the young of a {a} called?""",
            "A young {a} is called a {y}.",
        ),
        lookup(
            "colour",
            facts.COLOURS,
            """What colour is {a}?
            Name the colour of {a}.
            Which colour does {a} have?
            Tell me the colour of {a}.""",
            """Please give the colour of {a}.
            What is the colour of {a}?""",
            "The colour of {a} is {y}.",
        ),
        lookup(
            "plural",
            facts.PLURALS,
            """What is the plural of {a}?
            Give the plural form of {a}.
            Write the plural of the word {a}.
            Tell me the plural of {a}.""",
            """Please name the plural of {a}.
            What is the plural form of {a}?""",
            "The plural of {a} is {y}.",
        ),
        lookup(
            "past",
            facts.PASTS,
            """What is the past tense of {a}?
            Give the past tense of the verb {a}.
            Put the verb {a} into the past tense.
            Tell me the past form of {a}.""",
            """Please write the past tense of {a}.
            What is the past tense of the verb {a}?""",
            "The past tense of {a} is {y}.",
        ),
        lookup(
            "spanish",
            facts.SPANISH,
            """What is {a} in Spanish?
            Translate the word {a} into Spanish.
            Give the Spanish word for {a}.
            How do you say {a} in Spanish?""",
            """Please translate {a} into Spanish.
            What is the Spanish word for {a}?""",
            "The Spanish word for {a} is {y}.",
        ),
        lookup(
            "kind",
            facts.KINDS,
            """What kind of thing is a {a}?
            Sort the word {a} into its group.
            To which group does {a} belong?
            Classify the word {a}.""",
            """Tell me what kind of thing {a} is.
            To which group does the word {a} belong?""",
            "The word {a} belongs to the group {y}.",
        ),
        lookup(
            "home",
            facts.HOMES,
            """Where does a {a} live?
            Name the home of a {a}.
            What is the home of a {a} called?
            Tell me where a {a} lives.""",
            """Please name the place where a {a} lives.
            What is the home of the {a}?""",
            "The home of a {a} is the {y}.",
        ),
        lookup(
            "job",
            facts.JOBS,
            """Who works with {a}?
            Name the person whose job is {a}.
            Which person works with {a} all day?
            Tell me who takes care of {a}.""",
            """Please name the person who works with {a}.
            Tell me who works with {a}.""",
            "The person who works with {a} is the {y}.",
        ),
        lookup(
            "day",
            {a: b for a, b in zip(facts.DAYS, facts.DAYS[1:] + facts.DAYS[:1], strict=True)},
            """Which day comes after {a}?
            Name the day after {a}.
            What day follows {a}?
            Tell me the day that comes after {a}.""",
            """Please name the day that follows {a}.
            What day comes after {a}?""",
            "The day after {a} is {y}.",
        ),
        lookup(
            "month",
            {a: b for a, b in zip(facts.MONTHS, facts.MONTHS[1:] + facts.MONTHS[:1], strict=True)},
            """Which month comes after {a}?
            Name the month after {a}.
            What month follows {a}?
            Tell me the month that comes after {a}.""",
            """Please name the month that follows {a}.
            What month comes after {a}?""",
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
            """Please add {a} and {b}.
            What is the sum of {a} and {b}?""",
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
            """Please pick the larger of {a} and {b}.
            Which is the larger number, {a} or {b}?""",
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
            """Please name the number after {a}.
            What number comes after {a}?""",
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
            """Tell me the first word of this list.
            Which word is first in the list?""",
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
            """Tell me the last word of this list.
            Which word is last in the list?""",
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
            """Tell me how many words are in this list.
            Count the words of the list.""",
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
            """Give me the list in reverse order.
            Put the list in reverse order.""",
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
            """Give me all words of the list again.
            Copy the words of the list.""",
            "The words of the list are {y}.",
        ),
        Family(
            "write",
            lines("""Write a sentence with the word {a}.
            Use the word {a} in a sentence.
            Make a short sentence about the {a}.
            Write one sentence about a {a}."""),
            lines("""Please use the word {a} in one sentence.
            Make a sentence with the word {a}."""),
            lambda rng: (rng.choice(facts.NOUNS),),
            _sentence_answer,
            lambda args, rng: _sentence_answer((rng.choice([n for n in facts.NOUNS if n != args[0]]),)),
            "{y}.",
        ),
    )
}
