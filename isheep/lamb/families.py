"""The families of small tasks: arguments, right and wrong answers. Their wordings are in `phrasings.yaml`."""

import zlib
from collections.abc import Callable
from random import Random
from typing import NamedTuple

from isheep.lamb import facts
from isheep.lamb.phrasings import Part, of_family

Args = tuple[str, ...]


class Family(NamedTuple):
    """`draw` gives arguments, `answer` the short answer to them, `wrong` a wrong one of the same type."""

    name: str
    sentence: str  # the long answer, {a} {b} {c} arguments and {y} the short answer
    draw: Callable[[Random], Args]
    answer: Callable[[Args], str]
    wrong: Callable[[Args, Random], str]
    input: str = ""  # the task's input field, where it has one
    open: bool = False  # arguments are drawn from a large space, two eighths of which are held out

    @property
    def phrasings(self) -> dict[Part, list[str]]:
        return of_family(self.name)


def lookup(name: str, facts_: dict[str, str], sentence: str) -> Family:
    keys, values = list(facts_), sorted(set(facts_.values()))

    def wrong(args: Args, rng: Random) -> str:
        return rng.choice([value for value in values if value != facts_[args[0]]])

    return Family(name, sentence, lambda rng: (rng.choice(keys),), lambda args: facts_[args[0]], wrong)


def number_family(
    name: str, draw: Callable[[Random], tuple[int, ...]], answer: Callable[..., int], sentence: str
) -> Family:
    def wrong(args: Args, rng: Random) -> str:
        right = answer(*map(int, args))
        reach = rng.choice((3, 10))
        near = [n for n in range(max(0, right - reach), right + reach + 1) if n != right]
        choices = [int(a) for a in args if int(a) != right] if name == "larger" else near
        return str(rng.choice(choices or near))

    return Family(
        name,
        sentence,
        lambda rng: tuple(map(str, draw(rng))),
        lambda args: str(answer(*map(int, args))),
        wrong,
        open=True,
    )


def list_family(name: str, size: tuple[int, int], answer: Callable[[list[str]], str], sentence: str) -> Family:
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
        return next(slip for _ in range(50) if (slip := ", ".join(slipped(words, rng))) != right(args))

    return Family(name, sentence, draw, right, wrong, input="{a}", open=True)


def slipped(words: list[str], rng: Random) -> list[str]:
    """A list carelessly written: in some order, and often with a word left out, said twice or taken from elsewhere."""
    order = rng.choice((words, words[::-1], rng.sample(words, len(words))))
    place, other = rng.randrange(len(order)), rng.choice([noun for noun in facts.NOUNS if noun not in words])
    put = rng.choice((order[place : place + 1], order[place : place + 1], [], [other], [other], order[:1]))
    return order[:place] + put + order[place + 1 :]


def following(names: list[str]) -> dict[str, str]:
    """Each name and the next one, the last one's next being the first."""
    return dict(zip(names, names[1:] + names[:1], strict=True))


PLACES = ("near the old house", "in the big garden", "on the long road", "behind the green wall")


def _sentence_answer(args: Args) -> str:
    return f"I see the {args[0]} {PLACES[zlib.crc32(args[0].encode()) % len(PLACES)]}"


FAMILIES = {
    family.name: family
    for family in (
        lookup("capital", facts.CAPITALS, "The capital of {a} is {y}."),
        lookup("continent", facts.CONTINENTS, "The continent of {a} is {y}."),
        lookup("opposite", facts.OPPOSITES, "The opposite of {a} is {y}."),
        lookup("sound", facts.SOUNDS, "The sound of a {a} is {y}."),
        lookup("young", facts.YOUNG, "A young {a} is called a {y}."),
        lookup("colour", facts.COLOURS, "The colour of {a} is {y}."),
        lookup("plural", facts.PLURALS, "The plural of {a} is {y}."),
        lookup("past", facts.PASTS, "The past tense of {a} is {y}."),
        lookup("spanish", facts.SPANISH, "The Spanish word for {a} is {y}."),
        lookup("kind", facts.KINDS, "The word {a} belongs to the group {y}."),
        lookup("home", facts.HOMES, "The home of a {a} is the {y}."),
        lookup("job", facts.JOBS, "The person who works with {a} is the {y}."),
        lookup("day", following(facts.DAYS), "The day after {a} is {y}."),
        lookup("month", following(facts.MONTHS), "The month after {a} is {y}."),
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
