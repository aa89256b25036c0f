"""Drills of lamb's corpus: their answers, their verdicts, and what they must not show."""

import re
from collections.abc import Iterator
from itertools import islice
from random import Random

from isheep.lamb import facts
from isheep.lamb.drills import DrillQuestion, draw_drill
from isheep.lamb.pages import VERDICT_LOSS_WEIGHT, drill_page
from isheep.lamb.world import part_of

NUM_DRILLS = 3000
WORDS_HEADING = "Words:\n"


def draw_questions() -> Iterator[tuple[list[str], DrillQuestion]]:
    """Yield the words of a drill's list, if it has one, with each of its questions."""
    rng = Random(3)
    for _ in range(NUM_DRILLS):
        drill = draw_drill(rng)
        words = drill.heading.removeprefix(WORDS_HEADING).split(", ") if drill.heading.startswith(WORDS_HEADING) else []
        yield from ((words, question) for question in drill.questions)


def expected_answer(words: list[str], text: str) -> str:
    """Return the correct answer to a question, worked out from its text."""
    if match := re.fullmatch(r"(Same|Capitals), (.*):", text):
        return match[2] if match[1] == "Same" else match[2].upper()
    if match := re.fullmatch(r"(Sum|Larger), (\d+) and (\d+):", text):
        numbers = int(match[2]), int(match[3])
        return str(sum(numbers) if match[1] == "Sum" else max(numbers))
    return {
        "First:": words[0],
        "Last:": words[-1],
        "Count:": facts.NUMBERS[len(words)],
        "Reverse:": ", ".join(words[::-1]),
        "Copy:": ", ".join(words),
    }[text]


def test_correct_answers_of_drills_are_correct_and_wrong_ones_are_not() -> None:
    for words, question in draw_questions():
        if question.text == "Has:":
            assert question.right in words and question.wrong not in words
        else:
            assert question.right == expected_answer(words, question.text) != question.wrong, question


def test_drills_show_no_reserved_list_and_no_reserved_numbers() -> None:
    for words, question in draw_questions():
        numbers = tuple(re.findall(r"\d+", question.text))
        assert not words or part_of((", ".join(words),)) == "corpus"
        assert not re.match("Sum|Larger", question.text) or part_of(numbers) == "corpus"


def test_every_kind_of_question_is_drawn() -> None:
    kinds = {re.split("[:,]", question.text)[0] for _, question in draw_questions()}
    assert kinds == {"First", "Last", "Count", "Reverse", "Copy", "Has", "Same", "Capitals", "Sum", "Larger"}


def test_a_page_imitates_correct_answers_and_reads_wrong_ones() -> None:
    rng, weights = Random(3), {" yes": set[float](), " no": set[float]()}
    for page in islice(iter(lambda: drill_page(rng), None), 500):
        for (_, answer_weight), (verdict, verdict_weight) in zip(page, page[2:], strict=False):
            if verdict in weights:
                assert verdict_weight == VERDICT_LOSS_WEIGHT
                weights[verdict].add(answer_weight)
    # A word that a list has is one of several correct answers, so it isn't imitated.
    assert weights == {" yes": {0.0, 1.0}, " no": {0.0}}
