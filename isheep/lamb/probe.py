"""What a lamb checkpoint can do before any loop: answer held-out tasks, and tell right pairs from faulty ones."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from isheep.errors import UserError
from isheep.lamb.answers import (
    PageAnswer,
    write_good,
    write_ignoring_demands,
    write_off_topic,
    write_rambling,
    write_wrong,
    write_wrong_type,
)
from isheep.lamb.pages import content
from isheep.lamb.suite import is_right, validation
from isheep.lamb.world import Quest, draw_quest
from isheep.models.chat_template import load_chat_template
from isheep.prompts import fill_template, load_prompts
from isheep.records import Model, Sampling

SAME_TYPE = "wrong, same type"
FAULTS = {
    SAME_TYPE: write_wrong,
    "wrong type": write_wrong_type,
    "off topic": write_off_topic,
    "runs on": write_rambling,
}

HARD_FAMILIES = ("sum", "larger", "first", "last", "reverse", "copy")
"""Families in which a judge has to work out the answer."""

QuestPair = tuple[Quest, PageAnswer]


def probe(checkpoint: Path, num_pairs: int = 300, threads: int = 1) -> dict[str, Any]:
    """Return the shares of right answers on the validation part, and the AUROC of the model's ratings by fault.

    Answers are greedy, and sampled at temperature 1. The AUROC of a criterion is the probability that a right pair's
    expected score (over the ten score tokens, combined prompt) is above a faulty one's.
    """
    return {**_measure_answers(checkpoint, threads), "auroc": measure_aurocs(checkpoint, num_pairs)}


def _measure_answers(checkpoint: Path, threads: int) -> dict[str, dict[str, float]]:
    from isheep.engines.transformers import open_engine

    model, quests = Model(str(checkpoint)), validation()
    chat_template, engine = load_chat_template("tokenizer", model.base), open_engine(model, threads=threads)
    prompts = [chat_template.prompt(content(quest)) for quest in quests]
    shares = {}
    for name, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        sampling = Sampling(temperature=temperature, top_p=1.0, max_tokens=64, stop=(chat_template.end,))
        answers = list(zip(quests, engine.generate(prompts, sampling, 1), strict=True))
        right = [is_right(quest, answer.text.strip(), answer.finish == "stop") for quest, answer in answers]
        content_right = [quest.content_right(answer.text.strip()) for quest, answer in answers]
        shares[name] = {"right": mean(right), "content": mean(content_right)}
    engine.close()
    return shares


def measure_aurocs(checkpoint: Path, num_pairs: int) -> dict[str, float]:
    """Return the AUROC of each kind of fault, of wrong answers also by hard family."""
    rng, aurocs = Random(99), {}
    quests = [draw_quest(rng, often=dict.fromkeys(HARD_FAMILIES, 4)) for _ in range(num_pairs)]
    right_pairs = [(quest, write_good(quest, rng)) for quest in quests]
    right_scores = expected_scores(checkpoint, right_pairs, "quality")
    for name, write_fault in FAULTS.items():
        faulty_pairs = [(quest, answer) for quest in quests if (answer := write_fault(quest, rng)).note != "right"]
        faulty_scores = expected_scores(checkpoint, faulty_pairs, "quality")
        aurocs[f"quality, {name}"] = auroc(right_scores, faulty_scores)
        if name == SAME_TYPE:
            right, faulty = (right_pairs, right_scores), (faulty_pairs, faulty_scores)
            aurocs |= {f"quality, {name}, {family}": _auroc_of(family, right, faulty) for family in HARD_FAMILIES}
    demanding_quests = [quest for quest in quests if quest.demands]
    obedient_pairs = [(quest, write_good(quest, rng)) for quest in demanding_quests]
    ignoring_pairs = [
        (quest, answer) for quest in demanding_quests if (answer := write_ignoring_demands(quest, rng)).met < 1
    ]
    aurocs["following, ignored"] = auroc(
        expected_scores(checkpoint, obedient_pairs, "following"),
        expected_scores(checkpoint, ignoring_pairs, "following"),
    )
    return aurocs


def _auroc_of(
    family: str, right: tuple[list[QuestPair], list[float]], faulty: tuple[list[QuestPair], list[float]]
) -> float:
    """Return the AUROC within a family; one AUROC over all families would hide those in which it is 0.5."""
    above, below = (
        [score for (quest, _), score in zip(pairs, scores, strict=True) if quest.family == family]
        for pairs, scores in (right, faulty)
    )
    return auroc(above, below)


def expected_scores(checkpoint: Path, pairs: Sequence[QuestPair], criterion: str) -> list[float]:
    """Return the expected score of each pair from one forward pass.

    Raises UserError if the tokenizer splits a score into several tokens, as only other models' do.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    score_ids = [tokenizer(f" {score}", add_special_tokens=False).input_ids for score in range(1, 11)]
    if any(len(ids) != 1 for ids in score_ids):
        raise UserError(f"{checkpoint} is no lamb checkpoint: its tokenizer splits a score; give a folder of lamb's")
    scale, token_ids = torch.arange(1.0, 11.0), [ids[0] for ids in score_ids]
    scores = []
    for quest, answer in pairs:
        text = fill_template(load_prompts("combined")[criterion], instruction=content(quest), output=answer.text)
        with torch.inference_mode():
            logits = model(**tokenizer(text, return_tensors="pt"), logits_to_keep=1).logits[0, -1]
        scores.append(float((logits[token_ids].softmax(-1) * scale).sum()))
    return scores


def auroc(above: list[float], below: list[float]) -> float:
    """Return the share of pairs of values in which the first one is greater (Mann-Whitney U / mn)."""
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(above, below).statistic) / (len(above) * len(below))


def mean(values: list[bool]) -> float:
    return sum(values) / len(values)


def export_state(pretraining_dir: Path, output_dir: Path) -> Path:
    """Write the last saved state of a running pretraining as a checkpoint that can be probed."""
    from transformers import AutoTokenizer

    from isheep.lamb import pretrain

    state = pretrain.read_state(pretraining_dir)
    if state is None:
        raise UserError(f"{pretraining_dir} has no {pretrain.STATE_FILE}: give the --out of isheep lamb pretrain")
    model = pretrain.make_model(len(AutoTokenizer.from_pretrained(pretraining_dir)), pretrain.SHAPES[state["size"]], 1)
    model.load_state_dict(state["model"])
    output_dir.mkdir(parents=True, exist_ok=True)
    for path in pretraining_dir.iterdir():
        if re.match(r"(tokenizer|chat_template)", path.name):
            shutil.copy(path, output_dir)
    pretrain.export(model, output_dir)
    return output_dir
