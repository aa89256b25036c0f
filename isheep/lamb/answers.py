"""Answers of mixed quality on lamb's pages: right ones, and all the ways in which an answer can be wrong."""

from collections.abc import Callable, Mapping
from random import Random
from typing import NamedTuple

from isheep.lamb.constraints import CONSTRAINT_KINDS
from isheep.lamb.families import FAMILIES
from isheep.lamb.world import Constraint, Quest, draw_quest, dress, right_answer


class PageAnswer(NamedTuple):
    """An answer and how good it is.

    `content` is 0 (wrong), 1 (partly right) or 2 (right), `met` the share of the quest's constraints that it meets,
    `direct` whether it answers the task. `note` is what a teacher would say of the content: right, partly, long, off or
    wrong.
    """

    text: str
    content: int
    met: float
    direct: bool
    note: str


def write_good(quest: Quest, rng: Random) -> PageAnswer:
    return PageAnswer(right_answer(quest, rng), 2, 1.0, True, "right")


def write_ignoring_constraints(quest: Quest, rng: Random) -> PageAnswer:
    """Return the right content with a constraint, or all, not met; a right answer if the quest has no constraints."""
    met_constraints: tuple[Constraint, ...] = ()
    if len(quest.constraints) == 2 and rng.random() < 0.6:
        met_constraints = quest.constraints[1:] if rng.random() < 0.5 else quest.constraints[:1]
    return check_answer(quest, dress(quest, quest.right, met_constraints, rng), 2)


def write_misreading_constraints(quest: Quest, rng: Random) -> PageAnswer:
    """Return the right content with misread constraints: other words, phrases, numbers, or repeated requests."""
    constraints = tuple(
        constraint._replace(value=rng.choice(CONSTRAINT_KINDS[constraint.kind].values))
        for constraint in quest.constraints
    )
    misread = quest._replace(request=draw_quest(rng).request) if rng.random() < 0.7 else quest
    return check_answer(quest, dress(misread, quest.right, constraints, rng), 2)


def write_wrong(quest: Quest, rng: Random) -> PageAnswer:
    """Return a wrong answer of the right type, the hard case for a judge."""
    return check_answer(quest, dress(quest, FAMILIES[quest.family].wrong(quest.args, rng), quest.constraints, rng), 0)


def write_wrong_ignoring_constraints(quest: Quest, rng: Random) -> PageAnswer:
    return check_answer(quest, dress(quest, FAMILIES[quest.family].wrong(quest.args, rng), (), rng), 0)


def write_wrong_type(quest: Quest, rng: Random) -> PageAnswer:
    """Return the answer to a task of another family."""
    other_quest = draw_quest(rng)
    while other_quest.family == quest.family:
        other_quest = draw_quest(rng)
    constraints = quest.constraints if rng.random() < 0.5 else ()
    return check_answer(quest, dress(quest, other_quest.right, constraints, rng), 0, "off")


def write_off_topic(quest: Quest, rng: Random) -> PageAnswer:
    return check_answer(quest, right_answer(draw_quest(rng), rng), 0, "off")


def write_unknowing(quest: Quest, rng: Random) -> PageAnswer:
    return check_answer(quest, rng.choice(("I do not know.", "I am not sure.", "I can not answer that.")), 0, "off")


def write_rambling(quest: Quest, rng: Random) -> PageAnswer:
    """Return an answer that runs on into further tasks or repeats itself."""
    first = rng.choices((write_good, write_ignoring_constraints, write_wrong), (25, 45, 30))[0](quest, rng)
    next_quest = draw_quest(rng)
    continuation = rng.choice(
        (
            f"\nInstruction: {next_quest.instruction}",
            f" {next_quest.instruction} {right_answer(next_quest, rng)}",
            f" {first.text}" * 2,
        )
    )
    note = "long" if first.content else "wrong"
    return PageAnswer(first.text + continuation, 1 if first.content else 0, 0.0, False, note)


def write_echo(quest: Quest, rng: Random) -> PageAnswer:
    return PageAnswer(quest.instruction, 0, 0.0, False, "off")


def write_partial(quest: Quest, rng: Random) -> PageAnswer:
    """Return a right and a wrong answer together; of a list, all but one word."""
    alternatives = [quest.right, FAMILIES[quest.family].wrong(quest.args, rng)]
    rng.shuffle(alternatives)
    short = quest.right.rsplit(", ", 1)[0] if ", " in quest.right else " or ".join(alternatives)
    answer = check_answer(quest, dress(quest, short, quest.constraints, rng), 1)
    return answer._replace(note="partly")


def check_answer(quest: Quest, text: str, content: int, note: str = "") -> PageAnswer:
    """Return the answer with the share of met constraints; a text that happens to be right counts as right."""
    met = quest.followed(text)
    if quest.content_right(text):
        content = 2
    note = "right" if content == 2 else note or "wrong"
    return PageAnswer(text, content, sum(met) / len(met) if met else 1.0, note != "off", note)


Writer = Callable[[Quest, Random], PageAnswer]

# The shares of the kinds of answers on pages of pairs, and on graded pages.
PAIR_SHARES: dict[Writer, float] = {
    write_good: 0.12,
    write_ignoring_constraints: 0.48,
    write_wrong: 0.05,
    write_wrong_type: 0.07,
    write_off_topic: 0.06,
    write_unknowing: 0.04,
    write_wrong_ignoring_constraints: 0.05,
    write_rambling: 0.09,
    write_echo: 0.04,
}
# The shares of the kinds of answers before a follow-up: users mostly ask on after a sound answer.
FIRST_ANSWER_SHARES: dict[Writer, float] = {
    write_good: 0.45,
    write_ignoring_constraints: 0.45,
    write_wrong: 0.1,
}
GRADED_SHARES: dict[Writer, float] = {
    write_good: 0.32,
    write_ignoring_constraints: 0.13,
    write_misreading_constraints: 0.09,
    write_wrong: 0.20,
    write_partial: 0.04,
    write_wrong_type: 0.06,
    write_off_topic: 0.03,
    write_unknowing: 0.02,
    write_wrong_ignoring_constraints: 0.05,
    write_rambling: 0.04,
    write_echo: 0.02,
}


def draw_answer(quest: Quest, shares: Mapping[Writer, float], rng: Random) -> PageAnswer:
    return rng.choices(list(shares), list(shares.values()))[0](quest, rng)
