"""Second turns on lamb's held-out dialogues: a model answers a task, then what the user asks after its own answer."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TypeVar

from isheep.benchmarks.lamb import (
    breakdowns,
    describe_mistakes,
    refuse_data,
    respondent,
    save_answers,
    score_answers,
)
from isheep.benchmarks.support.base import Benchmark, PlannedAnswers, Result, Score, ValidationPart
from isheep.benchmarks.support.context import EvalContext
from isheep.lamb.respondent import MAX_TOKENS
from isheep.lamb.suite import NUM_DIALOGUES, Dialogue, dialogues, validation_dialogues
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.records import Answer, Completion
from isheep.rundir import progress
from isheep.rundir.folder import RunFolder

T = TypeVar("T")

SECOND_RIGHT, FIRST_RIGHT = "second turn right", "first turn right"
SECOND_CONTENT = "second turn content"
PLANNED = PlannedAnswers(num_answers=2 * NUM_DIALOGUES, max_tokens=MAX_TOKENS, batch_size=NUM_DIALOGUES)


def run(context: EvalContext) -> Result:
    """Answer both turns of each dialogue greedily, in the chat template, base and aligned models alike.

    Scores have a truth value for each dialogue. Breakdowns count as lamb's do, in the second turns.
    """
    asked_dialogues = dialogues()
    answers = answer(asked_dialogues, context)
    turns = [dialogue.texts(first.text.strip()) for dialogue, (first, _) in zip(asked_dialogues, answers, strict=True)]
    save_answers(in_order(turns), in_order(answers), context)
    return make_result(asked_dialogues, answers, context)


def run_validation(context: EvalContext) -> Result:
    """Answer the dialogues of the validation part greedily."""
    asked_dialogues = validation_dialogues()
    return make_result(asked_dialogues, answer(asked_dialogues, context), context)


def answer(asked_dialogues: Sequence[Dialogue], context: EvalContext) -> list[tuple[Completion, Completion]]:
    progress.expect_rows(2 * len(asked_dialogues), exact=True)
    return respondent(context).answer_dialogues(asked_dialogues)


def make_result(
    asked_dialogues: Sequence[Dialogue], answers: Sequence[tuple[Completion, Completion]], context: EvalContext
) -> Result:
    first_answers, second_answers = ([row[turn] for row in answers] for turn in (0, 1))
    follow_ups = [dialogue.follow_up for dialogue in asked_dialogues]
    first = score_answers([dialogue.first for dialogue in asked_dialogues], first_answers)
    second = score_answers(follow_ups, second_answers)
    items = {SECOND_RIGHT: second["right"], SECOND_CONTENT: second["content"], FIRST_RIGHT: first["right"]}
    return Result(
        template=context.chat.name,
        scores={name: Score(items=values) for name, values in items.items()},
        breakdowns=breakdowns(follow_ups, second_answers),
    )


def in_order(rows: Iterable[tuple[T, T]]) -> list[T]:
    """Return what each row has for the first turn and for the second one, in the order of the turns."""
    return list(chain.from_iterable(rows))


def texts(asked_dialogues: Sequence[Dialogue]) -> list[str]:
    """Return both turns of each dialogue. The short right answer stands between them in place of a model's own."""
    return in_order(dialogue.texts(dialogue.first.right) for dialogue in asked_dialogues)


def prompts(settings: BenchmarkSettings) -> list[str]:
    refuse_data(settings)
    return texts(dialogues())


def score_inputs(settings: BenchmarkSettings) -> object:
    return [prompts(settings), dialogues()]


def validation_prompts(settings: BenchmarkSettings) -> list[str]:
    return texts(validation_dialogues())


def locate_items(settings: BenchmarkSettings) -> dict[str, list[int]]:
    """Return for each score the index of the prompt of each item."""
    of_first, of_second = (list(range(turn, 2 * len(dialogues()), 2)) for turn in (0, 1))
    return {SECOND_RIGHT: of_second, SECOND_CONTENT: of_second, FIRST_RIGHT: of_first}


def why_wrong(folder: RunFolder, answers: Sequence[Answer]) -> list[str]:
    """Return for each answer what is wrong with it, as lamb does."""
    return [describe_mistakes(quest, row) for quest, row in zip(in_order(dialogues()), answers, strict=True)]


# is_right and kinds_of are lamb's alone, which knows the second turns of pairs, too: a run with both benchmarks would
# have every kind twice.
BENCHMARK = Benchmark(
    name="lamb_turns",
    run=run,
    prompts=prompts,
    score_inputs=score_inputs,
    headline=(SECOND_RIGHT, SECOND_CONTENT, FIRST_RIGHT),
    items_from="package",
    validation=ValidationPart(prompts=validation_prompts, run=run_validation, score=SECOND_RIGHT, planned=PLANNED),
    locate_items=locate_items,
    why_wrong=why_wrong,
    planned=PLANNED,
)
