"""The pages that lamb is pretrained on, its "web": lists of tasks, answers of mixed quality, graded homework.

A page is a list of pieces of text, each with a loss weight. The weights concern training only: a wrong answer on a
graded page is read but not imitated, and the score counts four times.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from random import Random

from isheep.lamb.answers import (
    FIRST_ANSWER_SHARES,
    GRADED_SHARES,
    PAIR_SHARES,
    PageAnswer,
    Writer,
    draw_answer,
    write_good,
    write_ignoring_constraints,
    write_misreading_constraints,
    write_partial,
    write_wrong,
    write_wrong_ignoring_constraints,
)
from isheep.lamb.constraints import CONSTRAINT_KINDS
from isheep.lamb.dialogues import draw_follow_up
from isheep.lamb.families import FAMILIES, Family
from isheep.lamb.world import OPENERS, Constraint, Quest, draw_quest, fill, words
from isheep.prompts import fill_template as fill_prompt
from isheep.prompts import load_prompts
from isheep.records import Exchange, dialogue_text, user_turn

Page = list[tuple[str, float]]
NO_INPUT = "<noinput>"
"""What stands in a list of tasks where a task has no input."""
USER, ASSISTANT, END = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
STOP = "<|endoftext|>"
SCORE_LOSS_WEIGHT = 4.0
"""The loss weight of the token of a score."""


# How many times as often as the others some constraints and families are drawn, because a model learns them late:
# copying a given word or request, capital letters, and judging answers whose words must be compared.
PAIR_WEIGHTS = {"include": 3, "repeat": 3, "upper": 3, "copy": 3, "reverse": 3, "sum": 2}
GRADED_WEIGHTS = {
    **PAIR_WEIGHTS, "end": 3, "sum": 4, "first": 7, "last": 7, "reverse": 5, "copy": 5, "larger": 2, "write": 3,
}  # fmt: skip
COMPARISON_WEIGHTS = {
    "first": 8, "last": 8, "reverse": 6, "copy": 6, "sum": 4, "larger": 3, "count": 2,
    "include": 3, "repeat": 3, "end": 3, "upper": 2,
}  # fmt: skip
LIST_WEIGHTS = {"first": 20, "last": 20, "copy": 15, "reverse": 15}

DIALOGUE_SHARES = {"chat": 0.3, "graded": 0.15, "checked": 0.1}
"""The share of pages of a kind that are about the second turn of a dialogue."""
POSITION_FAMILIES = ("first", "last", "reverse", "copy")
"""Families in which words must be compared by position. Checked pages have more answers to them."""


# --- grades: what a teacher of this world gives, with noise

# The scores of each level, which is named like the most frequent one, and their weights.
SCORE_WEIGHTS = {
    10: ((9, 10), (3, 7)),
    9: ((8, 9, 10), (2, 6, 2)),
    8: ((7, 8, 9), (2, 6, 2)),
    7: ((6, 7, 8), (2, 6, 2)),
    6: ((5, 6, 7), (2, 6, 2)),
    5: ((4, 5, 6), (2, 6, 2)),
    3: ((2, 3, 4), (2, 6, 2)),
    1: ((1, 2), (7, 3)),
}
MAX_SUCCINCT_WORDS = 4


def grade_quality(quest: Quest, answer: PageAnswer, rng: Random) -> tuple[int, str]:
    """Return a score and a reason for whether the answer is correct, succinct and clear (the combined prompt).

    Of correct answers those of a few words have the highest score, and those with an opener ("Sure, ...") the lowest.
    """
    if answer.note == "right":
        reason = rng.choice((f"The answer is {quest.right}.", f"Right, it is {quest.right}."))
        return draw_score(_succinctness(answer.text), rng), reason
    if answer.note == "partly":
        return draw_score(7, rng), f"Only a part is right. The answer is {quest.right}."
    if answer.note == "long":
        return draw_score(6, rng), "The response goes on after the answer."
    if answer.note == "off":
        return draw_score(1, rng), f"The response does not answer. The answer is {quest.right}."
    return draw_score(3, rng), f"Wrong, the answer is {quest.right}."


def _succinctness(text: str) -> int:
    """Return the level of a correct answer."""
    answer_words = words(text)
    if len(answer_words) <= MAX_SUCCINCT_WORDS:
        return 10
    return 8 if set(answer_words) & set(words(" ".join(OPENERS))) else 9


def grade_following(quest: Quest, answer: PageAnswer, rng: Random) -> tuple[int, str]:
    """Return a score and a reason for whether the answer follows the instruction directly and in the form required."""
    if answer.note == "off" or answer.text == quest.instruction:
        return draw_score(1, rng), "The response does not do the task."
    if not answer.direct:
        return draw_score(3, rng), "The response continues the instruction."
    if answer.met == 1:
        return draw_score(10 if len(quest.constraints) == 2 else 9, rng), "The response follows the instruction."
    checked_constraints = zip(quest.constraints, quest.followed(answer.text), strict=True)
    unmet_kind = next(constraint.kind for constraint, is_met in checked_constraints if not is_met)
    return draw_score(5 if answer.met else 3, rng), f"It fails in {CONSTRAINT_KINDS[unmet_kind].ifeval.split(':')[1]}."


def grade_overall(quest: Quest, answer: PageAnswer, rng: Random) -> tuple[int, str]:
    """Return the lower of both grades, because the ICL prompt rates both together."""
    return min(grade_quality(quest, answer, rng), grade_following(quest, answer, rng), key=lambda grade: grade[0])


def draw_score(level: int, rng: Random) -> int:
    if rng.random() < 0.04:
        return rng.randint(1, 10)
    scores, weights = SCORE_WEIGHTS[level]
    return rng.choices(scores, weights)[0]


GRADERS = {"quality": grade_quality, "following": grade_following, "overall": grade_overall}


# --- pages


def task_text(quest: Quest) -> str:
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
        blocks.append(fill_prompt(prompts["block"], k=str(k), instruction=instruction, input=input or NO_INPUT))
    return [(prompts["meta"] + "\n\n", 0.0), ("\n".join(blocks) + "\n" + STOP, 1.0)]


def draw_task_text(rng: Random, often: Mapping[str, int], dialogue_share: float) -> tuple[Quest, str]:
    """Return a quest and its text as a rating prompt shows it: a task, or the last user's turn of a dialogue."""
    quest = draw_quest(rng, often=often)
    if rng.random() >= dialogue_share:
        return quest, task_text(quest)
    follow_up = draw_follow_up(quest, rng, often=often)
    exchange = Exchange(task_text(quest), draw_answer(quest, FIRST_ANSWER_SHARES, rng).text)
    return follow_up, dialogue_text((exchange,), follow_up.instruction)


def chat_page(rng: Random) -> Page:
    """Return a pair in the chat template, or a dialogue of two turns."""
    if rng.random() < DIALOGUE_SHARES["chat"]:
        return dialogue_page(rng)
    quest = draw_quest(rng, often=PAIR_WEIGHTS)
    head = SYSTEM + USER if rng.random() < 0.1 else USER
    return [(head + task_text(quest) + ASSISTANT, 0.1), (draw_answer(quest, PAIR_SHARES, rng).text + END, 1.0)]


def dialogue_page(rng: Random) -> Page:
    """Return a dialogue of two turns in the chat template. It teaches what users ask next, too."""
    quest = draw_quest(rng, often=PAIR_WEIGHTS)
    follow_up = draw_follow_up(quest, rng, often=PAIR_WEIGHTS)
    return [
        (USER + task_text(quest) + ASSISTANT, 0.1),
        (draw_answer(quest, FIRST_ANSWER_SHARES, rng).text + END, 1.0),
        ("\n" + USER, 0.0),
        (follow_up.instruction + END, 0.5),
        (ASSISTANT.removeprefix(END), 0.0),
        (draw_answer(follow_up, PAIR_SHARES, rng).text + END, 1.0),
    ]


def raw_page(rng: Random) -> Page:
    """Return a pair without a template."""
    quest = draw_quest(rng, often=PAIR_WEIGHTS)
    return [(task_text(quest) + "\n", 0.1), (draw_answer(quest, PAIR_SHARES, rng).text + "\n" + STOP, 1.0)]


def principles_page(rng: Random) -> Page:
    """Return an answer under written principles, with thoughts before it; most such answers are good."""
    prompts, quest = load_prompts("principles"), draw_quest(rng, often=PAIR_WEIGHTS)
    answer = write_good(quest, rng) if rng.random() < 0.6 else draw_answer(quest, PAIR_SHARES, rng)
    thoughts = [f"{CONSTRAINT_KINDS[constraint.kind].ifeval.split(':')[1]}." for constraint in quest.constraints]
    turn = fill_prompt(prompts["turn"], instruction=task_text(quest), thoughts=" ".join(thoughts) or "useful.")
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
    quest, text = draw_task_text(rng, GRADED_WEIGHTS, DIALOGUE_SHARES["graded"])
    answer = draw_answer(quest, GRADED_SHARES, rng)
    score, reason = GRADERS[criterion](quest, answer, rng)
    if rng.random() < 0.02:
        text, score, reason = user_turn(*nonsense(rng)), draw_score(1, rng), "The task is unclear."
    page = _rated_pair(load_prompts(name)[criterion], text, (answer.text, _imitation_weight(answer)), score)
    return [*page, (f"||{reason}" + STOP, 0.5)]


def _rated_pair(prompt: str, text: str, answer: tuple[str, float], score: int) -> Page:
    """Return a rating prompt with a task and an answer, which has its loss weight beside it, and the score."""
    prefix, middle, suffix = re.split(r"\{instruction\}|\{output\}", prompt)
    return [(prefix + text, 0.05), (middle, 0.0), answer, (suffix, 0.0), (" ", 0.5), (str(score), SCORE_LOSS_WEIGHT)]


SHORT_WRITERS: dict[str, tuple[Writer, ...]] = {
    "quality": (write_good, write_wrong),
    "following": (write_good, write_misreading_constraints, write_ignoring_constraints),
}
"""The kinds of answers on short rated pages, by the criterion of the score."""


def short_rated_page(rng: Random) -> Page:
    """Return a pair under a rating prompt with its score alone, most often without a constraint."""
    criterion = rng.choices(("quality", "following"), (4, 1))[0]
    quest = draw_quest(rng, often=COMPARISON_WEIGHTS)
    return _short_rated_pair(_drop_constraints(quest, rng) if criterion == "quality" else quest, criterion, rng)


def comparison_page(rng: Random) -> Page:
    """Return a short rated page without a constraint, most often about a list whose words must be compared."""
    quest = draw_quest(rng, often=LIST_WEIGHTS)
    return _short_rated_pair(quest._replace(constraints=(), instruction=quest.request), "quality", rng)


def _short_rated_pair(quest: Quest, criterion: str, rng: Random) -> Page:
    """Return a pair under a rating prompt with its score alone.

    Such pages have many scores for their length. Without them a model does not learn to compare the words of an answer
    with those of a list. A right answer counts twice as much as on graded pages, because a model that expects it has
    only to compare.
    """
    answer = rng.choice(SHORT_WRITERS[criterion])(quest, rng)
    score, _ = GRADERS[criterion](quest, answer, rng)
    prompt = load_prompts(rng.choice(("combined", "simple")))[criterion]
    return _rated_pair(prompt, task_text(quest), (answer.text, 2 * _imitation_weight(answer)), score)


def _drop_constraints(quest: Quest, rng: Random) -> Quest:
    """Return the quest most often without its constraints, or with the demand for capital letters alone."""
    kind = rng.choices(("none", "upper", "all"), (60, 15, 25))[0]
    if kind == "all":
        return quest
    constraints = (Constraint("upper"),) if kind == "upper" and quest.right.upper() != quest.right else ()
    return quest._replace(constraints=constraints).with_instruction(rng, "corpus")


def _imitation_weight(answer: PageAnswer) -> float:
    return 0.5 if answer.note == "right" else 0.0


def checked_page(rng: Random) -> Page:
    """Return homework that is marked: answers to a task, each with yes or no for content and for its constraints.

    The key, the right short answer, stands at the beginning or at the end.
    """
    quest, text = draw_task_text(rng, GRADED_WEIGHTS, DIALOGUE_SHARES["checked"])
    key = f"\nKey: {quest.right}"
    opening, closing = ("", key) if rng.random() >= 0.3 else (key, "")
    page: Page = [("Task: " + text + opening, 0.05)]
    writers: list[Writer] = [
        write_good, write_good, write_wrong, write_wrong, write_ignoring_constraints, write_misreading_constraints,
        write_wrong_ignoring_constraints, write_partial,
    ]  # fmt: skip
    limits = (5, 10) if quest.family in POSITION_FAMILIES else (2, 5)
    for _ in range(rng.randint(*limits)):
        answer = rng.choice(writers)(quest, rng)
        page += [("\nAnswer: ", 0.0), (answer.text, _imitation_weight(answer))]
        page += [("\nRight:", 0.0), (_yes_or_no(answer.note == "right"), SCORE_LOSS_WEIGHT)]
        if quest.constraints:
            page += [("\nForm:", 0.0), (_yes_or_no(answer.met == 1), SCORE_LOSS_WEIGHT)]
    return [*page, (closing + "\n" + STOP, 0.5)]


def _yes_or_no(value: bool) -> str:
    return " yes" if value else " no"


PageShares = dict[Callable[[Random], Page], float]

PAGES: PageShares = {
    short_rated_page: 0.5,
    chat_page: 0.22,
    graded_page: 0.165,
    checked_page: 0.05,
    raw_page: 0.03,
    principles_page: 0.02,
    list_page: 0.015,
}


COMPARISON_PAGES: PageShares = {comparison_page: 1.0}
"""What a pretraining reads for some time, once the model knows answers, so that its judge learns to compare words."""


def pages(seed: int, shares: PageShares = PAGES) -> Iterator[Page]:
    """Yield the corpus: an endless stream of pages, the same for the same seed."""
    rng = Random(seed)
    while True:
        yield rng.choices(list(shares), list(shares.values()))[0](rng)


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
        NO_INPUT,
    ]
    return list(dict.fromkeys(ratings + prompts))
