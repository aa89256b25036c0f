"""Filters that were tried on lamb as cures for what the loop costs: wrong content, and answers that become shorter.

    isheep sweep benchmarks/cures.yaml --seeds 6 --allow-code

Each of them follows the threshold. None knows a right answer: they read which constraints a task has, and its answer's
number of words. Their results are in LOG.md.
"""

from functools import cache
from random import Random

from isheep.lamb import CHECKPOINT
from isheep.lamb.answers import PageAnswer
from isheep.lamb.probe import UPPER, ScoreReader, load_score_reader
from isheep.lamb.world import Quest, understand
from isheep.records import Pair

LOWEST_SCORE = 7.5
"""The lowest expected score that counts as a score of 8."""


def leave_out_capitals(pair: Pair) -> str | None:
    """Drop the pairs that ask for capital letters, in which the judge is nearly blind."""
    quest = quest_of(pair)
    if quest and UPPER in quest.constraint_kinds:
        return "the task asks for capital letters"
    return None


def rate_without_constraints(pair: Pair) -> str | None:
    """Drop a pair if the base model rates its quality below 8 when the constraints are taken off the task."""
    quest = quest_of(pair)
    if not quest or not quest.constraints:
        return None
    bare_quest = quest._replace(constraints=(), instruction=quest.request)
    # The reader looks at the text alone.
    answer = PageAnswer(pair.output, content=0, met=0.0, direct=True, note="")
    (score,) = base_judge().expected_scores([(bare_quest, answer)], "quality")
    if score < LOWEST_SCORE:
        return f"expected quality {score:.1f} without the constraints"
    return None


def thin_out_constraints(pair: Pair) -> str | None:
    """Drop half of the pairs with a constraint, so that more of the others are mixed in, which the judge reads well."""
    quest = quest_of(pair)
    if quest and quest.constraints and is_drawn(pair):
        return "half of the pairs with a constraint are left out"
    return None


def thin_out_single_words(pair: Pair) -> str | None:
    """Drop half of the answers of one word to tasks without a constraint."""
    quest = quest_of(pair)
    if quest and not quest.constraints and len(pair.output.split()) == 1 and is_drawn(pair):
        return "half of the answers of one word are left out"
    return None


def quest_of(pair: Pair) -> Quest | None:
    """Return the task of a pair as the world understands it, None if it doesn't."""
    return understand(pair.instruction, pair.input)


def is_drawn(pair: Pair) -> bool:
    """Return True for a random half of the pairs."""
    return Random(pair.instruction + pair.output).random() < 0.5


@cache
def base_judge() -> ScoreReader:
    """Return the packaged lamb as a judge."""
    return load_score_reader(CHECKPOINT)
