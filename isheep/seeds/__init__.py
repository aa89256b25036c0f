"""Seed tasks: the examples in the prompts for new instructions. docs/seeds.md describes the accepted files."""

import contextlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from isheep.errors import UserError, one_line
from isheep.files import json_files
from isheep.files.reading import read_text
from isheep.records import Task
from isheep.seeds.conversations import first_exchange, has_context, is_conversation
from isheep.seeds.no_input import is_no_input
from isheep.text.novelty import Language, is_in_script

# The names in Dolly's files (instruction, context, response) of Alpaca's fields.
DOLLY_NAMES = {"context": "input", "response": "output"}


class SeedTask(Task):
    """A task written by people, with its answer. `is_classification` is None if the file does not say."""

    output: str = ""
    is_classification: bool | None = None


class SeedFile(NamedTuple):
    """The seed tasks of a file, in its order, and what a user should know about them, a sentence each."""

    tasks: list[SeedTask]
    notices: list[str]


def load_seed_file(
    path: str | Path, at_least: int = 1, of_each: int = 0, language: Language = "any", name: str = "seed tasks"
) -> SeedFile:
    """Read a file of seed tasks. The form of each entry is recognized by its keys.

    Forms, as JSON lines or as one JSON list: Self-Instruct's (instruction, instances: the first one counts), Alpaca's
    (instruction, input, output; or Dolly's context and response), ShareGPT's and messages (the first question and the
    answer directly after it). A task's id is that of the entry, or "seed-N" by its position. Notices count repeated
    tasks and ids, system turns (which are not used), questions without an answer, and instructions in another script
    than `language` compares.

    `name` says in messages what the tasks are. Raises UserError if the file can't be read, if an entry is malformed
    (which, and why), if it has fewer than `at_least` tasks, or fewer than `of_each` tasks with an answer that are
    classification, or that are not, or if most of its instructions are in another script than `language` compares.
    """
    path = Path(path)
    source = f"{name} {path}"
    entries = list(_entries(source, _read_text(path, source)))
    seeds = [_seed_task(entry, index, location) for index, (location, entry) in enumerate(entries)]
    if not seeds:
        raise UserError(f"{source}: the file is empty; give one JSON object with an instruction per line")
    if len(seeds) < at_least:
        need = f"{len(seeds)} found, {at_least} needed for one prompt; add seeds or lower synthesis.examples"
        raise UserError(f"{source}: {need}")
    for classification in (True, False):
        count = len(of_kind(seeds, classification))
        if count < of_each:
            need = f"{count} found with is_classification {json.dumps(classification)} and an output, {of_each} needed"
            raise UserError(f"{source}: {need} for one prompt; add such seeds or lower response.examples")
    notices = _check_script(source, seeds, language) + _count_notices(seeds, [entry for _, entry in entries])
    return SeedFile(seeds, [f"{source}: {notice}" for notice in notices])


def _check_script(source: str, seeds: Sequence[SeedTask], language: Language) -> list[str]:
    """Return a notice about instructions in another script than the language's; raise UserError if most are such."""
    num_foreign = sum(not is_in_script(seed.instruction, language) for seed in seeds)
    if not num_foreign:
        return []
    text = f"{num_foreign} of {len(seeds)} instructions are mostly in another script than language: {language}"
    if 2 * num_foreign > len(seeds):
        raise UserError(f"{source}: {text}; set language: any")
    return [text]


def _count_notices(seeds: Sequence[SeedTask], entries: Sequence[Any]) -> list[str]:
    """Return notices about repeated tasks and about what is not used of conversations."""
    notices = []
    num_different = len({(_normalize(seed.instruction), _normalize(seed.input)) for seed in seeds})
    if num_different < len(seeds):
        notices.append(f"{len(seeds)} entries are {num_different} different tasks; the others repeat them")
    counts = Counter(seed.id for seed in seeds)
    if repeated := [id for id, count in counts.items() if count > 1]:
        notices.append(f"{len(repeated)} ids stand for several tasks, such as {_shorten(repeated[0])}")
    exchanges = [first_exchange(entry, "") for entry in entries if is_conversation(entry)]
    if num_with_context := sum(map(has_context, entries)):
        notices.append(f"the system texts, tools and earlier turns of {num_with_context} entries are not used")
    if num_unanswered := sum(exchange.answer is None for exchange in exchanges):
        notices.append(f"{num_unanswered} of {len(exchanges)} conversations have no answer directly after the question")
    return notices


def of_kind(seeds: Sequence[SeedTask], classification: bool) -> list[SeedTask]:
    """Return the tasks with an answer that are classification, or those that are not. Unknown ones are in neither."""
    return [seed for seed in seeds if seed.is_classification is classification and seed.output]


def _normalize(text: str) -> str:
    """Return a text in which spellings of the same characters, different case and different white space are equal."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _read_text(path: Path, source: str) -> str:
    if not path.is_file():
        raise UserError(f"{source}: no such file; give a file of tasks in a form of docs/seeds.md")
    try:
        return read_text(path)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def _entries(source: str, text: str) -> Iterator[tuple[str, Any]]:
    """Yield each entry with its location in words, which begins with the source.

    Only newlines end a line: JSON texts may hold other separators.
    """
    if text.lstrip().startswith("["):
        for number, entry in enumerate(_parse_json(text, source), 1):
            yield f"{source}, entry {number}", entry
        return
    whole = _read_one_object(text)
    if whole is not None:
        if not _is_task(whole):
            raise UserError(f"{source}: {_describe_object(whole)}")
        yield f"{source}, entry 1", whole
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            location = f"{source}, line {number}"
            yield location, _parse_json(line, location)


def _read_one_object(text: str) -> dict[str, Any] | None:
    """Return the JSON object that the whole text is, over several lines or around a list; None if it is something else.

    An object on one line is left to the reader of lines, unless it is around the tasks.
    """
    with contextlib.suppress(ValueError, RecursionError):
        data = json_files.parse_json(text)
        is_several_lines = "\n" in text.strip()
        if isinstance(data, dict) and (is_several_lines or not _is_task(data)):
            return data
    return None


def _is_task(entry: dict[str, Any]) -> bool:
    """Return whether an object has a key of one of the forms of tasks."""
    return not {"instruction", "instances", "input", "output", "conversations", "messages"}.isdisjoint(entry)


def _describe_object(data: dict[str, Any]) -> str:
    """Return what an object is that holds no task by itself, and the way out."""
    if not data:
        return "one empty JSON object, not tasks; give a list of tasks, or one per line"
    sources = {"file_name", "hf_hub_url", "ms_hub_url", "script_url"}
    values = [value for value in data.values() if isinstance(value, dict)]
    if any(not sources.isdisjoint(value) for value in values):
        files = [str(value["file_name"]) for value in values if "file_name" in value]
        return f"an index of datasets; give the file that it names{f': {files[0]}' if files else ', as a local file'}"
    keys = ", ".join(map(repr, list(data)[:5]))
    lists = [key for key, value in data.items() if isinstance(value, list) and value and all(map(_is_task_row, value))]
    way_out = f"save the list under {lists[0]!r} as the file" if lists else "give a list of tasks, or one per line"
    return f"one JSON object with the keys {keys}, not tasks; {way_out}, in a form of docs/seeds.md"


def _is_task_row(value: Any) -> bool:
    return isinstance(value, dict) and _is_task(value)


def _parse_json(text: str, location: str) -> Any:
    try:
        return json_files.parse_json(text)
    except json.JSONDecodeError as error:
        line = f" (line {error.lineno})" if error.lineno > 1 else ""
        raise UserError(f"{location}: not JSON{line}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        # A repeated key, a number of thousands of digits, or brackets nested too deeply.
        raise UserError(f"{location}: not JSON that can be read: {one_line(error)}") from None


def _seed_task(entry: Any, index: int, location: str) -> SeedTask:
    """Return one entry as a SeedTask. Other keys (name, text) are ignored."""
    if not isinstance(entry, dict):
        raise UserError(f"{location}: an object with an instruction is needed, found {_shorten(entry)}")
    entry = _with_alpaca_names(_from_conversation(entry, location), location)
    instruction = _text_of(entry, "instruction", location)
    if not instruction:
        raise UserError(f"{location}: the instruction is missing or empty")
    instances = entry.get("instances", [entry])
    if not isinstance(instances, list) or not instances or not isinstance(instances[0], dict):
        raise UserError(f"{location}: instances must be a list of objects, found {_shorten(instances)}")
    input = _text_of(instances[0], "input", location)
    is_classification = entry.get("is_classification")
    if is_classification is not None and not isinstance(is_classification, bool):
        value = _shorten(is_classification)
        raise UserError(f"{location}: is_classification must be true or false, found {value}")
    return SeedTask(
        id=str(entry.get("id") or f"seed-{index}"),
        instruction=instruction,
        input="" if is_no_input(input) else input,
        output=_text_of(instances[0], "output", location),
        is_classification=is_classification,
    )


def _from_conversation(entry: dict[str, Any], location: str) -> dict[str, Any]:
    """Return the first question and answer of a conversation in Alpaca's form; other entries unchanged."""
    if not is_conversation(entry):
        return entry
    exchange = first_exchange(entry, location)
    return {"id": entry.get("id"), "instruction": exchange.question, "output": exchange.answer}


def _with_alpaca_names(entry: dict[str, Any], location: str) -> dict[str, Any]:
    """Return an entry with Alpaca's names of Dolly's fields. Raises UserError if it has a field under both names."""
    entry = dict(entry)
    for dolly_name, name in DOLLY_NAMES.items():
        if dolly_name not in entry:
            continue
        if rivals := [key for key in (name, "instances") if key in entry]:
            raise UserError(f"{location}: it has {rivals[0]} and {dolly_name}, which may differ: keep one of them")
        entry[name] = entry.pop(dolly_name)
    return entry


def _text_of(entry: dict[str, Any], key: str, location: str) -> str:
    value = entry.get(key)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{location}: {key} must be text, found {_shorten(value)}")
    if value and re.search("[\ud800-\udfff]", value):
        raise UserError(f"{location}: {key} holds half a surrogate pair, which is no character")
    return (value or "").strip()


def _shorten(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."
