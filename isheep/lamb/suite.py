"""lamb's held-out suite and its seed tasks: what it is examined on, and what it starts from."""

from collections.abc import Iterator
from random import Random

from isheep.lamb.families import FAMILIES
from isheep.lamb.pages import content
from isheep.lamb.phrasings import Part
from isheep.lamb.world import Quest, draw_quest, right_answer, understand
from isheep.records import Pair, Task

ITEMS = 1000
VALIDATION = 500
SEED_TASKS = 88  # four a family
CLASSIFICATION = ("continent", "kind")  # the families that sort a word into one of a few groups


def suite(items: int = ITEMS, seed: int = 2026, part: Part = "exam") -> list[Quest]:
    """Different held-out quests, always the same: their phrasings, and their numbers and lists, are in no page."""
    rng, found = Random(seed), dict[str, Quest]()
    while len(found) < items:
        quest = draw_quest(rng, part)
        found.setdefault(content(quest), quest)
    return list(found.values())


def validation() -> list[Quest]:
    """Quests for choosing settings and for stopping, with phrasings and arguments of their own."""
    return suite(VALIDATION, part="validation")


def seed_tasks(seed: int = 7) -> Iterator[dict[str, str | bool]]:
    """Seed tasks in the Alpaca form, which say whether they are classification: every family as often, in phrasings of
    the corpus, rightly answered."""
    rng, each = Random(seed), SEED_TASKS // len(FAMILIES)
    left = dict.fromkeys(FAMILIES, each)
    while any(left.values()):
        quest = draw_quest(rng)
        if left[quest.family]:
            left[quest.family] -= 1
            task = {"instruction": quest.instruction, "input": quest.input, "output": right_answer(quest, rng)}
            yield {**task, "is_classification": quest.family in CLASSIFICATION}


def right(quest: Quest, text: str, stopped: bool) -> bool:
    """All right: content right, every demand met, and it stopped by itself."""
    return stopped and quest.content_right(text) and all(quest.followed(text))


def truly_right(pair: Pair) -> bool:
    """Whether a generated pair is right. A task that the world can't understand has no right answer.

    The loop never sees this; it is for measuring the loop.
    """
    quest = understood(pair)
    return quest is not None and right(quest, pair.output, pair.finish == "stop")


def understood(task: Task) -> Quest | None:
    return understand(task.instruction, task.input)
