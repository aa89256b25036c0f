"""lamb's held-out suite and its seed tasks: the tasks of its benchmark, and those that the loop starts from."""

from collections.abc import Iterator
from random import Random

from isheep.lamb.families import FAMILIES
from isheep.lamb.pages import content
from isheep.lamb.phrasings import Part
from isheep.lamb.world import Quest, draw_quest, right_answer, understand
from isheep.records import Pair, Task

NUM_ITEMS = 1000
NUM_VALIDATION_ITEMS = 500

NUM_SEED_TASKS = 88
"""Four for each family."""

CLASSIFICATION = ("continent", "kind")
"""The families that sort a word into one of a few groups."""


def suite(num_items: int = NUM_ITEMS, seed: int = 2026, part: Part = "exam") -> list[Quest]:
    """Return different held-out quests.

    No page has their phrasings. No page poses a task of an open family with the same arguments in the same order; the
    arguments can occur on a page in another order, and a list within a longer list or an answer.
    """
    rng, quests = Random(seed), dict[str, Quest]()
    while len(quests) < num_items:
        quest = draw_quest(rng, part)
        quests.setdefault(content(quest), quest)
    return list(quests.values())


def validation() -> list[Quest]:
    """Return quests for choosing settings and for stopping, with phrasings and arguments of their own."""
    return suite(NUM_VALIDATION_ITEMS, part="validation")


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
    """Return whether the content is right, every demand is met, and the answer ended by itself."""
    return stopped and quest.content_right(text) and all(quest.followed(text))


def is_truly_right(pair: Pair) -> bool:
    """Return whether a generated pair is right. A task that the world does not understand has no right answer.

    The loop never sees this; it serves to measure the loop.
    """
    quest = understand_task(pair)
    return quest is not None and is_right(quest, pair.output, pair.finish == "stop")


def kinds_of(pair: Pair) -> list[str]:
    """Return the family of a generated pair's task, and the kind of each of its demands."""
    quest = understand_task(pair)
    if quest is None:
        return ["family: not understood"]
    return [
        f"family: {quest.family}",
        *(f"constraint: {kind}" for kind in {demand.kind: None for demand in quest.demands}),
    ]


def understand_task(task: Task) -> Quest | None:
    """Return the quest that a task states, or None if it states none."""
    return understand(task.instruction, task.input)
