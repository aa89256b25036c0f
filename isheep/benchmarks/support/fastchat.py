"""FastChat's files and rules of MT-Bench: questions, reference answers, judge prompts, judgments and averages.

The rules and formats are those of fastchat/llm_judge: its tools read our answers and judgments, and we read theirs.
"""

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import fsum
from pathlib import Path
from typing import Any, NamedTuple

from isheep.benchmarks.support.foreign_rows import JudgePrompt, Judgment, ModelAnswer, TurnQuestion
from isheep.errors import UserError, one_line
from isheep.files.json_files import existing_file, read_checked, read_rows
from isheep.judges.base import Messages, safe_file_name
from isheep.openai_client import ServerReply

DEFAULT_JUDGE = "gpt-4"
# The categories whose judge prompt shows a reference answer: FastChat's NEED_REF_CATS.
CATEGORIES_WITH_REFERENCE = ("math", "reasoning", "coding", "arena-hard-200")
# The second form counts if the first does not occur.
RATING_PATTERNS = (re.compile(r"\[\[(\d+(?:\.\d*)?)\]\]"), re.compile(r"\[(\d+(?:\.\d*)?)\]"))
# The score of a judgment in which no rating can be read.
UNREADABLE = -1
# The text of a judgment whose call failed.
FAILED_CALL = "$ERROR$"
TURN_NAMES = ("first turn", "second turn")

# An id that is a number, as text.
NUMERIC_ID = re.compile("0|[1-9][0-9]{0,15}")
# The category of a rating whose question is not in question.jsonl.
OTHER = "other"

Row = Mapping[str, Any]
Turns = Mapping[Any, Sequence[str]]
"""The answers to the turns of each question, by question_id."""


class QuestionFiles(NamedTuple):
    """What FastChat keeps in data/mt_bench.

    Questions have question_id, category and turns; prompts, by name, have system_prompt and prompt_template.
    """

    questions: list[dict[str, Any]]
    references: Turns
    prompts: dict[str, dict[str, str]]


class JudgeRequest(NamedTuple):
    """One judge prompt. `prompt` is the name of its template, such as single-v1."""

    question_id: Any
    turn: int
    prompt: str
    system: str
    user: str

    @property
    def messages(self) -> Messages:
        """The conversation that the judge reads."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.user}]


# --- files


def load_files(data: Path | None, judge: str) -> QuestionFiles:
    """Read FastChat's data/mt_bench: question.jsonl, reference_answer/, and judge_prompts.jsonl in it or beside it.

    The references are those in the file that is named after the judge, as in FastChat, or else gpt-4's.
    """
    questions = load_questions(data)
    data = data or Path()
    prompt_files = [existing_file(folder, "judge_prompts.jsonl") for folder in (data, data.parent)]
    prompts = read_checked(next((path for path in prompt_files if path.is_file()), prompt_files[0]), JudgePrompt)
    reference_files = [
        existing_file(data / "reference_answer", f"{name}.jsonl") for name in (safe_file_name(judge), DEFAULT_JUDGE)
    ]
    references = read_answers(next((path for path in reference_files if path.is_file()), reference_files[-1]))
    return QuestionFiles(questions, references, {row["name"]: row for _, row in prompts})


def load_questions(data: Path | None) -> list[dict[str, Any]]:
    """Read the questions, each with its id, category and turns. Raises UserError if `data` is not their folder."""
    if data is None or not data.is_dir():
        problem = f"{data} is no folder" if data else "its files are needed"
        raise UserError(f"mt_bench: {problem}; give FastChat's data/mt_bench as data")
    rows = read_checked(existing_file(data, "question.jsonl"), TurnQuestion)
    check_once((location, row["question_id"]) for location, row in rows)
    return [{**row, "question_id": question_key(row["question_id"])} for _, row in rows]


def read_answers(path: Path) -> dict[Any, list[str]]:
    """Read a model_answer file: the turns of the first choice by question_id.

    Raises UserError if a question is answered twice: which answer counts would be a guess.
    """
    rows = read_rows(path, ModelAnswer)
    check_once((location, row.question_id) for location, row in rows)
    return {question_key(row.question_id): row.choices[0].turns for _, row in rows}


def read_model_name(path: Path) -> str:
    """Return the model of a model_answer file: its model_id, or the file's name. Raises UserError for two."""
    names = sorted({row.model_id for _, row in read_rows(path, ModelAnswer) if row.model_id})
    if len(names) > 1:
        raise UserError(f"{path} has answers of {len(names)} models ({', '.join(names)}): give a file for each")
    return names[0] if names else path.name.removesuffix(".gz").partition(".json")[0]


def question_key(question_id: int | str) -> int | str:
    """Return the form in which ids are compared: "81" is the number 81."""
    if isinstance(question_id, int) or not NUMERIC_ID.fullmatch(question_id):
        return question_id
    return int(question_id)


def check_once(ids: Iterable[tuple[str, int | str]]) -> None:
    """Raise UserError if an id of located rows occurs twice."""
    first: dict[int | str, str] = {}
    for location, question_id in ids:
        earlier = first.setdefault(question_key(question_id), location)
        if earlier != location:
            raise UserError(f"{location}: question {question_id} is also in {earlier}: keep one of the two rows")


def answer_rows(answers: Turns, model: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a model_answer file. Results hold no clock times, so tstamp is 0."""
    for question, turns in answers.items():
        answer_id = hashlib.sha256(json.dumps([model, question, turns]).encode()).hexdigest()[:22]
        choices = [{"index": 0, "turns": list(turns)}]
        yield {"question_id": question, "answer_id": answer_id, "model_id": model, "choices": choices, "tstamp": 0}


def json_lines(rows: Iterable[Row]) -> str:
    """Return rows as JSON lines, in FastChat's form."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def read_judgments(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a model_judgment file of single-answer grading. Raises UserError if one is malformed."""
    rows = [row for _, row in read_rows(path, Judgment)]
    return [{**row.model_dump(), "question_id": question_key(row.question_id)} for row in rows]


# --- judge prompts


def judge_requests(files: QuestionFiles, answers: Turns) -> list[JudgeRequest]:
    """Return the judge prompts of all turns that a judge rates, byte for byte FastChat's: by question, then by turn.

    The second turn is rated if a question has exactly two. Raises UserError if an answer, a reference or a prompt is
    missing.
    """
    return [
        request
        for question in files.questions
        for request in _question_requests(files, question, answers.get(question["question_id"]))
    ]


def _question_requests(files: QuestionFiles, question: Row, answers: Sequence[str] | None) -> Iterator[JudgeRequest]:
    question_id, turns = question["question_id"], question["turns"]
    needs_reference = question["category"] in CATEGORIES_WITH_REFERENCE
    references = files.references.get(question_id) if needs_reference else ()
    if answers is None or len(answers) < min(2, len(turns)):
        raise UserError(f"question {question_id} has no answer to {'its second turn' if answers else 'it'}")
    if references is None:
        raise UserError(
            f"question {question_id} ({question['category']}) has no reference answer, and its judge prompt needs it"
        )
    math = "-math" if needs_reference else ""
    values = {f"ref_answer_{n}": text for n, text in enumerate(references, 1)}
    first_turn = {"question": turns[0], "answer": answers[0]}
    yield _fill_request(files, question_id, 1, f"single{math}-v1", values | first_turn)
    if len(turns) == 2:
        values |= {f"question_{n}": text for n, text in enumerate(turns, 1)}
        values |= {f"answer_{n}": text for n, text in enumerate(answers, 1)}
        yield _fill_request(files, question_id, 2, f"single{math}-v1-multi-turn", values)


def _fill_request(
    files: QuestionFiles, question_id: Any, turn: int, name: str, values: Mapping[str, str]
) -> JudgeRequest:
    """FastChat's templates are format strings: a doubled brace is one brace. Values are put in as they are."""
    if name not in files.prompts:
        raise UserError(f"judge_prompts.jsonl has no prompt {name!r}, only {', '.join(files.prompts)}")
    prompt = files.prompts[name]
    try:
        text = prompt["prompt_template"].format(**values)
    except (LookupError, ValueError, AttributeError) as error:
        raise UserError(
            f"judge prompt {name!r} can't be filled for question {question_id}: {one_line(error)}"
        ) from None
    return JudgeRequest(question_id, turn, name, prompt["system_prompt"], text)


# --- ratings


def read_rating(text: str) -> float | None:
    """Return the number that FastChat reads in a judgment: the first [[x]], else the first [x]; None without either."""
    match = next((match for pattern in RATING_PATTERNS if (match := pattern.search(text))), None)
    try:
        return None if match is None else _number(match[1])
    except ValueError:
        return None


def _number(text: str) -> float:
    """Return a number that FastChat reads as a Python literal, for which 08 is an error. Raises ValueError."""
    if not text.isascii() or re.match(r"0\d", text):
        raise ValueError(text)
    return float(text) if "." in text else int(text)


def judgment_row(request: JudgeRequest, reply: ServerReply, model: str, judge: str) -> dict[str, Any]:
    """Return a row of a model_judgment file. Its score is -1 if there is no rating, or one outside 1 to 10."""
    rating = None if reply.error else read_rating(reply.text)
    return {
        "question_id": request.question_id,
        "model": model,
        "judge": [judge, request.prompt],
        "user_prompt": request.user,
        "judgment": FAILED_CALL if reply.error else reply.text,
        "score": rating if rating is not None and 1 <= rating <= 10 else UNREADABLE,
        "turn": request.turn,
        "tstamp": 0,
    }


def score_of(row: Row) -> float | None:
    """Return a judgment's rating; None for -1, for null and for NaN, which FastChat's averages leave out too."""
    score: float | None = row["score"]
    return None if score is None or score == UNREADABLE or math.isnan(score) else score


def averages(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Return by model what FastChat's show_result prints: the means of the first turn, the second, and all rows.

    Scores of -1, null and NaN are left out and counted as "unreadable", or as "error" for calls that failed. The mean
    of nothing is None. A turn that is rated more than once counts as often, as there; "repeated" is the number of such
    extra rows. A number outside 1 to 10 counts, as there; "outside_scale" is how many there are. "judges" has the names
    of the judges.
    """
    result: dict[str, dict[str, Any]] = {}
    for model in dict.fromkeys(str(row["model"]) for row in rows):
        own = [row for row in rows if str(row["model"]) == model]
        unreadable = [row for row in own if score_of(row) is None]
        failed = sum(row.get("judgment") == FAILED_CALL for row in unreadable)
        result[model] = {
            "first_turn": mean([score_of(row) for row in own if row["turn"] == 1]),
            "second_turn": mean([score_of(row) for row in own if row["turn"] == 2]),
            "average": mean([score_of(row) for row in own]),
            "ok": len(own) - len(unreadable),
            "unreadable": len(unreadable) - failed,
            "error": failed,
            "repeated": len(own) - len({(row["question_id"], row["turn"]) for row in own}),
            "outside_scale": sum(not 1 <= score <= 10 for row in own if (score := score_of(row)) is not None),
            "judges": sorted({judge for row in own if (judge := judge_of(row))}),
        }
    return result


def judge_of(row: Row) -> str:
    """Return the judge of a judgment, "" if it names none; FastChat writes [judge, prompt]."""
    judge = row.get("judge") or ""
    return judge if isinstance(judge, str) else judge[0]


def mean(scores: Sequence[float | None]) -> float | None:
    """Return the mean of the scores that could be read, None if there is none."""
    readable = [score for score in scores if score is not None]
    return fsum(readable) / len(readable) if readable else None


def by_category(rows: Sequence[Row], questions: Sequence[Row]) -> dict[str, dict[str, list[float | None]]]:
    """Return the ratings by turn and category, in the order of the questions (Table 12, Appendix D)."""
    categories = categories_of(questions)
    result: dict[str, dict[str, list[float | None]]] = {turn: defaultdict(list) for turn in TURN_NAMES}
    for row in rows:
        turn = TURN_NAMES[0] if row["turn"] == 1 else TURN_NAMES[1]
        result[turn][category_of(row, categories)].append(score_of(row))
    return result


def category_averages(rows: Sequence[Row], questions: Sequence[Row]) -> dict[str, dict[str, float | None]]:
    """Return by category the mean ratings of the first turn, of the second, and of both (Table 12, Appendix D)."""
    first, second = (by_category(rows, questions)[turn] for turn in TURN_NAMES)
    return {
        category: {
            "first_turn": mean(first.get(category, [])),
            "second_turn": mean(second.get(category, [])),
            "average": mean([*first.get(category, []), *second.get(category, [])]),
        }
        for category in dict.fromkeys([*first, *second])
    }


def categories_of(questions: Sequence[Row]) -> dict[Any, str]:
    """Return the category of each question by its id."""
    return {question["question_id"]: str(question["category"]) for question in questions}


def category_of(row: Row, categories: Mapping[Any, str]) -> str:
    """Return the category of a judgment's question, "other" if the question is not known."""
    return categories.get(row["question_id"], OTHER)
