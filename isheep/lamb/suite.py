"""lamb's held-out tasks and dialogues, which its benchmarks ask, and the seed tasks, from which the loop starts."""

from collections.abc import Iterator
from functools import cache
from random import Random
from typing import NamedTuple

from isheep.lamb.dialogues import draw_follow_up, understand_follow_up
from isheep.lamb.families import FAMILIES
from isheep.lamb.pages import task_text
from isheep.lamb.phrasings import Part
from isheep.lamb.world import Quest, draw_quest, right_answer, understand
from isheep.records import DialogueTask, Exchange, History, Pair, Turns, dialogue_text, history_turns

NUM_ITEMS = 1000
NUM_VALIDATION_ITEMS = 500
NUM_DIALOGUES = 400

NUM_SEED_TASKS = 88
"""Four for each family."""

CLASSIFICATION = ("continent", "kind")
"""The families that sort a word into one of a few groups."""


@cache
def suite(num_items: int = NUM_ITEMS, seed: int = 2026, part: Part = "exam") -> tuple[Quest, ...]:
    """Return different held-out quests.

    No page has their phrasings. No page poses a task of an open family with the same arguments in the same order; the
    arguments can occur on a page in another order, and a list within a longer list or an answer.
    """
    rng, quests = Random(seed), dict[str, Quest]()
    while len(quests) < num_items:
        quest = draw_quest(rng, part)
        quests.setdefault(task_text(quest), quest)
    return tuple(quests.values())


def validation() -> tuple[Quest, ...]:
    """Return quests for choosing settings and for stopping, with phrasings and arguments of their own."""
    return suite(NUM_VALIDATION_ITEMS, part="validation")


class Dialogue(NamedTuple):
    """A task, and what the user asks after the answer to it."""

    first: Quest
    follow_up: Quest

    def history(self, first_answer: str) -> History:
        """Return the first turn with an answer to it."""
        return (Exchange(task_text(self.first), first_answer),)

    def texts(self, first_answer: str) -> tuple[str, str]:
        """Return what is answered in each turn, as plain text: the task, and the dialogue up to the follow-up."""
        return task_text(self.first), dialogue_text(self.history(first_answer), self.follow_up.instruction)

    def conversation(self, first_answer: str) -> Turns:
        """Return the dialogue up to the follow-up as a chat template takes it."""
        return [*history_turns(self.history(first_answer)), ("user", self.follow_up.instruction)]


@cache
def dialogues(num_dialogues: int = NUM_DIALOGUES, seed: int = 2027, part: Part = "exam") -> tuple[Dialogue, ...]:
    """Return held-out dialogues with different first turns.

    Both turns have the phrasings of the part, and if the family is open, its arguments.
    """
    rng = Random(seed)
    return tuple(Dialogue(quest, draw_follow_up(quest, rng, part)) for quest in suite(num_dialogues, seed, part))


def validation_dialogues() -> tuple[Dialogue, ...]:
    """Return dialogues for choosing settings and for stopping, with phrasings and arguments of their own."""
    return dialogues(part="validation")


def seed_tasks(seed: int = 7) -> Iterator[dict[str, str | bool]]:
    """Yield seed tasks in the Alpaca form, with whether they are classification.

    Every family is equally frequent; phrasings are those of the corpus, and the answers are right.
    """
    rng, per_family = Random(seed), NUM_SEED_TASKS // len(FAMILIES)
    missing = dict.fromkeys(FAMILIES, per_family)
    while any(missing.values()):
        quest = draw_quest(rng)
        if missing[quest.family]:
            missing[quest.family] -= 1
            task = {"instruction": quest.instruction, "input": quest.input, "output": right_answer(quest, rng)}
            yield {**task, "is_classification": quest.family in CLASSIFICATION}


def is_right(quest: Quest, text: str, stopped: bool) -> bool:
    """Return whether the content is right, every constraint is met, and the answer ended by itself."""
    return stopped and quest.content_right(text) and all(quest.followed(text))


def is_truly_right(pair: Pair) -> bool:
    """Return whether a generated pair is right. A task that the world does not understand has no right answer.

    The loop never sees this; it serves to measure the loop.
    """
    quest = understand_task(pair)
    return quest is not None and is_right(quest, pair.output, pair.finish == "stop")


def kinds_of(pair: Pair) -> list[str]:
    """Return the family of a generated pair's task, the kinds of its constraints, and its turn if not the first."""
    quest = understand_task(pair)
    turns = [f"turn: {len(pair.history) + 1}"] if pair.history else []
    if quest is None:
        return ["family: not understood", *turns]
    constraints = [f"constraint: {kind}" for kind in dict.fromkeys(quest.constraint_kinds)]
    return [f"family: {quest.family}", *constraints, *turns]


def understand_task(task: DialogueTask) -> Quest | None:
    """Return the quest that a task states after the user's turns before it, or None if one of them states none."""
    if not task.history:
        return understand(task.instruction, task.input)
    first_turn, *later_turns = *(exchange.user for exchange in task.history), task.user_turn
    # No instruction of the world has a line end, so that the input begins after the first.
    instruction, _, input = first_turn.partition("\n")
    quest = understand(instruction, input)
    for turn in later_turns:
        quest = understand_follow_up(quest, turn) if quest else None
    return quest
