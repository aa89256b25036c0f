"""Answers that another program wrote, from a file: which of them answer a benchmark's items, what is left out."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from isheep.benchmarks.support.context import JudgedContext
from isheep.benchmarks.support.data_files import DataRow
from isheep.benchmarks.support.sources import DataSource
from isheep.errors import UserError
from isheep.files.json_files import ForeignRow, OptionalText, Text, parse_row, read_values
from isheep.judges.base import Judge
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.rundir.folder import RunFolder

# The template of answers that another program asked for.
UNKNOWN_TEMPLATE = "unknown"

Response = tuple[Hashable, str]
"""The key of an item, such as its prompt or its id, and an answer to it."""


@dataclass(frozen=True)
class ResponseContext(JudgedContext):
    """What a benchmark's `score_responses` gets: a file of answers, the benchmark's settings, and an output folder.

    `judge` is None unless the benchmark needs one. `unsafe_code` allows code in the answers to run on a machine without
    a sandbox.
    """

    file: Path
    settings: BenchmarkSettings
    folder: RunFolder
    judge: Judge | None = None
    unsafe_code: bool = False

    JUDGE_FROM = "with --judge"

    @property
    def template(self) -> str:
        """The name of the chat template in which the answers were asked for, which is not known."""
        return UNKNOWN_TEMPLATE


class LoggedSample(ForeignRow):
    """A row that lm-eval writes with --log_samples: the item, and the response after its filters."""

    form = '{"doc": {...}, "filtered_resps": ["..."]}'
    doc: dict[str, Any]
    filtered_resps: Annotated[list[str], Field(min_length=1, max_length=1, description="a list with one text")]

    @property
    def response(self) -> str:
        return self.filtered_resps[0]


def read_sample(location: str, row: Any) -> LoggedSample | None:
    """Return a row as a sample of lm-eval's, None if it has another form. Raises UserError if it is malformed."""
    if not isinstance(row, dict) or not {"doc", "filtered_resps"} <= row.keys():
        return None
    return parse_row(location, row, LoggedSample)


class QuestionResponse(ForeignRow):
    """An answer to the question of this text. `prediction` is the name in the files of EfficientQA."""

    form = '{"question": "...", "response": "..."}, or samples that lm-eval logged,'
    question: Text
    response: OptionalText = None
    prediction: OptionalText = None


class IdResponse(ForeignRow):
    """An answer to the question with this id."""

    form = '{"id": "...", "response": "..."}, one object {"ID": "ANSWER", ...}, or samples that lm-eval logged,'
    id: Text
    response: OptionalText = None
    prediction: OptionalText = None


def read_question_responses(file: Path, key: str) -> list[Response]:
    """Return the answers in a file by `key`, which is "question" or "id". Raises UserError if a row is malformed."""
    values = read_values(file)
    row_type = IdResponse if key == "id" else QuestionResponse
    if not values:
        raise UserError(f"{file}: no rows in it; rows such as {row_type.form} are needed")
    if key == "id" and len(values) == 1 and _is_table_of_answers(values[0][1]):
        return list(values[0][1].items())
    return [_read_question_response(location, value, key, row_type) for location, value in values]


def _is_table_of_answers(value: Any) -> bool:
    """Return whether a value is SQuAD's form of predictions, {ID: ANSWER}."""
    is_table = isinstance(value, dict) and bool(value) and all(isinstance(text, str) for text in value.values())
    return is_table and "id" not in value


def _read_question_response(
    location: str, value: Any, key: str, row_type: type[QuestionResponse] | type[IdResponse]
) -> Response:
    if (sample := read_sample(location, value)) is not None:
        value = {key: sample.doc.get(key), "response": sample.response}
    row = parse_row(location, value, row_type)
    text = row.response if row.response is not None else row.prediction
    if text is None or None not in (row.response, row.prediction):
        problem = "neither response nor prediction has" if text is None else "response and prediction both have"
        raise UserError(f"{location}: {problem} an answer; rows such as {row_type.form} are needed")
    return getattr(row, key), text


class Matched(NamedTuple):
    """The items that have an answer, by their indices, the answer to each, and notes on the others."""

    indices: list[int]
    texts: list[str]
    notes: tuple[str, ...]


def match_responses(file: Path, keys: Sequence[Hashable], responses: Sequence[Response], noun: str) -> Matched:
    """Return the answers to the items with these keys; `noun` says in messages what a key is, such as "prompt".

    Keys are compared without regard to white space, which many programs drop or change, such as line ends. The last of
    several answers with a key counts, as in IFEval's and FastChat's programs. An answer whose key several items have
    answers all of them. Items without an answer are left out. Raises UserError if no item has an answer.
    """
    keys = [_normalize_space(key) for key in keys]
    texts = {_normalize_space(key): text for key, text in responses}
    indices = [index for index, key in enumerate(keys) if key in texts]
    if not indices:
        examples = f"{shorten_key(responses[0][0])}, ..." if responses else "none"
        raise UserError(
            f"{file}: none of its {len(texts)} {noun}s is one of the {len(keys)} of the benchmark's data ({examples}): "
            "give the data that it answers"
        )
    items = set(keys)
    num_missing, num_foreign = len(keys) - len(indices), sum(key not in items for key in texts)
    notes = []
    if num_missing:
        notes.append(f"{num_missing} of {len(keys)} {noun}s have no response and are left out")
    if num_foreign:
        notes.append(f"{num_foreign} responses are to other {noun}s and are not scored")
    if num_repeated := len(responses) - len(texts):
        notes.append(f"{num_repeated} lines repeat a {noun}, whose last response counts")
    if num_twins := len(keys) - len(items):
        notes.append(f"{num_twins} items have the {noun} of an earlier item, and one response answers both")
    return Matched(indices, [texts[keys[index]] for index in indices], tuple(notes))


def _normalize_space(key: Hashable) -> Hashable:
    return " ".join(key.split()) if isinstance(key, str) else key


def match_rows(source: DataSource, rows: Sequence[DataRow], context: ResponseContext) -> Matched:
    """Return the answers of a file to rows of this source. Raises UserError if the data lack the key of its rows."""
    key = source.response_key
    if any(not isinstance(row.get(key), str) for row in rows):
        raise UserError(
            f"benchmark {context.settings.name}: a row of its data has no {key} to match answers with: give the "
            f"authors' {source.files[0]}"
        )
    responses = read_question_responses(context.file, key)
    return match_responses(context.file, [row[key] for row in rows], responses, key)


def shorten_key(key: Hashable) -> str:
    """Return a key for a message."""
    text = repr(key)
    return text if len(text) <= 60 else f"{text[:57]}..."
