"""The rows of judgments, annotations, questions and answers in the files of FastChat and AlpacaEval."""

import math
from typing import Annotated

from pydantic import AfterValidator, Field

from isheep.files.json_files import ForeignRow, OptionalText, RowId, Text


def _check_finite(value: float | None) -> float | None:
    if value is not None and math.isinf(value):
        raise ValueError("a finite number")
    return value


# NaN is kept: pandas writes it for a missing value, and it counts as unreadable.
Number = Annotated[float | None, AfterValidator(_check_finite), Field(description="a number or null")]


class Judgment(ForeignRow):
    """A row of MT-Bench's model_judgment, single-answer grading. `judge` is [its model, the prompt's name]."""

    form = '{"question_id": 81, "model": "NAME", "turn": 1, "score": 9}'
    question_id: RowId
    model: Text
    turn: Annotated[int, Field(ge=1, le=2, description="the number 1 or 2")]
    score: Number
    judge: Annotated[str | list[str] | None, Field(description="text or a list of texts")] = None
    judgment: OptionalText = None


class PreferenceRow(ForeignRow):
    """A row of AlpacaEval's annotations."""

    form = '{"instruction": "...", "generator_1": "BASELINE", "generator_2": "NAME", "preference": 1.5}'
    preference: Number
    instruction: OptionalText = None
    output_1: OptionalText = None
    output_2: OptionalText = None
    generator_1: OptionalText = None
    generator_2: OptionalText = None
    annotator: OptionalText = None


class TurnQuestion(ForeignRow):
    """A row of MT-Bench's question.jsonl."""

    form = '{"question_id": 81, "category": "writing", "turns": ["...", "..."]}'
    question_id: RowId
    category: Text
    turns: Annotated[list[str], Field(min_length=1, description="a list of texts")]


class AnswerChoice(ForeignRow):
    """One answer to all turns of a question."""

    turns: list[str]


class ModelAnswer(ForeignRow):
    """A row of MT-Bench's model_answer and reference_answer. The first choice counts, as in FastChat."""

    form = '{"question_id": 81, "model_id": "NAME", "choices": [{"turns": ["...", "..."]}]}'
    question_id: RowId
    choices: Annotated[list[AnswerChoice], Field(min_length=1, description="a list with an object that has turns")]
    model_id: OptionalText = None


class JudgePrompt(ForeignRow):
    """A row of MT-Bench's judge_prompts.jsonl."""

    form = '{"name": "single-v1", "system_prompt": "...", "prompt_template": "..."}'
    name: Text
    system_prompt: Text
    prompt_template: Text


class ModelOutput(ForeignRow):
    """A row of AlpacaEval's model_outputs.json."""

    form = '{"instruction": "...", "output": "...", "generator": "NAME"}'
    instruction: Text
    output: Text
    generator: OptionalText = None
