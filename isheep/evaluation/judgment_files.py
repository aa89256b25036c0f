"""Scores of files of judgments, of isheep or of other programs: MT-Bench's model_judgment, AlpacaEval's annotations."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from isheep.benchmarks import alpaca_eval
from isheep.benchmarks.support import fastchat, win_rate
from isheep.errors import UserError, option
from isheep.evaluation.formatting import escape_unprintable, format_fixed
from isheep.evaluation.statistics import estimate
from isheep.files.json_files import read_values
from isheep.rundir.atomic import write_text

# The name of a model, baseline or annotator in rows that name none.
UNNAMED = "(no name)"

# A row of such a file.
Row = Mapping[str, Any]


class JudgmentFile(NamedTuple):
    """A file of judgments, or those of some of its models."""

    path: Path
    kind: Literal["alpaca_eval", "mt_bench"]
    rows: list[dict[str, Any]]


def score_tables(path: Path, data: Path | None = None, models: Sequence[str] = ()) -> Iterator[RenderableType]:
    """Yield what `isheep scores` prints: FastChat's averages, or AlpacaEval's win rate and standard error.

    With `data` also Table 12 of MT-Bench (its question.jsonl has the categories), or the length-controlled win rate
    (df_gamed.csv). `models` limits the models of a file. Raises UserError if the file is neither.
    """
    file = read_judgments(path, models)
    if file.kind == "alpaca_eval":
        gamed = length_control_file(data)
        yield Text("AlpacaEval: rates in percent, raw unless the name says otherwise")
        yield alpaca_eval_table(file.rows, gamed)
        yield from map(Text, alpaca_eval_notes(file.rows))
        return
    questions = load_questions(file, data)
    yield Text("MT-Bench, single-answer grading, without unreadable ratings and failed calls")
    yield leaderboard(file.rows)
    yield from (table_12(file.rows, questions, model) for model in fastchat.averages(file.rows) if questions)
    yield from map(Text, mt_bench_notes(file.rows, questions))


def scores_json(path: Path, data: Path | None = None, models: Sequence[str] = ()) -> dict[str, Any]:
    """Return what `isheep scores --json` prints: FastChat's averages by model, or AlpacaEval's scores.

    AlpacaEval's scores have "notes"; of MT-Bench each model has those on the file. With `data` each model of MT-Bench
    has "categories": by category FastChat's means of both turns and of each, as in Table 12.
    """
    file = read_judgments(path, models)
    if file.kind == "alpaca_eval":
        return {**alpaca_eval.scores(file.rows, length_control_file(data)), "notes": alpaca_eval_notes(file.rows)}
    averages, questions = fastchat.averages(file.rows), load_questions(file, data)
    notes = mt_bench_notes(file.rows, questions)
    for model, values in averages.items():
        # Beside the models, a key could be the name of one.
        values["notes"] = notes
        if questions:
            rows = [row for row in file.rows if row["model"] == model]
            values["categories"] = fastchat.category_averages(rows, questions)
    return averages


def read_judgments(path: Path, models: Sequence[str]) -> JudgmentFile:
    """Return the benchmark of a file, and its rows, or those of `models`.

    Raises UserError if a row is malformed, if the file has no such model, or annotations of several models, which would
    become one win rate.
    """
    kind: Literal["alpaca_eval", "mt_bench"] = "mt_bench"
    if any(isinstance(value, dict) and "preference" in value for _, value in read_values(path)):
        kind = "alpaca_eval"
    key = "generator_2" if kind == "alpaca_eval" else "model"
    rows = win_rate.read_annotations(path) if kind == "alpaca_eval" else fastchat.read_judgments(path)
    available = list(dict.fromkeys(UNNAMED if row[key] is None else row[key] for row in rows))
    if unknown := [name for name in models if name not in available]:
        raise UserError(f"{path} has no model {unknown[0]!r}, only {', '.join(available)}")
    selected = list(models) or available
    if kind == "alpaca_eval" and len(selected) > 1:
        listed = ", ".join(selected)
        raise UserError(f"{path} has annotations of {len(selected)} models: choose one with --model: {listed}")
    return JudgmentFile(path, kind, [row for row in rows if (UNNAMED if row[key] is None else row[key]) in selected])


def load_questions(file: JudgmentFile, data: Path | None) -> list[dict[str, Any]]:
    """Return MT-Bench's questions, none without `data`. Raises UserError if the file is about none of them."""
    if data is None:
        return []
    questions = fastchat.load_questions(data)
    ids = {question["question_id"] for question in questions}
    if not any(row["question_id"] in ids for row in file.rows):
        first = file.rows[0]["question_id"]
        raise UserError(
            f"{file.path}: none of its questions ({first}, ...) is in {data / 'question.jsonl'}: give the data that "
            "the judgments are about"
        )
    return questions


def alpaca_eval_notes(rows: Sequence[Row]) -> list[str]:
    """Return the notes on annotations. AlpacaEval counts every row, so repeated ones count as often."""
    lines = []
    keys = [
        (row["instruction"], row["generator_1"], row["annotator"]) for row in rows if row["instruction"] is not None
    ]
    if num_repeated := len(keys) - len(set(keys)):
        lines.append(f"{num_repeated} annotations repeat an instruction, and each of them counts")
    for key, kind in (("generator_1", "baselines"), ("annotator", "annotators")):
        names = list(dict.fromkeys(UNNAMED if row[key] is None else row[key] for row in rows))
        if len(names) > 1:
            lines.append(f"the rates mix annotations of {len(names)} {kind}: {', '.join(names)}")
    lengths = sum(row["output_2"] is not None for row in rows)
    if 0 < lengths < len(rows):
        lines.append(f"avg_length is of {lengths} outputs: {len(rows) - lengths} annotations have no output_2")
    if num_unread := win_rate.preferences(rows).count(None):
        lines.append(f"{num_unread} annotations have no preference from 1 to 2 and are left out")
    return [escape_unprintable(line) for line in lines]


def mt_bench_notes(rows: Sequence[Row], questions: Sequence[Row]) -> list[str]:
    """Return the notes on ratings."""
    lines = []
    averages = fastchat.averages(rows)
    if num_outside := sum(values["outside_scale"] for values in averages.values()):
        lines.append(f"{num_outside} scores are outside 1 to 10 and count, as in FastChat")
    if num_repeated := sum(values["repeated"] for values in averages.values()):
        lines.append(f"{num_repeated} turns have more than one rating, and each rating counts")
    judges = sorted({judge for values in averages.values() for judge in values["judges"]})
    if len(judges) > 1:
        lines.append(f"the averages mix ratings of {len(judges)} judges: {', '.join(judges)}")
    ids = {question["question_id"] for question in questions}
    if questions and (num_foreign := sum(row["question_id"] not in ids for row in rows)):
        lines.append(f"{num_foreign} ratings are of questions that question.jsonl lacks: category {fastchat.OTHER}")
    return [escape_unprintable(line) for line in lines]


def length_control_file(data: Path | None) -> Path | None:
    """Return the reference file of the length-controlled win rate. Raises UserError if `data` do not contain it."""
    path = data / win_rate.GAMED if data and data.is_dir() else data
    if path and not path.is_file():
        raise UserError(f"{path} is not there; the length-controlled win rate needs AlpacaEval's {win_rate.GAMED}")
    return path


# --- tables


def alpaca_eval_table(rows: Sequence[dict[str, Any]], file: Path | None) -> Table:
    """Return AlpacaEval's scores with all digits."""
    table = _table("", "")
    for name, value in alpaca_eval.scores(rows, file).items():
        table.add_row(name, "-" if value is None else repr(value))
    return table


def leaderboard(rows: Sequence[Row]) -> Table:
    """Return FastChat's show_result for every model, the best first, and the numbers of ratings left out."""
    table = _table("model", *fastchat.TURN_NAMES, "average", "read", "unreadable", "failed")
    averages = fastchat.averages(rows)
    for model in sorted(averages, key=lambda name: -(averages[name]["average"] or 0)):
        values = averages[model]
        means = (values[name] for name in ("first_turn", "second_turn", "average"))
        counts = (str(values[name]) for name in ("ok", "unreadable", "error"))
        table.add_row(_name(model), *("-" if mean is None else format_fixed(mean, 6) for mean in means), *counts)
    return table


def table_12(rows: Sequence[Row], questions: Sequence[Row], model: str) -> Table:
    """Return Table 12 (Appendix D), transposed: a model's mean rating by category and turn, with 95% intervals."""
    rows = [row for row in rows if str(row["model"]) == model]
    by_turn, scores = fastchat.by_category(rows, questions), [fastchat.score_of(row) for row in rows]
    table = _table(_name(model), *fastchat.TURN_NAMES, "both turns", "unreadable")
    for category in dict.fromkeys(chain(*by_turn.values())):
        turns = [by_turn[turn].get(category, []) for turn in fastchat.TURN_NAMES]
        both_turns = _mean_of_both_turns(rows, questions, category)
        table.add_row(category, *map(format_mean, turns), both_turns, _num_unreadable([*chain(*turns)]))
    table.add_section()
    turns = [[*chain(*by_turn[turn].values())] for turn in fastchat.TURN_NAMES]
    both_turns = _mean_of_both_turns(rows, questions, None)
    table.add_row("all", *map(format_mean, turns), both_turns, _num_unreadable(scores))
    table.caption = "means with 95% t intervals; for both turns, the two of a dialogue are one cluster"
    return table


def _mean_of_both_turns(rows: Sequence[Row], questions: Sequence[Row], category: str | None) -> str:
    """Return the mean of both turns in a category, or for None in all categories."""
    categories = fastchat.categories_of(questions)
    if category is not None:
        rows = [row for row in rows if fastchat.category_of(row, categories) == category]
    return format_mean([fastchat.score_of(row) for row in rows], [row["question_id"] for row in rows])


def format_mean(values: Sequence[float | None], clusters: Sequence[Any] | None = None) -> str:
    """Return a mean and its interval, without the unreadable values."""
    result = estimate(values, clusters)
    if math.isnan(result.value):
        return "-"
    interval = "" if math.isnan(result.low) else f" [{format_fixed(result.low, 1)},{format_fixed(result.high, 1)}]"
    return f"{format_fixed(result.value, 2)}{interval}"


def _num_unreadable(values: Sequence[float | None]) -> str:
    return str(sum(value is None for value in values) or "")


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for index, column in enumerate(columns):
        # A long name is folded onto several lines: cut off, two names could look the same.
        table.add_column(column, no_wrap=index > 0, overflow="fold" if index == 0 else "ellipsis")
    return table


def _name(model: str) -> str:
    return escape(escape_unprintable(model))


# --- prompts


def judge_prompts(answers: Path, data: Path, judge: str, output: Path | None) -> str | None:
    """Return MT-Bench's judge prompts for a model_answer file as JSON lines, or write them to `output`."""
    requests = fastchat.judge_requests(fastchat.load_files(data, judge), fastchat.read_answers(answers))
    model = fastchat.read_model_name(answers)
    lines = "".join(json.dumps(_prompt_row(request, model, judge)) + "\n" for request in requests)
    if output is None:
        return lines.removesuffix("\n")
    if output.is_dir():
        raise UserError(f"{output} is a folder: give a file as {option('out')}")
    write_text(output, lines)
    return None


def _prompt_row(request: fastchat.JudgeRequest, model: str, judge: str) -> dict[str, Any]:
    """Return a prompt with the keys of a judgment, and the system prompt, which judgments leave out."""
    return {
        "question_id": request.question_id,
        "model": model,
        "judge": [judge, request.prompt],
        "turn": request.turn,
        "system_prompt": request.system,
        "user_prompt": request.user,
    }
