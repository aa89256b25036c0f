"""The raw "web" that lamb is pretrained on: lists of tasks, answers of mixed quality, graded homework.

A page is text in pieces with a loss weight each. Weights are a matter of training only (a wrong answer on a graded page
is read, not imitated; the score counts four times); the text is what a model would meet on such pages.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import NamedTuple

from isheep.lamb.constraints import CONSTRAINTS
from isheep.lamb.families import FAMILIES
from isheep.lamb.world import Demand, Quest, draw_quest, dress, fill, right_answer
from isheep.prompts import fill_template as fill_prompt
from isheep.prompts import load_prompts

Page = list[tuple[str, float]]
USER, ASSISTANT, END = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"
SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
STOP = "<|endoftext|>"
SCORE = 4.0  # loss weight of the score token


class PageAnswer(NamedTuple):
    """An answer with its true worth: content 0 wrong, 1 partly right, 2 right; share of demands met; direct or not."""

    text: str
    content: int
    met: float
    direct: bool
    note: str  # what a teacher would say of the content


def good(quest: Quest, rng: Random) -> PageAnswer:
    return PageAnswer(right_answer(quest, rng), 2, 1.0, True, "right")


def ignoring(quest: Quest, rng: Random) -> PageAnswer:
    """The right content with a demand, or all, not met; a right answer where there is none to ignore."""
    keep: tuple[Demand, ...] = quest.demands[:1] if len(quest.demands) == 2 and rng.random() < 0.6 else ()
    if keep and rng.random() < 0.5:
        keep = quest.demands[1:]
    return measured(quest, dress(quest, quest.right, keep, rng), 2)


def mistaking(quest: Quest, rng: Random) -> PageAnswer:
    """The right content with a demand misread: another word, phrase or number, another request repeated."""
    demands = tuple(Demand(d.kind, rng.choice(CONSTRAINTS[d.kind].values)) for d in quest.demands)
    misread = quest._replace(request=draw_quest(rng).request) if rng.random() < 0.7 else quest
    return measured(quest, dress(misread, quest.right, demands, rng), 2)


def wrong(quest: Quest, rng: Random) -> PageAnswer:
    """A wrong answer of the right type: the hard case for a judge."""
    return measured(quest, dress(quest, FAMILIES[quest.family].wrong(quest.args, rng), quest.demands, rng), 0)


def wrong_and_ignoring(quest: Quest, rng: Random) -> PageAnswer:
    return measured(quest, dress(quest, FAMILIES[quest.family].wrong(quest.args, rng), (), rng), 0)


def wrong_type(quest: Quest, rng: Random) -> PageAnswer:
    other = draw_quest(rng)
    while other.family == quest.family:
        other = draw_quest(rng)
    return measured(quest, dress(quest, other.right, quest.demands if rng.random() < 0.5 else (), rng), 0, "off")


def off_topic(quest: Quest, rng: Random) -> PageAnswer:
    return measured(quest, right_answer(draw_quest(rng), rng), 0, "off")


def unknowing(quest: Quest, rng: Random) -> PageAnswer:
    return measured(quest, rng.choice(("I do not know.", "I am not sure.", "I can not answer that.")), 0, "off")


def rambling(quest: Quest, rng: Random) -> PageAnswer:
    """An answer that runs on into further tasks or says itself again."""
    first = rng.choices((good, ignoring, wrong), (25, 45, 30))[0](quest, rng)
    other = draw_quest(rng)
    more = rng.choice(
        (
            f"\nInstruction: {other.instruction}",
            f" {other.instruction} {right_answer(other, rng)}",
            f" {first.text}" * 2,
        )
    )
    return PageAnswer(first.text + more, 1 if first.content else 0, 0.0, False, "long" if first.content else "wrong")


def echo(quest: Quest, rng: Random) -> PageAnswer:
    return PageAnswer(quest.instruction, 0, 0.0, False, "off")


def partial(quest: Quest, rng: Random) -> PageAnswer:
    """Two answers at once, one of them right; of a list all but one word."""
    false = FAMILIES[quest.family].wrong(quest.args, rng)
    both = [quest.right, false]
    rng.shuffle(both)
    short = quest.right.rsplit(", ", 1)[0] if ", " in quest.right else " or ".join(both)
    answer = measured(quest, dress(quest, short, quest.demands, rng), 1)
    return answer._replace(note="partly")


def measured(quest: Quest, text: str, content: int, note: str = "") -> PageAnswer:
    """The answer with its demands checked by the world; a text that happens to be right counts as right."""
    met = quest.followed(text)
    if quest.content_right(text):
        content = 2
    note = "right" if content == 2 else note or "wrong"
    return PageAnswer(text, content, sum(met) / len(met) if met else 1.0, note != "off", note)


Writer = Callable[[Quest, Random], PageAnswer]
# Shares of the kinds of answers on pages of pairs, and on graded pages.
WRITTEN: dict[Writer, float] = {
    good: 0.12,
    ignoring: 0.48,
    wrong: 0.05,
    wrong_type: 0.07,
    off_topic: 0.06,
    unknowing: 0.04,
    wrong_and_ignoring: 0.05,
    rambling: 0.09,
    echo: 0.04,
}
GRADED: dict[Writer, float] = {
    good: 0.32,
    ignoring: 0.13,
    mistaking: 0.09,
    wrong: 0.20,
    partial: 0.04,
    wrong_type: 0.06,
    off_topic: 0.03,
    unknowing: 0.02,
    wrong_and_ignoring: 0.05,
    rambling: 0.04,
    echo: 0.02,
}


# What is learned late is practised often: copying a told word or request, and judging where words must be compared.
ASKED = {"include": 3, "repeat": 3}
JUDGED = {**ASKED, "end": 2, "sum": 4, "first": 6, "last": 6, "reverse": 4, "copy": 4, "larger": 2, "write": 3}


def draw_answer(quest: Quest, shares: Mapping[Writer, float], rng: Random) -> PageAnswer:
    return rng.choices(list(shares), list(shares.values()))[0](quest, rng)


# --- grades: what a teacher of this world gives, with noise

SPREAD = {  # mean of the scale -> scores and their weights
    "top": ((8, 9, 10), (2, 6, 2)),
    "good": ((6, 7, 8), (4, 4, 2)),
    "half": ((4, 5, 6), (3, 4, 3)),
    "low": ((2, 3, 4), (4, 4, 2)),
    "none": ((1, 2), (7, 3)),
}


def quality(quest: Quest, answer: PageAnswer, rng: Random) -> tuple[int, str]:
    """Correct, succinct, clear (the combined prompt's words)."""
    if answer.note == "right":
        return draw_score("top", rng), rng.choice((f"The answer is {quest.right}.", f"Right, it is {quest.right}."))
    if answer.note == "partly":
        return draw_score("good", rng), f"Only a part is right. The answer is {quest.right}."
    if answer.note == "long":
        return draw_score("half", rng), "The response goes on after the answer."
    if answer.note == "off":
        return draw_score("none", rng), f"The response does not answer. The answer is {quest.right}."
    return draw_score("low", rng), f"Wrong, the answer is {quest.right}."


def following(quest: Quest, answer: PageAnswer, rng: Random) -> tuple[int, str]:
    """Directly answers, keeps to the form that is asked for."""
    if answer.note == "off" or answer.text == quest.instruction:
        return draw_score("none", rng), "The response does not do the task."
    if not answer.direct:
        return draw_score("low", rng), "The response continues the instruction."
    if answer.met == 1:
        return draw_score("top", rng), "The response follows the instruction."
    missed = next(d.kind for d, met in zip(quest.demands, quest.followed(answer.text), strict=True) if not met)
    return draw_score("half" if answer.met else "low", rng), f"It fails in {CONSTRAINTS[missed].ifeval.split(':')[1]}."


def overall(quest: Quest, answer: PageAnswer, rng: Random) -> tuple[int, str]:
    """The lower of both, as the ICL prompt rates them together."""
    return min(quality(quest, answer, rng), following(quest, answer, rng), key=lambda grade: grade[0])


def draw_score(level: str, rng: Random) -> int:
    if rng.random() < 0.04:
        return rng.randint(1, 10)
    scores, weights = SPREAD[level]
    return rng.choices(scores, weights)[0]


CRITERIA = {"quality": quality, "following": following, "overall": overall}


# --- pages


def content(quest: Quest) -> str:
    return f"{quest.instruction}\n{quest.input}" if quest.input else quest.instruction


def nonsense(rng: Random) -> tuple[str, str]:
    """A task that makes no sense: another family's arguments."""
    quest, other = draw_quest(rng), draw_quest(rng)
    family = FAMILIES[quest.family]
    while other.family == quest.family or len(FAMILIES[other.family].phrasings["corpus"][0].split("{")) < 2:
        other = draw_quest(rng)
    args = (other.args * 2)[: max(1, len(quest.args))]
    return fill(rng.choice(family.phrasings["corpus"]), args), ""


def list_page(rng: Random) -> Page:
    """Numbered tasks in the form of the in-context prompt (3 to 12 of them)."""
    prompts = load_prompts("synthesis")
    number, blocks = rng.randint(3, 12), []
    for k in range(1, number + 1):
        quest = draw_quest(rng, often=ASKED)
        instruction, given = (quest.instruction, quest.input) if rng.random() > 0.04 else nonsense(rng)
        blocks.append(fill_prompt(prompts["block"], k=str(k), instruction=instruction, input=given or "<noinput>"))
    return [(prompts["meta"] + "\n\n", 0.0), ("\n".join(blocks) + "\n" + STOP, 1.0)]


def chat_page(rng: Random) -> Page:
    quest = draw_quest(rng, often=ASKED)
    head = SYSTEM + USER if rng.random() < 0.1 else USER
    return [(head + content(quest) + ASSISTANT, 0.1), (draw_answer(quest, WRITTEN, rng).text + END, 1.0)]


def raw_page(rng: Random) -> Page:
    quest = draw_quest(rng, often=ASKED)
    return [(content(quest) + "\n", 0.1), (draw_answer(quest, WRITTEN, rng).text + "\n" + STOP, 1.0)]


def principles_page(rng: Random) -> Page:
    """An answer under written principles, with thoughts before it: mostly good, as such pages are."""
    prompts, quest = load_prompts("principles"), draw_quest(rng, often=ASKED)
    answer = good(quest, rng) if rng.random() < 0.6 else draw_answer(quest, WRITTEN, rng)
    thoughts = " ".join(f"{CONSTRAINTS[d.kind].ifeval.split(':')[1]}." for d in quest.demands) or "useful."
    turn = fill_prompt(prompts["turn"], instruction=content(quest), thoughts=thoughts)
    return [(prompts["preamble"] + "\n\n", 0.0), (turn, 0.5), (" " + answer.text + "\n" + STOP, 1.0)]


RATINGS = {  # the paper's rating prompts (file, criterion) and their weights
    ("combined", "quality"): 40,
    ("combined", "following"): 20,
    ("simple", "quality"): 14,
    ("simple", "following"): 7,
    ("icl", "overall"): 10,
}


def graded_page(rng: Random) -> Page:
    """A pair under one of the paper's rating prompts, its score and a word on why."""
    name, criterion = rng.choices(list(RATINGS), list(RATINGS.values()))[0]
    quest = draw_quest(rng, often=JUDGED)
    answer = draw_answer(quest, GRADED, rng)
    score, reason = CRITERIA[criterion](quest, answer, rng)
    if rng.random() < 0.02:
        text, given = nonsense(rng)
        quest = quest._replace(instruction=text, input=given)
        score, reason = draw_score("none", rng), "The task is unclear."
    before, middle, after = re.split(r"\{instruction\}|\{output\}", load_prompts(name)[criterion])
    imitate = 0.5 if answer.note == "right" else 0.0
    return [
        (before + content(quest), 0.05),
        (middle, 0.0),
        (answer.text, imitate),
        (after, 0.0),
        (f" {score}", SCORE),
        (f"||{reason}" + STOP, 0.5),
    ]


def checked_page(rng: Random) -> Page:
    """Homework ticked off: answers to a task, each marked yes or no for content and form; some show the key first."""
    quest = draw_quest(rng, often=JUDGED)
    key = f"\nKey: {quest.right}"
    first = rng.random() < 0.3
    page: Page = [("Task: " + content(quest) + key * first, 0.05)]
    kinds: list[Writer] = [good, good, wrong, wrong, ignoring, mistaking, wrong_and_ignoring, partial]
    for _ in range(rng.randint(2, 5)):
        answer = rng.choice(kinds)(quest, rng)
        right, formed = (" yes" if good else " no" for good in (answer.note == "right", answer.met == 1))
        imitate = 0.5 if answer.note == "right" else 0.0
        page += [("\nAnswer: ", 0.0), (answer.text, imitate), ("\nRight:", 0.0), (right, SCORE)]
        page += [("\nForm:", 0.0), (formed, SCORE)] * bool(quest.demands)
    return [*page, (key * (not first) + "\n" + STOP, 0.5)]


PAGES = {graded_page: 0.36, checked_page: 0.28, chat_page: 0.27, raw_page: 0.04, list_page: 0.03, principles_page: 0.02}


def pages(seed: int) -> Iterator[Page]:
    """The corpus: an endless stream of pages, the same for the same seed."""
    rng = Random(seed)
    kinds, shares = list(PAGES), list(PAGES.values())
    while True:
        yield rng.choices(kinds, shares)[0](rng)


def constants() -> list[str]:
    """The long fixed sentences of the method's prompts; the tokenizer has a token for each."""
    ratings = [piece for name, criterion in RATINGS for piece in re.split(r"\{\w+\}", load_prompts(name)[criterion])]
    others = [
        load_prompts("synthesis")["meta"],
        load_prompts("principles")["preamble"],
        ". Instruction:",
        ". Input:",
        "<noinput>",
    ]
    return list(dict.fromkeys(ratings + others))
