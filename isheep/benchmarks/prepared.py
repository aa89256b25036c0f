"""What OpenCompass makes of an item before it asks: the values for a task's prompt, its options, the right one."""

import re
from collections.abc import Callable
from typing import NamedTuple

from isheep.benchmarks.originals import DataRow

LETTERS = "ABCDE"


class Prepared(NamedTuple):
    """An item. Where the model writes its answer, `options` are the references, any of which is right."""

    fields: dict[str, str]
    options: list[str]
    right: int = 0


def boolq(row: DataRow, number: int) -> Prepared:
    """The passage loses its title, the question gets a capital."""
    fields = {"passage": row["passage"].partition(" -- ")[2], "question": _upper(row["question"])}
    return Prepared(fields, ["No", "Yes"], int(row["label"]))


def piqa(row: DataRow, number: int) -> Prepared:
    """A solution begins with a capital where the goal is a whole sentence, else it goes on."""
    goal = _upper(row["goal"])
    case = _upper if goal.endswith(("?", ".")) else _lower
    return Prepared({"goal": goal}, [case(row["sol1"]), case(row["sol2"])], int(row["label"]))


def siqa(row: DataRow, number: int) -> Prepared:
    answers = {letter: str(row[f"answer{letter}"]) for letter in "ABC"}
    return Prepared(
        {"context": row["context"], "question": row["question"], **answers}, list("ABC"), int(row["label"]) - 1
    )


def gpqa(row: DataRow, number: int) -> Prepared:
    """The right answer's place goes round with the item's number, counted from 1: the order is turned by that many."""
    options = [row["Correct Answer"], *(row[f"Incorrect Answer {n}"] for n in (1, 2, 3))]
    turned = [options[(place + number) % 4] for place in range(4)]
    return Prepared({"question": row["Question"], **dict(zip("ABCD", turned, strict=True))}, list("ABCD"), -number % 4)


def hellaswag(row: DataRow, number: int) -> Prepared:
    """The query of the form that OpenCompass's file has: the activity and the context, without WikiHow's brackets."""
    query = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    return Prepared({"query": _unbracketed(query)}, [_unbracketed(one) for one in row["endings"]], int(row["label"]))


def winogrande(row: DataRow, number: int) -> Prepared:
    filled = [row["sentence"].replace("_", row[f"option{n}"]) for n in (1, 2)]
    return Prepared({}, filled, int(row["answer"]) - 1)


def arc(row: DataRow, number: int) -> Prepared | None:
    """Only items with four choices."""
    return _lettered(row, {"question": row["question"]}) if len(row["choices"]["text"]) == 4 else None


def openbookqa(row: DataRow, number: int) -> Prepared:
    return _lettered(row, {"question": row["question_stem"], "fact": row["fact1"]})


def commonsense_qa(row: DataRow, number: int) -> Prepared:
    right = row["choices"]["label"].index(row["answerKey"])
    return Prepared({"question": row["question"]}, list(row["choices"]["text"]), right)


def mmlu(row: DataRow, number: int) -> Prepared:
    choices = dict(zip("ABCD", map(str, row["choices"]), strict=True))
    fields = {"question": row["question"], "subject": row["subject"].replace("_", " "), **choices}
    return Prepared(fields, list("ABCD"), int(row["answer"]))


def nq(row: DataRow, number: int) -> Prepared:
    return Prepared({"question": row["question"]}, list(row["answer"]))


def triviaqa(row: DataRow, number: int) -> Prepared:
    return Prepared({"question": row["question"]}, list(row["answer"]["aliases"]))


def squad2(row: DataRow, number: int) -> Prepared:
    """Where the passage has no answer, saying so is right, and so are the plausible answers."""
    texts = list(row["answers"]["text"])
    references = texts or [*row.get("plausible_answers", ()), "impossible to answer"]
    return Prepared({"context": row["context"], "question": row["question"]}, sorted(set(references)))


PREPARE: dict[str, Callable[[DataRow, int], Prepared | None]] = {
    "boolq": boolq, "piqa": piqa, "siqa": siqa, "gpqa_diamond": gpqa, "hellaswag": hellaswag, "winogrande": winogrande,
    "arc_easy": arc, "arc_challenge": arc, "openbookqa_fact": openbookqa, "commonsense_qa": commonsense_qa,
    "mmlu": mmlu, "nq": nq, "triviaqa": triviaqa, "squad2": squad2,
}  # fmt: skip


def _lettered(row: DataRow, fields: dict[str, str]) -> Prepared:
    texts = dict(zip(LETTERS, row["choices"]["text"], strict=False))
    right = row["choices"]["label"].index(row["answerKey"].strip())
    return Prepared({**fields, **texts}, list(texts), right)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _unbracketed(text: str) -> str:
    """As lm-eval cleans HellaSwag."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")
