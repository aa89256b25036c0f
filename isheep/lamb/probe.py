"""What a lamb checkpoint can do before any loop: answer held-out turns, and tell right pairs from faulty ones."""

from collections.abc import Sequence
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from isheep.errors import UserError
from isheep.lamb.answers import (
    PageAnswer,
    write_good,
    write_ignoring_constraints,
    write_misreading_constraints,
    write_off_topic,
    write_rambling,
    write_wrong,
    write_wrong_type,
)
from isheep.lamb.pages import task_text
from isheep.lamb.respondent import Respondent
from isheep.lamb.suite import is_right, validation, validation_dialogues
from isheep.lamb.world import Quest, draw_quest
from isheep.models.chat_template import load_chat_template
from isheep.prompts import fill_template, load_prompts
from isheep.recipe.schema import RATING_SCALE
from isheep.records import Completion, Model

SAME_TYPE = "wrong, same type"
FAULTS = {
    SAME_TYPE: write_wrong,
    "wrong type": write_wrong_type,
    "off topic": write_off_topic,
    "runs on": write_rambling,
}

HARD_FAMILIES = ("sum", "larger", "first", "last", "reverse", "copy")
"""Families in which a judge has to work out the answer."""

HARD_CONSTRAINTS = ("end", "repeat", "include")
"""Constraints for which a judge has to compare words."""

UPPER = "upper"
"""The kind of constraint that asks for capital letters, which a model learns late."""

QuestPair = tuple[Quest, PageAnswer]


def probe(checkpoint: Path, num_pairs: int = 900, threads: int = 1) -> dict[str, Any]:
    """Return the shares of right answers on the validation part, and the AUROC of the model's ratings by fault.

    Answers are greedy, and sampled at temperature 1; those to second turns are greedy. The AUROC of a criterion is the
    probability that a right pair's expected score (over the ten score tokens, combined prompt) is above a faulty one's.
    """
    return {**measure_answers(checkpoint, threads), "auroc": measure_aurocs(load_score_reader(checkpoint), num_pairs)}


def measure_answers(checkpoint: Path, threads: int) -> dict[str, dict[str, float]]:
    """Return the shares of right answers to validation tasks, also of those in capital letters, and to second turns."""
    from isheep.engines.transformers import open_engine

    model, quests = Model(str(checkpoint)), validation()
    engine = open_engine(model, threads=threads)
    respondent = Respondent(engine, load_chat_template("tokenizer", model.base))
    greedy_answers, sampled_answers = (
        list(zip(quests, respondent.answer(quests, temperature), strict=True)) for temperature in (0.0, 1.0)
    )
    second_turns = answer_second_turns(respondent)
    engine.close()
    upper_answers = [(quest, answer) for quest, answer in greedy_answers if UPPER in quest.constraint_kinds]
    return {
        "greedy": {
            **shares(greedy_answers),
            **shares(upper_answers, f", {UPPER}"),
            **shares(second_turns, ", second turn"),
        },
        "sampled": shares(sampled_answers),
    }


def answer_second_turns(respondent: Respondent) -> list[tuple[Quest, Completion]]:
    """Return the follow-ups of the validation part, each with the answer to it after the model's own first answer."""
    dialogues = validation_dialogues()
    answers = respondent.answer_dialogues(dialogues)
    return [(dialogue.follow_up, second) for dialogue, (_, second) in zip(dialogues, answers, strict=True)]


def shares(answered_quests: Sequence[tuple[Quest, Completion]], suffix: str = "") -> dict[str, float]:
    """Return the share of answers that are right, and of those whose content is right."""
    right = [is_right(quest, answer.text.strip(), answer.finish == "stop") for quest, answer in answered_quests]
    content_right = [quest.content_right(answer.text.strip()) for quest, answer in answered_quests]
    return {f"right{suffix}": mean(right), f"content{suffix}": mean(content_right)}


class ScoreReader(NamedTuple):
    """A lamb whose ratings are read from its probabilities.

    `score_ids` are the tokens of the scores 1 to 10, and `opening_ids` the tokens before each of them (a space).
    """

    model: Any
    tokenizer: Any
    opening_ids: list[int]
    score_ids: list[int]

    def expected_scores(self, pairs: Sequence[QuestPair], criterion: str) -> list[float]:
        """Return the expected score of each pair, from one forward pass each."""
        import torch

        scale, scores = torch.arange(1.0, 11.0), []
        for quest, answer in pairs:
            text = fill_template(load_prompts("combined")[criterion], instruction=task_text(quest), output=answer.text)
            token_ids = torch.tensor([self.tokenizer(text).input_ids + self.opening_ids])
            with torch.inference_mode():
                logits = self.model(token_ids, logits_to_keep=1).logits[0, -1]
            scores.append(float((logits[self.score_ids].softmax(-1) * scale).sum()))
        return scores

    def auroc(self, right_pairs: Sequence[QuestPair], faulty_pairs: Sequence[QuestPair], criterion: str) -> float:
        """Return how well the expected scores of a criterion tell right pairs from faulty ones."""
        return auroc(self.expected_scores(right_pairs, criterion), self.expected_scores(faulty_pairs, criterion))


def load_score_reader(checkpoint: Path) -> ScoreReader:
    """Load the checkpoint of a lamb.

    Raises UserError if the tokenizer splits a score into several tokens, as those of other models do.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    rows = [tokenizer(f" {score}", add_special_tokens=False).input_ids for score in RATING_SCALE]
    opening_ids = rows[0][:-1]
    if any(row[:-1] != opening_ids for row in rows):
        raise UserError(f"{checkpoint} is no lamb checkpoint: its tokenizer splits a score; give a folder of lamb's")
    return ScoreReader(model, tokenizer, opening_ids, [row[-1] for row in rows])


def measure_aurocs(reader: ScoreReader, num_pairs: int) -> dict[str, float]:
    """Return the AUROC of each kind of fault: of content by `quality`, of form by `following`."""
    return {
        **measure_quality(reader, num_pairs),
        "following, ignored": measure_ignored(reader, num_pairs),
        f"quality, {SAME_TYPE}, {UPPER}": measure_upper(reader, num_pairs // 3),
        **{f"following, {kind} misread": measure_misread(reader, kind, num_pairs // 3) for kind in HARD_CONSTRAINTS},
    }


def measure_quality(reader: ScoreReader, num_pairs: int) -> dict[str, float]:
    """Return the AUROC of quality for each kind of fault, and for wrong answers also within each hard family.

    One AUROC over all families would hide those in which it is 0.5.
    """
    rng, aurocs = Random(99), {}
    quests = [draw_quest(rng, often=dict.fromkeys(HARD_FAMILIES, 4)) for _ in range(num_pairs)]
    right_pairs = [(quest, write_good(quest, rng)) for quest in quests]
    right_scores = reader.expected_scores(right_pairs, "quality")
    for name, write_fault in FAULTS.items():
        faulty_pairs = [(quest, answer) for quest in quests if (answer := write_fault(quest, rng)).note != "right"]
        faulty_scores = reader.expected_scores(faulty_pairs, "quality")
        aurocs[f"quality, {name}"] = auroc(right_scores, faulty_scores)
        if name != SAME_TYPE:
            continue
        for family in HARD_FAMILIES:
            right_of_family = _scores_of(family, right_pairs, right_scores)
            faulty_of_family = _scores_of(family, faulty_pairs, faulty_scores)
            aurocs[f"quality, {name}, {family}"] = auroc(right_of_family, faulty_of_family)
    return aurocs


def _scores_of(family: str, pairs: Sequence[QuestPair], scores: Sequence[float]) -> list[float]:
    return [score for (quest, _), score in zip(pairs, scores, strict=True) if quest.family == family]


def measure_ignored(reader: ScoreReader, num_pairs: int) -> float:
    """Return the AUROC of following, right answers against those that ignore a constraint."""
    rng = Random(98)
    quests = [quest for quest in (draw_quest(rng) for _ in range(num_pairs)) if quest.constraints]
    right_pairs = [(quest, write_good(quest, rng)) for quest in quests]
    answers = [(quest, write_ignoring_constraints(quest, rng)) for quest in quests]
    return reader.auroc(right_pairs, [pair for pair in answers if pair[1].met < 1], "following")


def measure_upper(reader: ScoreReader, num_pairs: int) -> float:
    """Return the AUROC of the quality of answers in capital letters, right ones against wrong ones of the same type."""
    rng = Random(99)
    quests = draw_quests_with(UPPER, num_pairs, rng)
    right_pairs = [(quest, write_good(quest, rng)) for quest in quests]
    wrong_pairs = [(quest, answer) for quest in quests if (answer := write_wrong(quest, rng)).note != "right"]
    return reader.auroc(right_pairs, wrong_pairs, "quality")


def measure_misread(reader: ScoreReader, kind: str, num_pairs: int) -> float:
    """Return the AUROC of following, right answers against those that misread a constraint of one kind."""
    rng = Random(99)
    quests = draw_quests_with(kind, num_pairs, rng)
    right_pairs = [(quest, write_good(quest, rng)) for quest in quests]
    answers = [(quest, write_misreading_constraints(quest, rng)) for quest in quests]
    misread_pairs = [
        (quest, answer)
        for quest, answer in answers
        if (kind, False) in zip(quest.constraint_kinds, quest.followed(answer.text), strict=True)
    ]
    return reader.auroc(right_pairs, misread_pairs, "following")


def draw_quests_with(kind: str, num_quests: int, rng: Random) -> list[Quest]:
    """Return quests with a constraint of one kind."""
    quests = (draw_quest(rng, often={kind: 30}) for _ in count())
    return list(islice((quest for quest in quests if kind in quest.constraint_kinds), num_quests))


def auroc(above: list[float], below: list[float]) -> float:
    """Return the share of pairs of values in which the first one is greater (Mann-Whitney U / mn)."""
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(above, below).statistic) / (len(above) * len(below))


def mean(values: list[bool]) -> float:
    return sum(values) / len(values)
