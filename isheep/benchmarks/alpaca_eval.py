"""AlpacaEval 1 (Li et al. 2023): how often a judge prefers the model's answer to a reference's, on 805 instructions.

Instructions, reference outputs and judge prompts are the user's files. AlpacaEval 2 is alpaca_eval_2: another
reference, another judge, its preferences weighted by its probabilities.
"""

import json
from collections.abc import Mapping, Sequence
from math import fsum
from pathlib import Path
from typing import Any, NamedTuple

from isheep.benchmarks import EvalContext, alpaca_judge, data_path, winrate
from isheep.benchmarks.alpaca_judge import Evaluator, switched
from isheep.benchmarks.originals import rows as read_rows
from isheep.benchmarks.originals import text_of
from isheep.errors import UserError
from isheep.judges.base import count_outcomes, judge_note, merge_parameters
from isheep.openai_client import ServerReply
from isheep.recipe.schema import BenchmarkSettings, JudgeSettings
from isheep.records import Sampling
from isheep.rundir.atomic import write_text

MAX_TOKENS = 2048  # of an answer, in most of AlpacaEval's model configurations
TEMPERATURE = 0.7  # the same
KEPT = ("dataset", "datasplit")  # keys of an instruction that go into every file
Rows = list[dict[str, Any]]


class Version(NamedTuple):
    reference: str  # the file of instructions and reference outputs, as AlpacaEval's dataset names it
    config: str  # the evaluator configuration


ONE = Version("alpaca_eval.json", "alpaca_eval_gpt4")
TWO = Version("alpaca_eval_gpt4_baseline.json", "weighted_alpaca_eval_gpt4_turbo")


def run(exam: EvalContext) -> dict[str, Any]:
    return examine(exam, ONE)


def prompts(data: Path | None) -> list[str]:
    return [row["instruction"] for row in reference(data, ONE)]


def basis(one: BenchmarkSettings, version: Version = ONE) -> Any:
    """Instructions, reference outputs, the judge's configuration and prompt, how it is asked, and df_gamed.csv."""
    data, judge = data_path(one), one.judge or JudgeSettings()
    given, home = reference(data, version), folder_of(data)
    evaluator = alpaca_judge.load(home, judge.config or version.config)
    gamed = home / winrate.GAMED
    how = [judge.model or evaluator.model, judge.local, merge_parameters(evaluator.parameters, judge.parameters)]
    return [given, evaluator, how, text_of(gamed) if gamed.is_file() else None]


def examine(exam: EvalContext, version: Version) -> dict[str, Any]:
    """The model's outputs, a judge's annotations of them beside the reference's, and the win rate.

    "scores" are AlpacaEval's, in percent; the length-controlled one is there where `data` has df_gamed.csv. "items" are
    preferences in percent, null where there is no verdict. The folder gets model_outputs.json and annotations.json.
    """
    given = reference(exam.data, version)
    home = folder_of(exam.data)
    own = exam.settings.judge if exam.settings else None
    evaluator = alpaca_judge.load(home, own.config if own and own.config else version.config)
    judge = exam.rater.named(evaluator.model)
    outputs = answer(exam, given)
    _write(exam.folder.path / "model_outputs.json", outputs)
    rows, replies = annotate(exam, evaluator, given, outputs)
    _write(exam.folder.path / "annotations.json", rows)
    verdicts = winrate.preferences(rows)
    asked = [verdict for verdict, row in zip(verdicts, rows, strict=True) if row["output_1"] != row["output_2"]]
    found = scores(rows, home / winrate.GAMED)
    who = judge if judge == evaluator.model else f"{judge} (published figures: by {evaluator.model})"
    return {
        "template": exam.template,
        "judge": {"model": judge, "kind": exam.rater.kind, "config": evaluator.name, **count_outcomes(replies, asked)},
        "scores": found,
        "items": {"win rate, %": [None if verdict is None else 100 * (verdict - 1) for verdict in verdicts]},
        "note": judge_note(exam.model, who, exam.rater.kind, replies, asked) + controlled(exam.model, found),
    }


def scores(rows: Sequence[dict[str, Any]], gamed: Path | None) -> dict[str, Any]:
    """AlpacaEval's figures of annotations: the raw win rate, and the length-controlled one where its file is there.

    "avg_length" is the model's, in characters, cut to a whole number as there.
    """
    found: dict[str, Any] = winrate.win_rate(winrate.preferences(rows))._asdict()
    lengths = [len(row["output_2"]) for row in rows if isinstance(row.get("output_2"), str)]
    if lengths:
        found["avg_length"] = int(fsum(lengths) / len(lengths))
    if gamed and gamed.is_file() and found["n_total"] > 1:
        found |= winrate.length_controlled(rows, gamed)._asdict()
    return found


def controlled(model: str, found: Mapping[str, Any]) -> str:
    """What a note says of the length-controlled win rate, which has no values of items."""
    rate = found.get("length_controlled_winrate")
    return "" if rate is None else f"; {model}: length-controlled win rate {rate:.1f}% (raw {found['win_rate']:.1f}%)"


# --- the user's files


def folder_of(data: Path | None) -> Path:
    """`data`, or the folder that it is in where it is the reference outputs' file itself."""
    if data is None or not data.exists():
        wrong = f"{data} is not there" if data else "its files are needed"
        raise UserError(f"alpaca_eval: {wrong}; give a folder with AlpacaEval's files as data")
    return data.parent if data.is_file() else data


def reference(data: Path | None, version: Version) -> Rows:
    """Instructions and reference outputs: {"instruction", "output", "generator", "dataset"}."""
    home = folder_of(data)
    path = data if data and data.is_file() else home / version.reference
    rows = read_rows(path, ("instruction", "output"))
    for row in rows:
        if not isinstance(row["instruction"], str) or not isinstance(row["output"], str):
            raise UserError(f"{path}: instruction and output must be texts, found {row['instruction']!r:.60}")
    return rows


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    write_text(path, json.dumps(rows, indent=2, ensure_ascii=False) + "\n")


# --- asking and judging


def answer(exam: EvalContext, given: Rows) -> Rows:
    """The model's answers as the rows of a model_outputs.json."""
    how = Sampling(temperature=TEMPERATURE, top_p=1.0, max_tokens=exam.limit(MAX_TOKENS), stop=(exam.chat.end,))
    said = exam.answers([exam.asked(row["instruction"]) for row in given], how)
    kept: Rows = [{key: row[key] for key in KEPT if key in row} for row in given]
    return [
        {"instruction": row["instruction"], "output": one.output.strip(), "generator": exam.model, **more}
        for row, one, more in zip(given, said, kept, strict=True)
    ]


def annotate(exam: EvalContext, evaluator: Evaluator, given: Rows, outputs: Rows) -> tuple[Rows, list[ServerReply]]:
    """The rows of an annotations.json, and the replies. Equal outputs are a tie: no judge is asked."""
    pairs = [(row["instruction"], row["output"], own["output"]) for row, own in zip(given, outputs, strict=True)]
    differ = [pair for pair in pairs if pair[1] != pair[2]]
    asked = [evaluator.ask(*((one, b, a) if switched(one) else (one, a, b))) for one, a, b in differ]
    replies = exam.verdicts(asked, evaluator.parameters, evaluator.model, evaluator.options) if asked else []
    waiting = iter(replies)
    rows: Rows = []
    for (instruction, base, mine), row, own in zip(pairs, given, outputs, strict=True):
        reply = None if base == mine else next(waiting)
        rows.append(
            {
                "instruction": instruction,
                "output_1": base,
                "generator_1": row.get("generator", "reference"),
                **{key: own[key] for key in KEPT if key in own},
                "output_2": mine,
                "generator_2": own["generator"],
                "annotator": evaluator.name,
                "preference": winrate.TIE if reply is None else verdict(evaluator, instruction, reply),
                "raw_completion": None if reply is None else evaluator.raw(reply),
            }
        )
    return rows, replies


def verdict(evaluator: Evaluator, instruction: str, reply: ServerReply) -> float | None:
    """The preference, in the order of the outputs and not in that in which they were shown."""
    found = evaluator.preference(reply)
    return None if found is None else 3 - found if switched(instruction) else found
