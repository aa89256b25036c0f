"""Grades: read from the text that a judge wrote, or from the probabilities of the scores as its next text."""

import re
import unicodedata
from collections.abc import Sequence
from itertools import accumulate
from random import Random

from isheep.recipe.schema import RATING_SCALE
from isheep.records import Grade, Sampling

# The least probability that the scores 1 to 10 must have together as the next tokens.
MIN_SCORE_PROBABILITY = 0.01

SEPARATOR = "||"
"""What stands between the score and the explanation in a reply."""

# What may follow a rating directly: white space, brackets, quotation marks, asterisks, punctuation, dashes, a bar.
MARKS_BEHIND = " \t\u00a0\u3000<>()[]{}\"'`*“”‘’».,;:!?…|–—-。，；：！？、（）】」』》"
# A number in ASCII digits by itself, or out of 10; never part of a word, a date, a range or another fraction.
RATING = re.compile(
    r"(?<![A-Za-z0-9_.,/\x00-\x08\x0e-\x1f\x7f-])([0-9]+(?:\.[0-9]+)?)(?:\s*(?:/|out\s+of)\s*10)?"
    rf"(?=[{re.escape(MARKS_BEHIND)}]|\Z)(?![.,]\d|\s*/|\s*out\s+of|\s*[-–—]\s*\d|\s+to\s+\d)",
    re.IGNORECASE,
)
LABEL = re.compile(
    r"(?:(?:the|my|your|final|overall)\s+)*(?:score|rating|grade|final|overall)?\s*(?:is\b)?[\s:=]*", re.IGNORECASE
)

# The marks that may stand before a rating.
MARKS = " \t<[(\"'*#_`"

# The marks that may stand between a label and a rating, beside those.
MARKS_BEHIND_LABEL = ":=："

# The ends of a line: no other control character is one. A stop sequence may cut the end of the last line in two.
LINE_END = re.compile(r"\r?\n|\r\Z")
# What makes a number negative: a word, or a minus sign beside the dashes (Unicode's category Pd).
MINUS_WORD = re.compile(r"\b(?:minus|negative)\Z", re.IGNORECASE)
MINUS_SIGNS = "\u2212\u207b\u208b\u2796"

NUMBER_ALONE = re.compile(r"[0-9]+(?:\.[0-9]+)?")


def parse_grade(reply: str) -> float | None:
    """Return the score in a judge's reply, 1 to 10, or None if it can't be read. The prompt asks for `<score>||<why>`.

    Reads only the first line that is not blank; a line ends at "\\n" or "\\r\\n". If it has a `||`, the score stands
    before it among any words ("8||", "<8>||", "I give it 8/10 || ..."), and what follows is free text that is not read.
    If it has none, the number must open the line, after marks and a label at most: "8", "8.5 because", "Score: 8",
    "**Score**: 8", "Overall: 8", "8 out of 10". A fraction keeps its value (8.5).

    A number is ASCII digits, and only MARKS_BEHIND may follow it directly. A number outside 1 to 10, of another scale
    ("80/100"), of a range ("7-8"), with a minus ("−8", "minus 8"), in words, in other digits, or beside another number
    ("8²", "Score (1-10): 8", "8 or 9", "1. Overall: 8") is not read, and neither is a line with a control character:
    the paper's format has one number, and which of several is the score would be a guess.
    """
    line = next((line for line in LINE_END.split(reply) if line.strip()), "")
    head, separator, _ = line.partition(SEPARATOR)
    if separator:
        number = RATING.search(head)
    else:
        head = LABEL.sub("", head.lstrip(MARKS), count=1).lstrip(MARKS + MARKS_BEHIND_LABEL)
        number = RATING.match(head)
    if number is None or any(map(is_control, head)):
        return None
    preceding, following = head[: number.start()], head[number.end() :]
    if any(map(is_numeric, preceding + following)) or ends_with_minus(preceding.rstrip(MARKS)):
        return None
    score = float(number[1])
    return score if 1 <= score <= 10 else None


def ends_with_minus(text: str) -> bool:
    """Return whether a text ends with a minus sign, a dash of any length, or a word for minus."""
    is_sign = unicodedata.category(text[-1]) == "Pd" or text[-1] in MINUS_SIGNS if text else False
    return is_sign or MINUS_WORD.search(text) is not None


def is_control(character: str) -> bool:
    """Return whether a character controls a device, such as a vertical tab; a tab is white space."""
    return character != "\t" and unicodedata.category(character) == "Cc"


def is_numeric(character: str) -> bool:
    """Return whether a character is a digit or another number of any script: 8, ², ½, Ⅷ, ⑧. 八 is a letter."""
    return unicodedata.category(character).startswith("N")


def expected_grade(probabilities: Sequence[float]) -> Grade:
    """Return the expected score under the probabilities of the scores 1 to 10, normalized to sum to 1.

    The score is rounded to two decimals, so that a judge sure of 8 reaches 8. The probabilities are kept as the reply.
    If they sum to less than `MIN_SCORE_PROBABILITY`, the judge would write something else, and the rating is
    unreadable.
    """
    reply = ", ".join(
        f"{score}: {probability:.4f}" for score, probability in zip(RATING_SCALE, probabilities, strict=True)
    )
    if sum(probabilities) < MIN_SCORE_PROBABILITY:
        return Grade(score=None, reply=reply)
    return Grade(score=round(mean_score(probabilities), 2), reply=reply)


def probabilities_in(reply: str) -> list[float] | None:
    """Return the probabilities that `expected_grade` wrote as a reply, or None if the reply is a text."""
    entries = [entry.split(": ") for entry in reply.split(", ")]
    if [entry[0] for entry in entries] != list(map(str, RATING_SCALE)):
        return None
    try:
        return [float(value) for _, value in entries]
    except ValueError:
        return None


def explanation_in(grade: Grade) -> str:
    """Return what a judge's reply says beside the score: the text after the separator, or else the whole reply.

    A reply that is nothing but the score has no explanation. An unreadable reply is returned as it is.
    """
    if grade.score is None:
        return grade.reply
    head, separator, explanation = grade.reply.partition(SEPARATOR)
    if separator and parse_grade(head + separator) == grade.score:
        return explanation
    return "" if NUMBER_ALONE.fullmatch(grade.reply.strip()) else grade.reply


def mean_score(probabilities: Sequence[float]) -> float:
    """Return the expected score under the probabilities of the scores 1 to 10, normalized to sum to 1."""
    weighted = sum(score * probability for score, probability in zip(RATING_SCALE, probabilities, strict=True))
    return weighted / sum(probabilities)


def draw_score(probabilities: Sequence[float], sampling: Sampling, seed: int) -> int | None:
    """Return a score from 1 to 10, drawn as the next token would be if only the scores were allowed.

    `probabilities` are those of the scores after the prompt, of which only the ratios count. The temperature and top_p
    of `sampling` apply among the scores; at temperature 0 it is the most probable score, the lower one of two that are
    equal. Returns None if all probabilities are 0: the prompt does not fit, or the engine gives none.
    """
    ranking = sorted(range(len(probabilities)), key=lambda index: -probabilities[index])
    largest = probabilities[ranking[0]]
    if largest <= 0:
        return None
    if not sampling.temperature:
        return RATING_SCALE[ranking[0]]
    weights = [(probabilities[index] / largest) ** (1 / sampling.temperature) for index in ranking]
    sums = list(accumulate(weights))
    num_allowed = next(number for number, total in enumerate(sums, 1) if total >= sampling.top_p * sums[-1])
    drawn = Random(seed).random() * sums[num_allowed - 1]
    position = next((number for number, total in enumerate(sums[:num_allowed]) if drawn < total), num_allowed - 1)
    return RATING_SCALE[ranking[position]]


def constrained_grade(probabilities: Sequence[float], score: int | None, explanation: str | None) -> Grade:
    """Return the grade of a drawn score, with the reply in the format of the prompt, and the expected score.

    Without probabilities, as from a server that chose by itself, the expected score is the score.
    """
    if score is None:
        return Grade(score=None, reply="")
    reply = str(score) if explanation is None else f"{score}{SEPARATOR}{explanation}"
    expected = round(mean_score(probabilities), 4) if sum(probabilities) else float(score)
    return Grade(score=score, reply=reply, expected=expected)
