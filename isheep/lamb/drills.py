"""Drills: short questions with an answer and a verdict each, on which lamb learns to compare words.

A judge of "What is the first word of this list?" has to find the first word and compare the answer with it. Long pages
teach this too slowly, because they have one verdict in fifty tokens. A drill has one in five to ten. Correct answers
are imitated as well: a model that predicts the correct answer only has to compare, and without this part of the loss
the verdicts on first and last words stay at chance (LOG.md).
"""

from collections.abc import Callable
from random import Random
from typing import NamedTuple

from isheep.lamb import facts
from isheep.lamb.families import FAMILIES
from isheep.lamb.world import draw_quest, part_of

LIST_FAMILIES = ("first", "last", "count", "reverse", "copy")
NUMBER_FAMILIES = ("sum", "larger")
LIST_WORDS = [*facts.NOUNS, *facts.EXTRAS]


class DrillQuestion(NamedTuple):
    """A question with a correct and a wrong answer. `is_definite` says whether no other answer is correct."""

    text: str
    right: str
    wrong: str
    is_definite: bool = True


class Drill(NamedTuple):
    """A heading, which the questions are about, and the questions."""

    heading: str
    questions: list[DrillQuestion]


def draw_drill(rng: Random) -> Drill:
    """Return a drill on a list, on single words and phrases, or on numbers."""
    draw_kind: Callable[[Random], Drill] = rng.choices(
        (draw_list_drill, draw_word_drill, draw_number_drill), (5, 3, 2)
    )[0]
    return draw_kind(rng)


def draw_list_drill(rng: Random) -> Drill:
    """Return a list of two to five words, and two to four different questions on it.

    Like all tasks of the corpus it has no list that is reserved for another part.
    """
    words = rng.sample(LIST_WORDS, rng.randint(2, 5))
    while part_of((", ".join(words),)) != "corpus":
        words = rng.sample(LIST_WORDS, rng.randint(2, 5))
    args = (", ".join(words),)
    questions = [
        DrillQuestion(f"{name.title()}:", FAMILIES[name].answer(args), FAMILIES[name].wrong(args, rng))
        for name in LIST_FAMILIES
    ]
    other_words = [word for word in LIST_WORDS if word not in words]
    questions.append(DrillQuestion("Has:", rng.choice(words), rng.choice(other_words), is_definite=False))
    return Drill("Words:\n" + args[0], rng.sample(questions, rng.randint(2, 4)))


def draw_word_drill(rng: Random) -> Drill:
    """Return two to four words, phrases and requests to be written again, as they are or in capital letters."""
    return Drill("Write again.", [_draw_copying(rng) for _ in range(rng.randint(2, 4))])


def _draw_copying(rng: Random) -> DrillQuestion:
    quest = draw_quest(rng)
    wrong_answer = FAMILIES[quest.family].wrong(quest.args, rng)
    if rng.random() < 0.5:
        return DrillQuestion(f"Capitals, {quest.right}:", quest.right.upper(), wrong_answer.upper())
    phrase, other_phrase = rng.sample(facts.PHRASES, 2)
    word, other_word = rng.sample(facts.EXTRAS, 2)
    text, other_text = rng.choice(
        (
            (quest.right, wrong_answer),
            (quest.request, _draw_other_request(quest.request, rng)),
            (phrase, other_phrase),
            (f"I like the {word}.", f"I like the {other_word}."),
        )
    )
    return DrillQuestion(f"Same, {text}:", text, other_text)


def _draw_other_request(request: str, rng: Random) -> str:
    other_request = request
    while other_request == request:
        other_request = draw_quest(rng).request
    return other_request


def draw_number_drill(rng: Random) -> Drill:
    """Return two to four sums and comparisons, with no numbers that are reserved for another part."""
    return Drill("Numbers.", [_draw_calculation(rng) for _ in range(rng.randint(2, 4))])


def _draw_calculation(rng: Random) -> DrillQuestion:
    family = FAMILIES[rng.choice(NUMBER_FAMILIES)]
    args = family.draw(rng)
    while part_of(args) != "corpus":
        args = family.draw(rng)
    return DrillQuestion(f"{family.name.title()}, {' and '.join(args)}:", family.answer(args), family.wrong(args, rng))
