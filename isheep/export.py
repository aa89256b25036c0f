"""What others take away from a run: D^t in the usual forms, and checkpoints with the adapter merged in."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from isheep.chat import Chat
from isheep.errors import UserError
from isheep.files import finish_tree, write_text
from isheep.records import AssessedPair, Model, Pair


def write(pairs: Sequence[Pair], form: str, path: Path) -> None:
    """The pairs as one JSON list in `path`, each in `form`: a name in FORMS.

    Raises UserError where `form` is none of these, and where "paper" asks for ratings that the pairs don't have.
    """
    if form not in FORMS:
        raise UserError(f"export form {form!r} is not known: take one of {', '.join(FORMS)}")
    rows = [FORMS[form](pair) for pair in pairs]
    write_text(path, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")


def merged(model: Model, chat: Chat, into: Path) -> None:
    """The base with the adapter of `model` in its weights, its tokenizer and template: plain transformers loads it.

    Complete or not there at all. Raises UserError where `into` exists.
    """
    from isheep.trainers.peft import merge

    if into.exists():
        raise UserError(f"{into} exists: give another folder for the merged checkpoint, or remove it")
    part = into.with_name(f"{into.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    merge(model, chat, part)
    finish_tree(part)


def alpaca(pair: Pair) -> dict[str, Any]:
    """Stanford Alpaca: instruction, input, output."""
    return {"instruction": pair.instruction, "input": pair.input, "output": pair.output}


def sharegpt(pair: Pair) -> dict[str, Any]:
    """ShareGPT: a conversation of a human and gpt."""
    turns = {"human": pair.content, "gpt": pair.output}
    return {"conversations": [{"from": who, "value": text} for who, text in turns.items()]}


def messages(pair: Pair) -> dict[str, Any]:
    """Messages of a user and an assistant, as chat templates read them."""
    turns = {"user": pair.content, "assistant": pair.output}
    return {"messages": [{"role": role, "content": text} for role, text in turns.items()]}


def paper(pair: Pair) -> dict[str, Any]:
    """The keys of Appendix B, Table 6: Alpaca's and quality_score, following_score; null where it can't be read."""
    if not isinstance(pair, AssessedPair):
        raise UserError(f"pair {pair.id} has no ratings, which form 'paper' shows: export it as alpaca")
    scores = {f"{name}_score": _whole(grade.score) for name, grade in pair.grades.items()}
    return alpaca(pair) | scores


def _whole(score: float | None) -> float | None:
    """8 rather than 8.0, as the paper prints scores."""
    return int(score) if score is not None and score.is_integer() else score


FORMS: dict[str, Callable[[Pair], dict[str, Any]]] = {
    "alpaca": alpaca,
    "sharegpt": sharegpt,
    "messages": messages,
    "paper": paper,
}
