"""MT-Bench (Zheng et al. 2023), single-answer grading: 80 questions of two turns, each turn rated 1 to 10 by a judge.

Questions, reference answers and judge prompts are read from FastChat's files. Rules and file formats are those of its
fastchat/llm_judge: its tools read our answers and judgments, and we read theirs.
"""

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from math import fsum
from pathlib import Path
from typing import Any, NamedTuple

from isheep.benchmarks.support.base import Benchmark, PlannedAnswers, Result, Score
from isheep.benchmarks.support.context import EvalContext, data_path
from isheep.benchmarks.support.data_files import read_rows
from isheep.errors import UserError
from isheep.judges.base import Messages, count_outcomes, judge_notes, merge_parameters, safe_file_name
from isheep.openai_client import ServerReply
from isheep.recipe.schema import BenchmarkSettings, JudgeSettings
from isheep.records import Sampling
from isheep.rundir.atomic import write_text

JUDGE = "gpt-4"  # FastChat's default
PARAMETERS = {"temperature": 0, "max_tokens": 2048, "n": 1}  # what it asks with
MAX_TOKENS = 1024  # of an answer, its default
WITH_REFERENCE = ("math", "reasoning", "coding", "arena-hard-200")  # its NEED_REF_CATS
TEMPERATURES = {  # its temperature_config, of answers
    **{"writing": 0.7, "roleplay": 0.7, "stem": 0.1, "humanities": 0.1},
    **{"extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0, "arena-hard-200": 0.0},
}
OTHER_TEMPERATURE = 0.7
RATINGS = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))  # the second where there is no first
UNREAD = -1  # a judgment's score where no rating was found
ERROR = "$ERROR$"  # the judgment of a call that failed
TURNS = ("first turn", "second turn")  # names of scores
AVERAGES = ("average", "first_turn", "second_turn")
Turns = Mapping[Any, Sequence[str]]  # what was said in each turn, by question_id


class Files(NamedTuple):
    """What FastChat keeps in data/mt_bench."""

    questions: list[dict[str, Any]]  # question_id, category, turns
    references: Turns
    prompts: dict[str, dict[str, str]]  # by name: system_prompt, prompt_template


class Ask(NamedTuple):
    """One judge prompt."""

    question_id: Any
    turn: int
    prompt: str  # its name, such as single-v1
    system: str
    user: str

    @property
    def messages(self) -> Messages:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.user}]


def run(context: EvalContext) -> Result:
    """Generate answers to both turns, and ask the judge for a rating of each.

    Scores have the ratings, None for those that can't be read. Details: "averages" are FastChat's, over the ratings
    that could be read; "ratings_by_category" has the ratings of each turn and category (Table 12). The benchmark's
    folder gets model_answer/ and model_judgment/.
    """
    judge, model = context.required_judge, context.model_name
    judge_name = judge.named(JUDGE)
    files = load(context.data, judge_name)
    turns = generate_answers(context, files.questions)
    requests = asks(files, turns)
    replies = context.ask_judge([request.messages for request in requests], PARAMETERS, JUDGE)
    rows = [judgment(request, reply, model, judge_name) for request, reply in zip(requests, replies, strict=True)]
    _write(context.folder.path / "model_answer" / f"{model}.jsonl", answer_rows(turns, model))
    _write(context.folder.path / "model_judgment" / f"{safe_file_name(judge_name)}_single.jsonl", rows)
    ratings = [score_of(row) for row in rows]
    return Result(
        template=context.template,
        scores=make_scores(rows),
        notes=judge_notes(model, judge_name, judge.kind, replies, ratings),
        details={
            "judge": {"model": judge_name, "kind": judge.kind, **count_outcomes(replies, ratings)},
            "averages": {name: averages(rows)[model][name] for name in AVERAGES},
            "ratings_by_category": by_category(rows, files.questions),
        },
    )


def make_scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, Score]:
    """Return the ratings of all turns, clustered by dialogue, and of each turn alone."""
    question_ids = [row["question_id"] for row in rows]
    scores = {"MT-Bench": Score(items=[score_of(row) for row in rows], clusters=question_ids)}
    for number, name in enumerate(TURNS, 1):
        scores[name] = Score(items=[score_of(row) for row in rows if row["turn"] == number])
    return scores


def prompts(settings: BenchmarkSettings) -> list[str]:
    files = load(data_path(settings), JUDGE)
    empty = {question["question_id"]: ["", ""] for question in files.questions}
    asks(files, empty)  # raises now if a run would lack a reference or a judge prompt
    return [turn for question in files.questions for turn in question["turns"]]


def score_inputs(settings: BenchmarkSettings) -> object:
    """Return questions, references, judge prompts, and how this judge is asked."""
    judge = settings.judge or JudgeSettings()
    name = judge.model or JUDGE
    return [load(data_path(settings), name), name, judge.local, merge_parameters(PARAMETERS, judge.parameters)]


# --- FastChat's files


def load(data: Path | None, judge: str) -> Files:
    """FastChat's data/mt_bench: question.jsonl, reference_answer/, and judge_prompts.jsonl in it or beside it.

    The references are those named after the judge, as FastChat has it, or else gpt-4's.
    """
    questions = questions_of(data)
    data = data or Path()
    places = [place for place in (data, data.parent) if (place / "judge_prompts.jsonl").is_file()]
    named = read_rows((places or [data])[0] / "judge_prompts.jsonl", ("name", "system_prompt", "prompt_template"))
    known = [data / "reference_answer" / f"{name}.jsonl" for name in (safe_file_name(judge), JUDGE)]
    references = read_answers(next((path for path in known if path.is_file()), known[-1]))
    return Files(questions, references, {row["name"]: row for row in named})


def questions_of(data: Path | None) -> list[dict[str, Any]]:
    """The questions, each with its id, category and turns."""
    if data is None or not data.is_dir():
        wrong = f"{data} is no folder" if data else "its files are needed"
        raise UserError(f"mt_bench: {wrong}; give FastChat's data/mt_bench as data")
    rows = read_rows(data / "question.jsonl", ("question_id", "category", "turns"))
    for row in rows:
        if not row["turns"] or not all(isinstance(turn, str) for turn in row["turns"]):
            raise UserError(f"{data / 'question.jsonl'}: question {row['question_id']}: turns must be texts")
    return rows


def read_answers(path: Path) -> dict[Any, list[str]]:
    """A model_answer file: the turns of the first choice by question_id. The last row of a question counts."""
    found = {}
    for row in read_rows(path, ("question_id", "choices")):
        try:
            found[row["question_id"]] = [str(turn) for turn in row["choices"][0]["turns"]]
        except (LookupError, TypeError):
            raise UserError(f"{path}: question {row['question_id']} has no choices[0].turns") from None
    return found


def answer_rows(said: Turns, model: str) -> Iterator[dict[str, Any]]:
    """Rows of a model_answer file. No clock times stand in results, so tstamp is 0."""
    for question, turns in said.items():
        name = hashlib.sha256(json.dumps([model, question, turns]).encode()).hexdigest()[:22]
        choices = [{"index": 0, "turns": list(turns)}]
        yield {"question_id": question, "answer_id": name, "model_id": model, "choices": choices, "tstamp": 0}


def _write(path: Path, rows: Any) -> None:
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


# --- asking and judging


def generate_answers(context: EvalContext, questions: Sequence[dict[str, Any]]) -> dict[Any, list[str]]:
    """Return the model's answers to each turn, with the turns before it, at its category's temperature."""
    answers: dict[Any, list[str]] = {question["question_id"]: [] for question in questions}
    temperatures = {
        question["question_id"]: TEMPERATURES.get(question["category"], OTHER_TEMPERATURE) for question in questions
    }
    for turn in range(max(len(question["turns"]) for question in questions)):
        for temperature in sorted(set(temperatures.values())):
            batch = [
                question
                for question in questions
                if temperatures[question["question_id"]] == temperature and turn < len(question["turns"])
            ]
            prompts = [
                context.dialogue_prompt(_alternate(question["turns"][: turn + 1], answers[question["question_id"]]))
                for question in batch
            ]
            sampling = Sampling(
                temperature=temperature, top_p=1.0, max_tokens=context.max_tokens(MAX_TOKENS), stop=(context.chat.end,)
            )
            rows = context.answers(prompts, sampling, f"turn-{turn + 1}-temperature-{temperature:g}.jsonl")
            for question, answer in zip(batch, rows, strict=True):
                answers[question["question_id"]].append(answer.output.strip())
    return answers


def _alternate(questions: Sequence[str], answers: Sequence[str]) -> list[str]:
    """Return question, answer, question, ... of a dialogue whose last question has no answer yet."""
    return [text for pair in zip(questions, [*answers, ""], strict=True) for text in pair][:-1]


def asks(files: Files, said: Turns) -> list[Ask]:
    """The judge prompts of all turns that a judge rates, byte for byte FastChat's: by question, then by turn.

    The second turn is rated where there are exactly two. Raises UserError where an answer, a reference or a prompt is
    missing.
    """
    return [one for question in files.questions for one in _asks(files, question, said.get(question["question_id"]))]


def _asks(files: Files, question: Mapping[str, Any], said: Sequence[str] | None) -> Iterator[Ask]:
    name, turns = question["question_id"], question["turns"]
    reference = files.references.get(name) if question["category"] in WITH_REFERENCE else ()
    if said is None or len(said) < min(2, len(turns)):
        raise UserError(f"question {name} has no answer to {'its second turn' if said else 'it'}")
    if reference is None:
        raise UserError(
            f"question {name} ({question['category']}) has no reference answer, and its judge prompt needs it"
        )
    math = "-math" if question["category"] in WITH_REFERENCE else ""
    known = {f"ref_answer_{n}": text for n, text in enumerate(reference, 1)}
    first = {"question": turns[0], "answer": said[0]}
    yield _ask(files, name, 1, f"single{math}-v1", known | first)
    if len(turns) == 2:
        both = {f"question_{n}": text for n, text in enumerate(turns, 1)}
        both |= {f"answer_{n}": text for n, text in enumerate(said, 1)}
        yield _ask(files, name, 2, f"single{math}-v1-multi-turn", known | both)


def _ask(files: Files, question: Any, turn: int, name: str, values: Mapping[str, str]) -> Ask:
    """FastChat's templates are format strings: a doubled brace is one brace. Values are put in as they are."""
    if name not in files.prompts:
        raise UserError(f"judge_prompts.jsonl has no prompt {name!r}, only {', '.join(files.prompts)}")
    prompt = files.prompts[name]
    try:
        text = prompt["prompt_template"].format(**values)
    except (LookupError, ValueError, AttributeError) as error:
        raise UserError(f"judge prompt {name!r} can't be filled for question {question}: {error}") from None
    return Ask(question, turn, name, prompt["system_prompt"], text)


def rating(text: str) -> float | None:
    """The number that FastChat reads in a judgment: the first [[x]], else the first [x]. None where there is none."""
    found = next((match for pattern in RATINGS if (match := pattern.search(text))), None)
    try:
        return None if found is None else number(found[1])
    except ValueError:
        return None


def number(text: str) -> float:
    """A Python literal, which FastChat takes it for: 08 is none."""
    if not text.isascii() or re.match(r"0\d", text):
        raise ValueError(text)
    return float(text) if "." in text else int(text)


def judgment(one: Ask, reply: ServerReply, model: str, judge: str) -> dict[str, Any]:
    """A row of a model_judgment file. Score -1: nothing was read. A number outside 1 to 10 is no rating either."""
    found = None if reply.error else rating(reply.text)
    return {
        "question_id": one.question_id,
        "model": model,
        "judge": [judge, one.prompt],
        "user_prompt": one.user,
        "judgment": ERROR if reply.error else reply.text,
        "score": found if found is not None and 1 <= found <= 10 else UNREAD,
        "turn": one.turn,
        "tstamp": 0,
    }


# --- scores


def read_judgments(path: Path) -> list[dict[str, Any]]:
    """The rows of a model_judgment file of single-answer grading."""
    rows = read_rows(path, ("question_id", "model", "turn"))
    for number, row in enumerate(rows, 1):
        score = row.setdefault("score", None)
        if isinstance(score, bool) or not isinstance(score, int | float | None):
            raise UserError(f"{path} row {number}: score must be a number, found {score!r}")
    return rows


def score_of(row: Mapping[str, Any]) -> float | None:
    """A judgment's rating; None for -1."""
    score: float | None = row["score"]
    return None if score == UNREAD else score


def averages(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By model, what FastChat's show_result prints: the means of the first turn, of the second, and of all rows.

    Scores of -1 are left out, and counted here: "unreadable", or "error" for calls that failed. The mean of nothing is
    None. A turn rated twice counts twice, as there; "repeated" says how many such rows there are.
    """
    found: dict[str, dict[str, Any]] = {}
    for model in dict.fromkeys(str(row["model"]) for row in rows):
        own = [row for row in rows if str(row["model"]) == model]
        unread = [row for row in own if score_of(row) is None]
        failed = sum(row.get("judgment") == ERROR for row in unread)
        found[model] = {
            "first_turn": mean([score_of(row) for row in own if row["turn"] == 1]),
            "second_turn": mean([score_of(row) for row in own if row["turn"] == 2]),
            "average": mean([score_of(row) for row in own]),
            **{"ok": len(own) - len(unread), "unreadable": len(unread) - failed, "error": failed},
            "repeated": len(own) - len({(row["question_id"], row["turn"]) for row in own}),
        }
    return found


def mean(scores: Sequence[float | None]) -> float | None:
    read = [score for score in scores if score is not None]
    return fsum(read) / len(read) if read else None


def by_category(
    rows: Sequence[Mapping[str, Any]], questions: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, list[float | None]]]:
    """Table 12 (Appendix D): the ratings by turn and category, in the order of the questions."""
    category = {question["question_id"]: str(question["category"]) for question in questions}
    found: dict[str, dict[str, list[float | None]]] = {turn: defaultdict(list) for turn in TURNS}
    for row in rows:
        found[TURNS[row["turn"] != 1]][category.get(row["question_id"], "other")].append(score_of(row))
    return found


BENCHMARK = Benchmark(
    name="mt_bench",
    run=run,
    prompts=prompts,
    score_inputs=score_inputs,
    needs_judge=True,
    planned=PlannedAnswers(num_answers=160, max_tokens=MAX_TOKENS, batch_size=64),
)
