"""What a lamb checkpoint can do before any loop: answer held-out tasks, and tell right pairs from wrong ones."""

import re
from pathlib import Path
from random import Random
from typing import Any

from isheep.errors import UserError
from isheep.lamb.pages import PageAnswer, content, good, ignoring, off_topic, rambling, wrong, wrong_type
from isheep.lamb.suite import right, validation
from isheep.lamb.world import Quest, draw_quest
from isheep.models.chat_template import load_chat_template
from isheep.prompts import fill_template, load_prompts
from isheep.records import Model, Sampling

FAULTS = {"wrong, same type": wrong, "wrong type": wrong_type, "off topic": off_topic, "runs on": rambling}
HARD = ("sum", "larger", "first", "last", "reverse", "copy")  # families in which a judge has to work out the answer


def probe(checkpoint: Path, pairs: int = 300, threads: int = 1) -> dict[str, Any]:
    """Shares right on the validation part (greedy, and drawn at temperature 1), and the judge's AUROC by fault.

    The AUROC of a criterion is the chance that a right pair's expected score (over the ten score tokens, combined
    prompt) is above a faulty one's.
    """
    from isheep.engines.transformers import open_engine

    model = Model(str(checkpoint))
    chat, engine, quests = (
        load_chat_template("tokenizer", model.base),
        open_engine(model, threads=threads),
        validation(),
    )
    found: dict[str, Any] = {}
    for name, temperature in (("greedy", 0.0), ("sampled", 1.0)):
        sampling = Sampling(temperature=temperature, top_p=1.0, max_tokens=64, stop=(chat.end,))
        answers = engine.generate([chat.prompt(content(q)) for q in quests], sampling, 1)
        rights = [right(q, a.text.strip(), a.finish == "stop") for q, a in zip(quests, answers, strict=True)]
        contents = [q.content_right(a.text.strip()) for q, a in zip(quests, answers, strict=True)]
        found[name] = {"right": mean(rights), "content": mean(contents)}
    engine.close()
    found["auroc"] = aurocs(checkpoint, pairs)
    return found


def aurocs(checkpoint: Path, pairs: int) -> dict[str, float]:
    rng, found = Random(99), {}
    quests = [draw_quest(rng, often=dict.fromkeys(HARD, 4)) for _ in range(pairs)]
    fine = [(quest, good(quest, rng)) for quest in quests]
    sure = expected(checkpoint, fine, "quality")
    for name, fault in FAULTS.items():
        faulty = [(quest, answer) for quest in quests if (answer := fault(quest, rng)).note != "right"]
        doubtful = expected(checkpoint, faulty, "quality")
        found[f"quality, {name}"] = auroc(sure, doubtful)
        if fault is wrong:
            found |= by_family(fine, sure, faulty, doubtful)
    asked = [quest for quest in quests if quest.demands]
    met = [(quest, good(quest, rng)) for quest in asked]
    missed = [(quest, answer) for quest in asked if (answer := ignoring(quest, rng)).met < 1]
    found["following, ignored"] = auroc(
        expected(checkpoint, met, "following"), expected(checkpoint, missed, "following")
    )
    return found


def by_family(
    fine: list[tuple[Quest, PageAnswer]],
    sure: list[float],
    faulty: list[tuple[Quest, PageAnswer]],
    doubtful: list[float],
) -> dict[str, float]:
    """The AUROC of wrong answers of the same type in each hard family: one over all families hides where it is .5."""

    def of(family: str, pairs: list[tuple[Quest, PageAnswer]], scores: list[float]) -> list[float]:
        return [score for (quest, _), score in zip(pairs, scores, strict=True) if quest.family == family]

    return {
        f"quality, wrong, same type, {family}": auroc(of(family, fine, sure), of(family, faulty, doubtful))
        for family in HARD
    }


def expected(checkpoint: Path, pairs: list[tuple[Quest, PageAnswer]], criterion: str) -> list[float]:
    """The expected score of each pair from one forward pass."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    scores = [tokenizer(f" {n}", add_special_tokens=False).input_ids for n in range(1, 11)]
    if any(len(ids) != 1 for ids in scores):
        raise UserError(f"{checkpoint} is no lamb checkpoint: its tokenizer splits a score; give the folder of one")
    numbers = torch.arange(1.0, 11.0)
    found = []
    for quest, answer in pairs:
        text = fill_template(load_prompts("combined")[criterion], instruction=content(quest), output=answer.text)
        with torch.inference_mode():
            logits = model(**tokenizer(text, return_tensors="pt"), logits_to_keep=1).logits[0, -1]
        found.append(float((logits[[ids[0] for ids in scores]].softmax(-1) * numbers).sum()))
    return found


def auroc(above: list[float], below: list[float]) -> float:
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(above, below).statistic) / (len(above) * len(below))


def mean(values: list[bool]) -> float:
    return sum(values) / len(values)


def exported(out: Path, into: Path) -> Path:
    """A running pretraining's last saved state as a checkpoint to probe."""
    import shutil

    import torch
    from transformers import AutoTokenizer

    from isheep.lamb import pretrain

    model = pretrain.make_model(len(AutoTokenizer.from_pretrained(out)), seed=1)
    model.load_state_dict(torch.load(out / "state.pt", weights_only=True)["model"])
    into.mkdir(parents=True, exist_ok=True)
    for path in out.iterdir():
        if re.match(r"(tokenizer|chat_template)", path.name):
            shutil.copy(path, into)
    pretrain.export(model, into)
    return into
