"""lamb's held-out suite, answered greedily: content, IFEval's accuracies (Zhou et al. 2023), and both at once."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from isheep.benchmarks.support.base import Benchmark, PlannedAnswers, Result, Score, ValidationPart
from isheep.benchmarks.support.context import EvalContext
from isheep.errors import UserError
from isheep.lamb.pages import task_text
from isheep.lamb.respondent import MAX_TOKENS, Respondent
from isheep.lamb.suite import is_right, is_truly_right, kinds_of, suite, validation
from isheep.lamb.world import Quest
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.records import Answer, Completion
from isheep.rundir import progress
from isheep.rundir.folder import RunFolder

READINGS = ("strict", "loose")
# The greedy answers. Not answers.jsonl, which judge calibration would rate: the truth of pairs is known anyway.
GREEDY_FILE = "greedy.jsonl"


def run(context: EvalContext) -> Result:
    """Answer the suite greedily in the chat template, base and aligned models alike.

    Scores have a truth value for each prompt ("right", "content", "prompt strict", "prompt loose", "stopped") or for
    each constraint ("instruction strict", "instruction loose"). Breakdowns count the right answers by family and the
    satisfied constraints by kind.
    """
    return answer_suite(context, temperature=0.0, file=GREEDY_FILE)


def answer_suite(context: EvalContext, temperature: float, file: str) -> Result:
    """Answer the suite at a temperature, and write the answers to a file of the benchmark's folder."""
    quests = suite()
    progress.expect_rows(len(quests), exact=True)
    answers = respondent(context).answer(quests, temperature)
    save_answers([task_text(quest) for quest in quests], answers, context, file)
    return make_result(quests, answers, context)


def run_validation(context: EvalContext) -> Result:
    """Answer the validation part greedily."""
    return answer_validation(context, temperature=0.0)


def answer_validation(context: EvalContext, temperature: float) -> Result:
    """Answer the validation part at a temperature."""
    progress.expect_rows(len(validation()), exact=True)
    return make_result(validation(), respondent(context).answer(validation(), temperature), context)


def make_result(quests: Sequence[Quest], answers: Sequence[Completion], context: EvalContext) -> Result:
    by_constraint = [index for index, quest in enumerate(quests) for _ in quest.constraints]
    scores = {
        name: Score(items=items, clusters=by_constraint if name.startswith("instruction ") else None)
        for name, items in score_answers(quests, answers).items()
    }
    return Result(template=context.chat.name, scores=scores, breakdowns=breakdowns(quests, answers))


def respondent(context: EvalContext) -> Respondent:
    """Return the model of an evaluation, which is asked in the chat template, the base too."""
    return Respondent(context.engine, context.chat, context.seed, context.max_tokens(MAX_TOKENS))


def save_answers(
    texts: Sequence[str], answers: Sequence[Completion], context: EvalContext, file: str = GREEDY_FILE
) -> None:
    """Write the answers to a file of the benchmark's folder, for reports."""
    rows = [
        Answer(prompt=text, output=completion.text, finish=completion.finish, tokens=completion.tokens)
        for text, completion in zip(texts, answers, strict=True)
    ]
    context.folder.write_text(file, "".join(f"{row.model_dump_json()}\n" for row in rows))


def why_wrong(folder: RunFolder, answers: Sequence[Answer]) -> list[str]:
    """Return for each answer what is wrong: its content, the constraints that it does not meet, its end."""
    return [describe_mistakes(quest, answer) for quest, answer in zip(suite(), answers, strict=True)]


def describe_mistakes(quest: Quest, answer: Answer) -> str:
    text = answer.output.strip()
    checks = zip(quest.constraints, quest.followed(text), strict=True)
    unmet_constraints = [constraint for constraint, is_met in checks if not is_met]
    mistakes = [] if quest.content_right(text) else [f"expected content: {quest.right}"]
    mistakes += [f"not met: {constraint.kind} {constraint.value}".rstrip() for constraint in unmet_constraints]
    return "; ".join([*mistakes, *(["it did not end by itself"] if answer.finish != "stop" else [])])


def prompts(settings: BenchmarkSettings) -> list[str]:
    refuse_data(settings)
    return [task_text(quest) for quest in suite()]


def refuse_data(settings: BenchmarkSettings) -> None:
    """Raise UserError if the settings give data, because the items are generated."""
    if settings.data:
        raise UserError(f"benchmark {settings.label} needs no data, and {settings.data} is given: leave it out")


def score_inputs(settings: BenchmarkSettings) -> object:
    return [prompts(settings), suite()]


def validation_prompts(settings: BenchmarkSettings) -> list[str]:
    return [task_text(quest) for quest in validation()]


def locate_items(settings: BenchmarkSettings) -> dict[str, list[int]]:
    """Return for each score the index of the prompt of each item."""
    by_constraint = [index for index, quest in enumerate(suite()) for _ in quest.constraints]
    of_each_prompt = list(range(len(suite())))
    return {
        **dict.fromkeys(("right", "content", "stopped"), of_each_prompt),
        **{f"instruction {reading}": by_constraint for reading in READINGS},
        **{f"prompt {reading}": sorted(set(by_constraint)) for reading in READINGS},
    }


def score_answers(quests: Sequence[Quest], answers: Sequence[Completion]) -> dict[str, list[bool]]:
    """Return the truth values of each score."""
    items: dict[str, list[bool]] = defaultdict(list)
    for quest, completion in zip(quests, answers, strict=True):
        text = completion.text.strip()
        strict = quest.followed(text)
        loose = [any(met) for met in zip(*(quest.followed(variant) for variant in variants(text)), strict=True)]
        items["right"].append(is_right(quest, text, completion.finish == "stop"))
        items["content"].append(quest.content_right(text))
        items["stopped"].append(completion.finish == "stop")
        items["instruction strict"] += strict
        items["instruction loose"] += loose
        if quest.constraints:
            items["prompt strict"].append(all(strict))
            items["prompt loose"].append(all(loose))
    return dict(items)


def variants(text: str) -> list[str]:
    """Return IFEval's loose readings: without the first line, the last line, both; each also without asterisks."""
    lines = text.split("\n")
    texts = ["\n".join(part).strip() for part in (lines, lines[1:], lines[:-1], lines[1:-1])]
    return [variant for text in texts for variant in (text, text.replace("*", "")) if variant] or [""]


def breakdowns(quests: Sequence[Quest], answers: Sequence[Completion]) -> dict[str, dict[str, tuple[int, int]]]:
    """Count right content by family, and satisfied constraints by kind: (right, all)."""
    by_family: dict[str, list[bool]] = defaultdict(list)
    by_constraint: dict[str, list[bool]] = defaultdict(list)
    for quest, completion in zip(quests, answers, strict=True):
        text = completion.text.strip()
        by_family[quest.family].append(quest.content_right(text))
        for constraint, met in zip(quest.constraints, quest.followed(text), strict=True):
            by_constraint[constraint.kind].append(met)
    return {"family": count_right(by_family), "constraint": count_right(by_constraint)}


def count_right(values: Mapping[str, Sequence[bool]]) -> dict[str, tuple[int, int]]:
    """Return (right, all) of each kind of item, sorted by kind."""
    return {kind: (sum(values[kind]), len(values[kind])) for kind in sorted(values)}


VALIDATION = ValidationPart(
    prompts=validation_prompts,
    run=run_validation,
    score="right",
    planned=PlannedAnswers(num_answers=500, max_tokens=MAX_TOKENS, batch_size=500),
)
BENCHMARK = Benchmark(
    name="lamb",
    run=run,
    prompts=prompts,
    score_inputs=score_inputs,
    headline=("right", "content", "prompt strict"),
    items_from="package",
    validation=VALIDATION,
    is_right=is_truly_right,
    kinds_of=kinds_of,
    locate_items=locate_items,
    form_and_content=("prompt strict", "content"),
    why_wrong=why_wrong,
    planned=PlannedAnswers(num_answers=1000, max_tokens=MAX_TOKENS, batch_size=1000),
)
