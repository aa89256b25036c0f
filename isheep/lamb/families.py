"""The families of small tasks: arguments, right and wrong answers. Their phrasings are in phrasings.yaml."""

import zlib
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from isheep.lamb import facts
from isheep.lamb.phrasings import Part, family_phrasings

Args = tuple[str, ...]


class Family(NamedTuple):
    """A kind of task.

    `draw` returns arguments, `answer` the short answer to them, `wrong` a wrong answer of the same type. `sentence` is
    the long answer with {a}, {b}, {c} for the arguments and {y} for the short answer. `input` is the task's input,
    "" if it has none. `open` says that arguments come from a large space, two eighths of which are held out.
    """

    name: str
    sentence: str
    draw: Callable[[Random], Args]
    answer: Callable[[Args], str]
    wrong: Callable[[Args, Random], str]
    input: str = ""
    open: bool = False

    @property
    def phrasings(self) -> dict[Part, list[str]]:
        return family_phrasings(self.name)


def lookup_family(name: str, answers: dict[str, str], sentence: str) -> Family:
    """Return a family whose answers are in a table."""
    keys, values = list(answers), sorted(set(answers.values()))

    def wrong(args: Args, rng: Random) -> str:
        return rng.choice([value for value in values if value != answers[args[0]]])

    return Family(name, sentence, lambda rng: (rng.choice(keys),), lambda args: answers[args[0]], wrong)


def parse_number(text: str) -> int:
    """Return a number in ASCII digits. Raises ValueError for anything else, such as 1_0 or other digits."""
    digits = text.strip()
    if not digits.isascii() or not digits.isdigit():
        raise ValueError(text)
    return int(digits)


def number_family(
    name: str, draw: Callable[[Random], tuple[int, ...]], answer: Callable[..., int], sentence: str
) -> Family:
    """Return a family on numbers."""

    def wrong(args: Args, rng: Random) -> str:
        right = answer(*map(parse_number, args))
        distance = rng.choice((3, 10))
        near = [n for n in range(max(0, right - distance), right + distance + 1) if n != right]
        choices = [number for number in map(parse_number, args) if number != right] if name == "larger" else near
        return str(rng.choice(choices or near))

    return Family(
        name,
        sentence,
        lambda rng: tuple(map(str, draw(rng))),
        lambda args: str(answer(*map(parse_number, args))),
        wrong,
        open=True,
    )


def list_family(name: str, size: tuple[int, int], answer: Callable[[list[str]], str], sentence: str) -> Family:
    """Return a family whose input is a list of nouns."""

    def draw(rng: Random) -> Args:
        return (", ".join(rng.sample(facts.NOUNS, rng.randint(*size))),)

    def right(args: Args) -> str:
        return answer(args[0].split(", "))

    def wrong(args: Args, rng: Random) -> str:
        words = args[0].split(", ")
        if name == "count":
            return rng.choice([number for number in facts.NUMBERS[2:7] if number != right(args)])
        if name in ("first", "last"):
            return rng.choice([word for word in words if word != right(args)])
        candidates = (", ".join(write_carelessly(words, rng)) for _ in range(50))
        return next(candidate for candidate in candidates if candidate != right(args))

    return Family(name, sentence, draw, right, wrong, input="{a}", open=True)


def write_carelessly(words: list[str], rng: Random) -> list[str]:
    """Return the list in some order, often with a word left out, repeated or replaced by a foreign one."""
    order = rng.choice((words, words[::-1], rng.sample(words, len(words))))
    index, foreign_noun = rng.randrange(len(order)), rng.choice([noun for noun in facts.NOUNS if noun not in words])
    word = order[index : index + 1]
    replacement = rng.choice((word, word, [], [foreign_noun], [foreign_noun], order[:1]))
    return order[:index] + replacement + order[index + 1 :]


def successors(names: list[str]) -> dict[str, str]:
    """Return for each name the next one; the first follows the last."""
    return dict(zip(names, names[1:] + names[:1], strict=True))


LOCATIONS = ("near the old house", "in the big garden", "on the long road", "behind the green wall")


def _sentence_answer(args: Args) -> str:
    return f"I see the {args[0]} {LOCATIONS[zlib.crc32(args[0].encode()) % len(LOCATIONS)]}"


FAMILIES = {
    family.name: family
    for family in (
        lookup_family("capital", facts.CAPITALS, "The capital of {a} is {y}."),
        lookup_family("continent", facts.CONTINENTS, "The continent of {a} is {y}."),
        lookup_family("opposite", facts.OPPOSITES, "The opposite of {a} is {y}."),
        lookup_family("sound", facts.SOUNDS, "The sound of a {a} is {y}."),
        lookup_family("young", facts.YOUNG, "A young {a} is called a {y}."),
        lookup_family("colour", facts.COLOURS, "The colour of {a} is {y}."),
        lookup_family("plural", facts.PLURALS, "The plural of {a} is {y}."),
        lookup_family("past", facts.PASTS, "The past tense of {a} is {y}."),
        lookup_family("spanish", facts.SPANISH, "The Spanish word for {a} is {y}."),
        lookup_family("kind", facts.KINDS, "The word {a} belongs to the group {y}."),
        lookup_family("home", facts.HOMES, "The home of a {a} is the {y}."),
        lookup_family("job", facts.JOBS, "The person who works with {a} is the {y}."),
        lookup_family("day", successors(facts.DAYS), "The day after {a} is {y}."),
        lookup_family("month", successors(facts.MONTHS), "The month after {a} is {y}."),
        number_family(
            "sum",
            lambda rng: (rng.randint(1, 9), rng.randint(1, 9)),
            lambda a, b: a + b,
            "The sum of {a} and {b} is {y}.",
        ),
        number_family("larger", lambda rng: tuple(rng.sample(range(1, 41), 2)), max, "The larger number is {y}."),
        list_family("first", (3, 4), lambda words: words[0], "The first word of the list is {y}."),
        list_family("last", (3, 4), lambda words: words[-1], "The last word of the list is {y}."),
        list_family(
            "count", (2, 5), lambda words: facts.NUMBERS[len(words)], "The number of words in the list is {y}."
        ),
        list_family("reverse", (3, 3), lambda words: ", ".join(words[::-1]), "The list in reverse order is {y}."),
        list_family("copy", (3, 3), ", ".join, "The words of the list are {y}."),
        Family(
            "write",
            "{y}.",
            lambda rng: (rng.choice(facts.NOUNS),),
            _sentence_answer,
            lambda args, rng: _sentence_answer((rng.choice([n for n in facts.NOUNS if n != args[0]]),)),
        ),
    )
}
