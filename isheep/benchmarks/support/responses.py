"""Answers that another program wrote, from a file: which of them answer a benchmark's items, what is left out."""

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from isheep.errors import UserError
from isheep.json_files import ForeignRow, parse_row

Response = tuple[Hashable, str]
"""The key of an item, such as its prompt or its id, and an answer to it."""


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


class Matched(NamedTuple):
    """The items that have an answer, by their indices, the answer to each, and notes on the others."""

    indices: list[int]
    texts: list[str]
    notes: tuple[str, ...]


def match_responses(file: Path, keys: Sequence[Hashable], responses: Sequence[Response], noun: str) -> Matched:
    """Return the answers to the items with these keys; `noun` says in messages what a key is, such as "prompt".

    The last of several answers with a key counts, as in IFEval's and FastChat's programs. An answer whose key several
    items have answers all of them. Items without an answer are left out. Raises UserError if no item has an answer.
    """
    texts = dict(responses)
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


def shorten_key(key: Hashable) -> str:
    """Return a key for a message."""
    text = repr(key)
    return text if len(text) <= 60 else f"{text[:57]}..."
