"""What files of judgments say: MT-Bench's model_judgment files, AlpacaEval's annotations; ours or anybody's."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from isheep.benchmarks import alpaca_eval
from isheep.benchmarks.support import fastchat, win_rate
from isheep.benchmarks.support.data_files import read_rows
from isheep.errors import UserError
from isheep.evaluation.formatting import escape_unprintable
from isheep.evaluation.statistics import estimate
from isheep.rundir.atomic import write_text

Scores = Sequence[float | None]


def scores(path: Path, data: Path | None = None, models: Sequence[str] = ()) -> Iterator[RenderableType]:
    """What `isheep scores` prints of a file: FastChat's averages, or AlpacaEval's win rate and standard error.

    With `data` also Table 12 of MT-Bench (its question.jsonl has the categories), or the length-controlled win rate
    (df_gamed.csv). `models` chooses some of a file with several. Raises UserError where the file is neither.
    """
    kind, rows = judgments(path, models)
    if kind == "alpaca_eval":
        yield Text("AlpacaEval: rates in percent, raw unless the name says otherwise")
        yield annotations(rows, gamed(data))
        return
    yield Text("MT-Bench, single-answer grading, without unreadable ratings and failed calls")
    yield leaderboard(rows)
    if data:
        questions = fastchat.load_questions(data)
        yield from (table_12(rows, questions, model) for model in fastchat.averages(rows))


def figures(path: Path, data: Path | None = None, models: Sequence[str] = ()) -> dict[str, Any]:
    """What `isheep scores --json` prints: FastChat's averages by model, or AlpacaEval's figures."""
    kind, rows = judgments(path, models)
    if kind == "alpaca_eval":
        return alpaca_eval.scores(rows, gamed(data))
    return fastchat.averages(rows)


def judgments(path: Path, models: Sequence[str]) -> tuple[str, list[dict[str, Any]]]:
    """The benchmark that a file is of, and its rows, those of `models` where some are named.

    Raises UserError where there is none of that name, and where annotations of several models would be one win rate.
    """
    rows = read_rows(path)
    kind, key = "alpaca_eval", "generator_2"
    if not any("preference" in row for row in rows):
        kind, key, rows = "mt_bench", "model", fastchat.read_judgments(path)
    there = list(dict.fromkeys(str(row.get(key)) for row in rows))
    if foreign := [name for name in models if name not in there]:
        raise UserError(f"{path} has no model {foreign[0]!r}, only {', '.join(there)}")
    chosen = list(models) or there
    if kind == "alpaca_eval" and len(chosen) > 1:
        raise UserError(f"{path} has annotations of {len(chosen)} models: choose one with --model: {', '.join(chosen)}")
    return kind, [row for row in rows if str(row.get(key)) in chosen]


def gamed(data: Path | None) -> Path | None:
    """The reference file of the length-controlled win rate. Raises UserError where `data` are given without it."""
    path = data / win_rate.GAMED if data and data.is_dir() else data
    if path and not path.is_file():
        raise UserError(f"{path} is not there; the length-controlled win rate needs {win_rate.GAMED} of AlpacaEval's")
    return path


def annotations(rows: Sequence[dict[str, Any]], file: Path | None) -> Table:
    """AlpacaEval's figures, to all digits."""
    shown = _table("", "")
    for name, value in alpaca_eval.scores(rows, file).items():
        shown.add_row(name, "-" if value is None else repr(value))
    return shown


def leaderboard(rows: Sequence[Mapping[str, Any]]) -> Table:
    """FastChat's show_result for every model, the best first, and what it leaves out."""
    shown = _table("model", *fastchat.TURN_NAMES, "average", "read", "unreadable", "failed")
    found = fastchat.averages(rows)
    for model in sorted(found, key=lambda model: -(found[model]["average"] or 0)):
        one = found[model]
        means = ["-" if one[name] is None else f"{one[name]:.6f}" for name in ("first_turn", "second_turn", "average")]
        shown.add_row(_name(model), *means, *(str(one[name]) for name in ("ok", "unreadable", "error")))
    if repeated := sum(one["repeated"] for one in found.values()):
        shown.caption = f"{repeated} turns are rated more than once, and count so"
    return shown


def table_12(rows: Sequence[Mapping[str, Any]], questions: Sequence[Mapping[str, Any]], model: str) -> Table:
    """Table 12 (Appendix D) on its side: a model's mean rating by category and turn, with 95% intervals."""
    own = [row for row in rows if str(row["model"]) == model]
    by, both = fastchat.by_category(own, questions), [fastchat.score_of(row) for row in own]
    shown = _table(_name(model), *fastchat.TURN_NAMES, "both turns", "unread")
    for category in dict.fromkeys(chain(*by.values())):
        turns = [by[turn].get(category, []) for turn in fastchat.TURN_NAMES]
        shown.add_row(category, *map(interval, turns), _both(own, questions, category), _unread([*chain(*turns)]))
    shown.add_section()
    all_turns = [[*chain(*by[turn].values())] for turn in fastchat.TURN_NAMES]
    shown.add_row("all", *map(interval, all_turns), _both(own, questions, None), _unread(both))
    shown.caption = "means with 95% t intervals; for both turns, the two of a dialogue are one cluster"
    return shown


def _both(rows: Sequence[Mapping[str, Any]], questions: Sequence[Mapping[str, Any]], category: str | None) -> str:
    """The mean of both turns in a category (None: in all)."""
    known = {question["question_id"]: question["category"] for question in questions}
    some = [row for row in rows if category is None or known.get(row["question_id"], "other") == category]
    return interval([fastchat.score_of(row) for row in some], [row["question_id"] for row in some])


def interval(values: Scores, clusters: Sequence[Any] | None = None) -> str:
    """A mean and its interval, those that could not be read left out."""
    one = estimate(values, clusters)
    if math.isnan(one.value):
        return "-"
    return f"{one.value:.2f}" + ("" if math.isnan(one.low) else f" [{one.low:.1f},{one.high:.1f}]")


def _unread(values: Scores) -> str:
    return str(sum(value is None for value in values) or "")


def _table(*columns: str) -> Table:
    shown = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for place, column in enumerate(columns):
        shown.add_column(column, no_wrap=bool(place))
    return shown


def _name(model: str) -> str:
    return escape(escape_unprintable(model))


def judge_prompts(answers: Path, data: Path, judge: str, out: Path | None) -> str | None:
    """MT-Bench's judge prompts for a model_answer file: JSON lines, to print, or written to `out`."""
    said = fastchat.read_answers(answers)
    asked = fastchat.judge_requests(fastchat.load_files(data, judge), said)
    lines = "".join(json.dumps(_line(one, answers.stem, judge)) + "\n" for one in asked)
    if out is None:
        return lines.removesuffix("\n")
    if out.is_dir():
        raise UserError(f"{out} is a folder: give a file as --out")
    write_text(out, lines)
    return None


def _line(one: fastchat.JudgeRequest, model: str, judge: str) -> dict[str, Any]:
    """Keys as in a judgment, and the system prompt, which judgments leave out."""
    return {
        "question_id": one.question_id,
        "model": model,
        "judge": [judge, one.prompt],
        "turn": one.turn,
        "system_prompt": one.system,
        "user_prompt": one.user,
    }
