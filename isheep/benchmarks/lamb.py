"""lamb's held-out suite: content, the four IFEval accuracies (Zhou et al. 2023), and both at once with a clean stop."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from isheep.benchmarks import EvalContext, data_path
from isheep.errors import UserError
from isheep.lamb.pages import content
from isheep.lamb.suite import right, suite, validation
from isheep.lamb.world import Quest
from isheep.recipe.schema import BenchmarkSettings
from isheep.records import Completion, Sampling


def run(exam: EvalContext) -> dict[str, Any]:
    """Answers to the suite in the chat template (base and aligned models alike): greedy, and drawn at temperature 1.

    "items" has a truth value per prompt ("right", "content", "prompt strict", "prompt loose", "stopped", and "right
    sampled" for the drawn answers) or per constraint ("instruction strict", "instruction loose"); "by" the shares of
    right ones per family and constraint.
    """
    quests = suite()
    result = examine(quests, exam)
    drawn = items(quests, answered(quests, exam, temperature=1.0))
    greedy = result["items"]
    result["items"] = {"right": greedy["right"], "right sampled": drawn["right"], **greedy}  # what decides comes first
    return result


def validate(exam: EvalContext) -> dict[str, Any]:
    """The greedy part of it on other quests; "score" is the share of right ones."""
    result = examine(validation(), exam)
    right = result["items"]["right"]
    return {"score": sum(right) / len(right), **result}


def examine(quests: list[Quest], exam: EvalContext) -> dict[str, Any]:
    answers = answered(quests, exam, temperature=0.0)
    prompt_of = [place for place, quest in enumerate(quests) for _ in quest.demands]
    clusters = {score: prompt_of for score in ("instruction strict", "instruction loose")}
    found, by = items(quests, answers), breakdown(quests, answers)
    return {"template": exam.chat.name, "items": found, "clusters": clusters, "by": by}


def answered(quests: list[Quest], exam: EvalContext, temperature: float) -> list[Completion]:
    sampling = Sampling(temperature=temperature, top_p=1.0, max_tokens=64, stop=(exam.chat.end,))
    return exam.engine.generate([exam.chat.prompt(content(quest)) for quest in quests], sampling, exam.seed)


def prompts(data: Path | None) -> list[str]:
    if data:
        raise UserError(f"benchmark lamb needs no data, and {data} is given: leave it out")
    return [content(quest) for quest in suite()]


def basis(one: BenchmarkSettings) -> Any:
    return [prompts(data_path(one)), suite()]


def validation_prompts(data: Path | None) -> list[str]:
    return [content(quest) for quest in validation()]


def places(data: Path | None) -> dict[str, list[int]]:
    """For each score the place of each item's prompt in `prompts`."""
    each, demands = list(range(len(suite()))), [place for place, quest in enumerate(suite()) for _ in quest.demands]
    by_demand = {f"instruction {way}": demands for way in ("strict", "loose")}
    by_prompt = {f"prompt {way}": sorted(set(demands)) for way in ("strict", "loose")}
    return {**dict.fromkeys(("right sampled", "right", "content", "stopped"), each), **by_demand, **by_prompt}


def items(quests: list[Quest], answers: list[Completion]) -> dict[str, list[bool]]:
    found: dict[str, list[bool]] = defaultdict(list)
    for quest, answer in zip(quests, answers, strict=True):
        text = answer.text.strip()
        strict = quest.followed(text)
        relaxed = [any(met) for met in zip(*(quest.followed(variant) for variant in variants(text)), strict=True)]
        found["right"].append(right(quest, text, answer.finish == "stop"))
        found["content"].append(quest.content_right(text))
        found["stopped"].append(answer.finish == "stop")
        found["instruction strict"] += strict
        found["instruction loose"] += relaxed
        if quest.demands:
            found["prompt strict"].append(all(strict))
            found["prompt loose"].append(all(relaxed))
    return dict(found)


def variants(text: str) -> list[str]:
    """IFEval's loose reading: without the first line, the last, both; each also without asterisks."""
    lines = text.split("\n")
    cut = [lines, lines[1:], lines[:-1], lines[1:-1]]
    texts = ["\n".join(some).strip() for some in cut]
    return [variant for text in texts for variant in (text, text.replace("*", "")) if variant] or [""]


def breakdown(quests: list[Quest], answers: list[Completion]) -> dict[str, dict[str, list[int]]]:
    """[right, all] by family (content) and by constraint (met)."""
    family: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    constraint: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for quest, answer in zip(quests, answers, strict=True):
        counted = [(family[quest.family], quest.content_right(answer.text.strip()))]
        counted += [
            (constraint[demand.kind], met)
            for demand, met in zip(quest.demands, quest.followed(answer.text.strip()), strict=True)
        ]
        for counts, met in counted:
            counts[0] += met
            counts[1] += 1
    return {"family": dict(sorted(family.items())), "constraint": dict(sorted(constraint.items()))}
