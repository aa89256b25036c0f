"""Dialogues of two turns: what a user may ask after an answer, drawn, read back and checked like any task.

A follow-up is a quest of its own with the family of the first turn's quest. "again" asks for the same answer in
another form, and always has a constraint; "other" asks for the answer to other arguments. Its constraints are its own:
those of the first turn don't carry over. `understand_follow_up` needs the first turn's quest, because "And Japan?" says
nothing about what is asked.
"""

import re
from collections.abc import Mapping
from functools import cache
from random import Random

from isheep.lamb.families import FAMILIES, Args, Family
from isheep.lamb.phrasings import PARTS, Part, follow_up_phrasings
from isheep.lamb.world import EVENLY, MAX_CHARACTERS, Quest, draw_constraints, fill, part_of, read_constraints, slots

AGAIN, OTHER = "again", "other"
SEPARATOR = " and "
"""What stands between the arguments of a follow-up with two of them."""


def draw_follow_up(first: Quest, rng: Random, part: Part = "corpus", often: Mapping[str, int] = EVENLY) -> Quest:
    """Return what a user may ask after an answer to `first`, in the phrasings of one part.

    A list, which is the input of its task, has only follow-ups that ask for the same answer in another form.
    """
    family = FAMILIES[first.family]
    kind = AGAIN if family.input or rng.random() < 0.5 else OTHER
    args = first.args if kind == AGAIN else _draw_other_args(family, first.args, rng, part)
    request = fill(rng.choice(follow_up_phrasings(kind)[part]), (SEPARATOR.join(args),))
    constraints = draw_constraints(rng, family, often)
    while kind == AGAIN and not constraints:
        constraints = draw_constraints(rng, family, often)
    return first._replace(args=args, constraints=constraints, request=request).with_instruction(rng, part)


def _draw_other_args(family: Family, args: Args, rng: Random, part: Part) -> Args:
    other_args = args
    while other_args == args or (family.open and part_of(other_args) != part):
        other_args = family.draw(rng)
    return other_args


def understand_follow_up(first: Quest, text: str) -> Quest | None:
    """Return the quest that a user's second turn states after an answer to `first`, or None if it states none."""
    if len(text) > MAX_CHARACTERS:
        return None
    family = FAMILIES[first.family]
    for kind, phrasing in _kinds_and_phrasings():
        match = re.match(slots(phrasing, r"(?P<{}>[\w ]+?)"), text)
        constraints = read_constraints(text[match.end() :]) if match else None
        if not match or constraints is None:
            continue
        if kind == AGAIN:
            return first._replace(constraints=constraints, request=match[0], instruction=text)
        args = tuple(match["a"].split(SEPARATOR))
        try:
            family.answer(args)
        except (KeyError, ValueError, IndexError, TypeError):
            continue
        if not family.input and len(args) == len(first.args):
            return Quest(first.family, args, constraints, match[0], text, "")
    return None


@cache
def _kinds_and_phrasings() -> list[tuple[str, str]]:
    """Return all phrasings with their kinds, the longest first: "And {a}?" also matches how others begin."""
    phrasings = [
        (kind, phrasing) for kind in (AGAIN, OTHER) for part in PARTS for phrasing in follow_up_phrasings(kind)[part]
    ]
    return sorted(phrasings, key=lambda row: -len(row[1]))
