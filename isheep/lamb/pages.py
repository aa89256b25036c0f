"""The pages that lamb is pretrained on, its "web": lists of tasks, answers of mixed quality, graded homework.

A page is a list of pieces of text, each with a loss weight. The weights concern training only: a wrong answer on a
graded page is read but not imitated, and the score counts four times.
"""

import re
from collections.abc import Iterator
from random import Random

from isheep.lamb.answers import (
    GRADED_SHARES,
    PAIR_SHARES,
    PageAnswer,
    Writer,
    draw_answer,
    write_good,
    write_ignoring_demands,
    write_misreading_demands,
    write_partial,
    write_wrong,
    write_wrong_ignoring_demands,
)
from isheep.lamb.constraints import CONSTRAINTS
from isheep.lamb.families import FAMILIES, Family
from isheep.lamb.world import Quest, draw_quest, fill
from isheep.prompts import fill_template as fill_prompt
from isheep.prompts import load_prompts
from isheep.records import user_turn

Page = list[tuple[str, float]]
USER, ASSISTANT, END = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
STOP = "<|endoftext|>"
SCORE_LOSS_WEIGHT = 4.0
"""The loss weight of the token of a score."""


# How many times as often as the others some constraints and families are drawn, because a model learns them late:
# copying a given word or request, and judging answers whose words must be compared.
PAIR_WEIGHTS = {"include": 3, "repeat": 3}
GRADED_WEIGHTS = {
    **PAIR_WEIGHTS, "end": 2, "sum": 4, "first": 6, "last": 6, "reverse": 4, "copy": 4, "larger": 2, "write": 3,
}  # fmt: skip


# --- grades: what a teacher of this world gives, with noise

# For each level the scores that are given, and their weights.
SCORE_WEIGHTS = {
    "top": ((8, 9, 10), (2, 6, 2)),
    "good": ((6, 7, 8), (4, 4, 2)),
    "half": ((4, 5, 6), (3, 4, 3)),
    "low": ((2, 3, 4), (4, 4, 2)),
    "none": ((1, 2), (7, 3)),
}


def grade_quality(quest: Quest, answer: PageAnswer, rng: Random) -> tuple[int, str]:
    """Return a score and a reason for whether the answer is correct, succinct and clear (the combined prompt)."""
    if answer.note == "right":
        return draw_score("top", rng), rng.choice((f"The answer is {quest.right}.", f"Right, it is {quest.right}."))
    if answer.note == "partly":
        return draw_score("good", rng), f"Only a part is right. The answer is {quest.right}."
    if answer.note == "long":
        return draw_score("half", rng), "The response goes on after the answer."
    if answer.note == "off":
        return draw_score("none", rng), f"The response does not answer. The answer is {quest.right}."
    return draw_score("low", rng), f"Wrong, the answer is {quest.right}."


def grade_following(quest: Quest, answer: PageAnswer, rng: Random) -> tuple[int, str]:
    """Return a score and a reason for whether the answer follows the instruction directly and in the form required."""
    if answer.note == "off" or answer.text == quest.instruction:
        return draw_score("none", rng), "The response does not do the task."
    if not answer.direct:
        return draw_score("low", rng), "The response continues the instruction."
    if answer.met == 1:
        return draw_score("top", rng), "The response follows the instruction."
    checked_demands = zip(quest.demands, quest.followed(answer.text), strict=True)
    missed = next(demand.kind for demand, is_met in checked_demands if not is_met)
    return draw_score("half" if answer.met else "low", rng), f"It fails in {CONSTRAINTS[missed].ifeval.split(':')[1]}."


def grade_overall(quest: Quest, answer: PageAnswer, rng: Random) -> tuple[int, str]:
    """Return the lower of both grades, because the ICL prompt rates both together."""
    return min(grade_quality(quest, answer, rng), grade_following(quest, answer, rng), key=lambda grade: grade[0])


def draw_score(level: str, rng: Random) -> int:
    if rng.random() < 0.04:
        return rng.randint(1, 10)
    scores, weights = SCORE_WEIGHTS[level]
    return rng.choices(scores, weights)[0]


GRADERS = {"quality": grade_quality, "following": grade_following, "overall": grade_overall}


# --- pages


def content(quest: Quest) -> str:
    """Return the user's turn: instruction and input."""
    return user_turn(quest.instruction, quest.input)


def nonsense(rng: Random) -> tuple[str, str]:
    """Return the instruction and input of a task that makes no sense, because its arguments are another family's."""
    quest, other_quest = draw_quest(rng), draw_quest(rng)
    family = FAMILIES[quest.family]
    while other_quest.family == quest.family or not _has_arguments(FAMILIES[other_quest.family]):
        other_quest = draw_quest(rng)
    args = (other_quest.args * 2)[: max(1, len(quest.args))]
    return fill(rng.choice(family.phrasings["corpus"]), args), ""


def _has_arguments(family: Family) -> bool:
    """Return whether an instruction of the family shows its arguments, rather than the task's input."""
    return "{" in family.phrasings["corpus"][0]


def list_page(rng: Random) -> Page:
    """Return 3 to 12 numbered tasks in the form of the in-context prompt."""
    prompts = load_prompts("synthesis")
    num_tasks, blocks = rng.randint(3, 12), []
    for k in range(1, num_tasks + 1):
        quest = draw_quest(rng, often=PAIR_WEIGHTS)
        instruction, input = (quest.instruction, quest.input) if rng.random() > 0.04 else nonsense(rng)
        blocks.append(fill_prompt(prompts["block"], k=str(k), instruction=instruction, input=input or "<noinput>"))
    return [(prompts["meta"] + "\n\n", 0.0), ("\n".join(blocks) + "\n" + STOP, 1.0)]


def chat_page(rng: Random) -> Page:
    """Return a pair in the chat template."""
    quest = draw_quest(rng, often=PAIR_WEIGHTS)
    head = SYSTEM + USER if rng.random() < 0.1 else USER
    return [(head + content(quest) + ASSISTANT, 0.1), (draw_answer(quest, PAIR_SHARES, rng).text + END, 1.0)]


def raw_page(rng: Random) -> Page:
    """Return a pair without a template."""
    quest = draw_quest(rng, often=PAIR_WEIGHTS)
    return [(content(quest) + "\n", 0.1), (draw_answer(quest, PAIR_SHARES, rng).text + "\n" + STOP, 1.0)]


def principles_page(rng: Random) -> Page:
    """Return an answer under written principles, with thoughts before it; most such answers are good."""
    prompts, quest = load_prompts("principles"), draw_quest(rng, often=PAIR_WEIGHTS)
    answer = write_good(quest, rng) if rng.random() < 0.6 else draw_answer(quest, PAIR_SHARES, rng)
    thoughts = [f"{CONSTRAINTS[demand.kind].ifeval.split(':')[1]}." for demand in quest.demands]
    turn = fill_prompt(prompts["turn"], instruction=content(quest), thoughts=" ".join(thoughts) or "useful.")
    return [(prompts["preamble"] + "\n\n", 0.0), (turn, 0.5), (" " + answer.text + "\n" + STOP, 1.0)]


# How often the paper's rating prompts, (file, criterion), are drawn.
RATINGS = {
    ("combined", "quality"): 40,
    ("combined", "following"): 20,
    ("simple", "quality"): 14,
    ("simple", "following"): 7,
    ("icl", "overall"): 10,
}


def graded_page(rng: Random) -> Page:
    """Return a pair under one of the paper's rating prompts, with its score and a reason."""
    name, criterion = rng.choices(list(RATINGS), list(RATINGS.values()))[0]
    quest = draw_quest(rng, often=GRADED_WEIGHTS)
    answer = draw_answer(quest, GRADED_SHARES, rng)
    score, reason = GRADERS[criterion](quest, answer, rng)
    if rng.random() < 0.02:
        instruction, input = nonsense(rng)
        quest = quest._replace(instruction=instruction, input=input)
        score, reason = draw_score("none", rng), "The task is unclear."
    prefix, middle, suffix = re.split(r"\{instruction\}|\{output\}", load_prompts(name)[criterion])
    return [
        (prefix + content(quest), 0.05),
        (middle, 0.0),
        (answer.text, _imitation_weight(answer)),
        (suffix, 0.0),
        (f" {score}", SCORE_LOSS_WEIGHT),
        (f"||{reason}" + STOP, 0.5),
    ]


def _imitation_weight(answer: PageAnswer) -> float:
    return 0.5 if answer.note == "right" else 0.0


def checked_page(rng: Random) -> Page:
    """Return homework that is marked: answers to a task, each with yes or no for content and, with demands, for form.

    The key, the right short answer, stands at the beginning or at the end.
    """
    quest = draw_quest(rng, often=GRADED_WEIGHTS)
    key = f"\nKey: {quest.right}"
    opening, closing = ("", key) if rng.random() >= 0.3 else (key, "")
    page: Page = [("Task: " + content(quest) + opening, 0.05)]
    writers: list[Writer] = [
        write_good, write_good, write_wrong, write_wrong, write_ignoring_demands, write_misreading_demands,
        write_wrong_ignoring_demands, write_partial,
    ]  # fmt: skip
    for _ in range(rng.randint(2, 5)):
        answer = rng.choice(writers)(quest, rng)
        page += [("\nAnswer: ", 0.0), (answer.text, _imitation_weight(answer))]
        page += [("\nRight:", 0.0), (_yes_or_no(answer.note == "right"), SCORE_LOSS_WEIGHT)]
        if quest.demands:
            page += [("\nForm:", 0.0), (_yes_or_no(answer.met == 1), SCORE_LOSS_WEIGHT)]
    return [*page, (closing + "\n" + STOP, 0.5)]


def _yes_or_no(value: bool) -> str:
    return " yes" if value else " no"


PAGES = {graded_page: 0.36, checked_page: 0.28, chat_page: 0.27, raw_page: 0.04, list_page: 0.03, principles_page: 0.02}


def pages(seed: int) -> Iterator[Page]:
    """Yield the corpus: an endless stream of pages, the same for the same seed."""
    rng = Random(seed)
    kinds, shares = list(PAGES), list(PAGES.values())
    while True:
        yield rng.choices(kinds, shares)[0](rng)


def page_text(page: Page) -> str:
    """Return the text of a page without the weights."""
    return "".join(text for text, _ in page)


def constants() -> list[str]:
    """Return the long fixed sentences of the method's prompts; the tokenizer has a token for each."""
    ratings = [piece for name, criterion in RATINGS for piece in re.split(r"\{\w+\}", load_prompts(name)[criterion])]
    prompts = [
        load_prompts("synthesis")["meta"],
        load_prompts("principles")["preamble"],
        ". Instruction:",
        ". Input:",
        "<noinput>",
    ]
    return list(dict.fromkeys(ratings + prompts))
