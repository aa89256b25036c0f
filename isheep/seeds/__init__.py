"""Seed tasks: the examples that the in-context prompts of synthesis are drawn from."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from isheep.errors import UserError
from isheep.records import Task


class SeedTask(Task):
    """A task written by people, with its answer. Whether it is classification may not be known."""

    output: str = ""
    is_classification: bool | None = None


def load_seed_tasks(path: str | Path, at_least: int = 1, of_each: int = 0) -> list[SeedTask]:
    """The seed tasks of a file, in its order; the form is found from the content.

    Forms, as JSON lines or as one JSON list: Self-Instruct's (instruction, instances: the first one counts), Alpaca's
    (instruction, input, output), ShareGPT's and messages (the first question of each and its answer). A seed's id is
    the file's, else "seed-N" from its place. Raises UserError (one line) where the file can't be read, an entry is
    malformed (which, and why), fewer than `at_least` seeds are there, or fewer than `of_each` with an answer that are
    classification, or that are not.
    """
    path = Path(path)
    seeds = [_seed(entry, n, f"{path}, {where}") for n, (where, entry) in enumerate(_entries(path, _text(path)))]
    if not seeds:
        raise UserError(f"seed tasks {path}: the file is empty; give one JSON object with an instruction per line")
    if len(seeds) < at_least:
        need = f"{len(seeds)} found, {at_least} needed for one prompt; add seeds or lower synthesis.examples"
        raise UserError(f"seed tasks {path}: {need}")
    for kind in (True, False):
        if (found := len(of_kind(seeds, kind))) < of_each:
            need = f"{found} found with is_classification {json.dumps(kind)} and an output, {of_each} needed"
            raise UserError(f"seed tasks {path}: {need} for one prompt; add such seeds or lower response.examples")
    return seeds


def of_kind(seeds: Sequence[SeedTask], classification: bool) -> list[SeedTask]:
    """The seeds with an answer that are classification, or those that are not; none whose kind is not known."""
    return [seed for seed in seeds if seed.is_classification is classification and seed.output]


def _text(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"seed tasks {path}: no such file; set seed_tasks to a file of Self-Instruct or Alpaca form")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"seed tasks {path}: not UTF-8 text at byte {error.start}") from None
    except OSError as error:
        raise UserError(f"seed tasks {path}: {error.strerror}") from None


def _entries(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """Each entry with its place in words. Lines are cut at newlines only: JSON may hold other line separators."""
    if text.lstrip().startswith("["):
        for n, entry in enumerate(_json(text, str(path)), 1):
            yield f"entry {n}", entry
        return
    for n, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"line {n}", _json(line, f"{path}, line {n}")


def _json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = f" (line {error.lineno})" if error.lineno > 1 else ""
        raise UserError(f"seed tasks {where}: not JSON{line}: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets in brackets in brackets
        raise UserError(f"seed tasks {where}: not JSON that can be read: {error}") from None


def _seed(entry: Any, n: int, where: str) -> SeedTask:
    """One entry as a Seed. Keys that we don't use (name, text) are passed over."""
    if not isinstance(entry, dict):
        raise UserError(f"seed tasks {where}: an object with an instruction is needed, found {_short(entry)}")
    entry = _of_turns(entry)
    instruction = _field(entry, "instruction", where)
    if not instruction:
        raise UserError(f"seed tasks {where}: the instruction is missing or empty")
    instances = entry.get("instances", [entry])
    if not isinstance(instances, list) or not instances or not isinstance(instances[0], dict):
        raise UserError(f"seed tasks {where}: instances must be a list of objects, found {_short(instances)}")
    given = _field(instances[0], "input", where)
    kind = entry.get("is_classification")
    if kind is not None and not isinstance(kind, bool):
        raise UserError(f"seed tasks {where}: is_classification must be true or false, found {_short(kind)}")
    return SeedTask(
        id=str(entry.get("id") or f"seed-{n}"),
        instruction=instruction,
        input="" if given == "<noinput>" else given,
        output=_field(instances[0], "output", where),
        is_classification=kind,
    )


def _of_turns(entry: dict[str, Any]) -> dict[str, Any]:
    """ShareGPT's `conversations` or `messages` as instruction and output; an entry of another form as it is."""
    turns = entry.get("conversations", entry.get("messages"))
    if not isinstance(turns, list):
        return entry
    said: dict[str, Any] = {}
    for turn in turns:
        if isinstance(turn, dict):
            said.setdefault(str(turn.get("from", turn.get("role"))), turn.get("value", turn.get("content")))
    asked, answer = (said.get(one, said.get(other)) for one, other in (("human", "user"), ("gpt", "assistant")))
    return {"id": entry.get("id"), "instruction": asked, "output": answer}


def _field(entry: dict[str, Any], name: str, where: str) -> str:
    value = entry.get(name)
    if value is not None and not isinstance(value, str):
        raise UserError(f"seed tasks {where}: {name} must be text, found {_short(value)}")
    if value and re.search("[\ud800-\udfff]", value):
        raise UserError(f"seed tasks {where}: {name} holds half a surrogate pair, which is no character")
    return (value or "").strip()


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."
