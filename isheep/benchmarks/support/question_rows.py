"""The rows of NQ, TriviaQA and SQuAD 2.0 in the Hub's columns."""

from typing import Annotated

from pydantic import Field

from isheep.files.json_files import FilledText, FilledTexts, ForeignRow, Text


class AnswersRow(ForeignRow):
    """A row of NQ in the Hub's columns."""

    form = '{"question": "...", "answer": ["..."]}'
    question: Text
    answer: FilledTexts


class Aliases(ForeignRow):
    """TriviaQA's answer."""

    aliases: FilledTexts


class AliasesRow(ForeignRow):
    """A row of TriviaQA in the Hub's columns."""

    form = '{"question": "...", "answer": {"aliases": ["..."]}}'
    question: Text
    answer: Annotated[Aliases, Field(description="an object with aliases")]


class PassageAnswers(ForeignRow):
    """SQuAD's answers; none if the passage has none."""

    text: list[FilledText]


class PassageRow(ForeignRow):
    """A row of SQuAD 2.0 in the Hub's columns."""

    form = '{"context": "...", "question": "...", "answers": {"text": ["..."]}}'
    context: Text
    question: Text
    answers: Annotated[PassageAnswers, Field(description="an object with a list of texts as text")]
    plausible_answers: Annotated[list[FilledText], Field(description="a list of texts")] = []
