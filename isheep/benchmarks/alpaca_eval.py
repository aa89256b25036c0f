"""AlpacaEval 1 (Li et al. 2023): how often a judge prefers the model's answer to a reference's, on 805 instructions.

Instructions, reference outputs and judge prompts are the user's files. AlpacaEval 2 is alpaca_eval_2: another
reference, another judge, its preferences weighted by its probabilities.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from math import fsum
from pathlib import Path
from typing import Any, NamedTuple

from isheep.benchmarks.support import alpaca_evaluators, win_rate
from isheep.benchmarks.support.alpaca_evaluators import Evaluator, is_switched
from isheep.benchmarks.support.base import Benchmark, PlannedAnswers, Result, Score
from isheep.benchmarks.support.context import EvalContext, data_path
from isheep.benchmarks.support.data_files import read_rows
from isheep.benchmarks.support.foreign_rows import ModelOutput
from isheep.benchmarks.support.item_parts import select_items
from isheep.benchmarks.support.responses import ResponseContext, match_responses
from isheep.benchmarks.support.validation_parts import validation_half
from isheep.errors import UserError
from isheep.files import json_files
from isheep.files.reading import read_text
from isheep.judges.base import count_outcomes, judge_notes, merge_parameters
from isheep.openai_client import ServerReply
from isheep.recipe.evaluation import BenchmarkSettings, JudgeSettings
from isheep.records import Sampling
from isheep.rundir.folder import RunFolder

# Of an answer, as in most of AlpacaEval's model configurations.
MAX_TOKENS = 2048
PLANNED = PlannedAnswers(num_answers=805, max_tokens=MAX_TOKENS, batch_size=64)
TEMPERATURE = 0.7
# Keys of an instruction that go into every file.
COPIED_KEYS = ("dataset", "datasplit")
Rows = list[dict[str, Any]]


class Version(NamedTuple):
    """A version of AlpacaEval.

    `reference` is the file of instructions and reference outputs, by its name in AlpacaEval's dataset; `config` is the
    evaluator configuration.
    """

    reference: str
    config: str


ONE = Version("alpaca_eval.json", "alpaca_eval_gpt4")
TWO = Version("alpaca_eval_gpt4_baseline.json", "weighted_alpaca_eval_gpt4_turbo")


def make_benchmark(name: str, version: Version) -> Benchmark:
    """Return the benchmark of one version of AlpacaEval."""
    run_version = partial(run, version=version)

    def prompts(settings: BenchmarkSettings) -> list[str]:
        return [row["instruction"] for row in load_items(settings, version)]

    return Benchmark(
        name=name,
        run=run_version,
        prompts=prompts,
        score_inputs=partial(score_inputs, version=version),
        needs_judge=True,
        score_responses=partial(score_responses, version=version),
        reads_judge_config=True,
        validation=validation_half("alpaca_eval", run_version, prompts, largest=100.0, planned=PLANNED),
        planned=PLANNED,
    )


def score_inputs(settings: BenchmarkSettings, version: Version) -> object:
    """Return instructions, reference outputs, the judge's configuration and prompt, how it is asked, df_gamed.csv."""
    data, judge = data_path(settings), settings.judge or JudgeSettings()
    references, folder = load_items(settings, version), folder_of(data)
    evaluator = alpaca_evaluators.load_evaluator(folder, judge.config or version.config)
    gamed = folder / win_rate.GAMED
    request = [judge.model or evaluator.model, judge.local, merge_parameters(evaluator.parameters, judge.parameters)]
    return [references, evaluator, request, read_text(gamed) if gamed.is_file() else None]


def run(context: EvalContext, version: Version) -> Result:
    """Generate outputs, ask the judge to compare them with the reference's, and compute the win rate.

    The score has the preferences in percent, None if there is no verdict. Details: "leaderboard" has AlpacaEval's
    figures in percent, the length-controlled win rate among them if `data` has df_gamed.csv; on a half or a sample of
    the instructions it is that of these. The benchmark's folder gets model_outputs.json and annotations.json.
    """
    items, evaluator = _indexed_items(context.settings, version), _load_evaluator(context, version)
    references = [row for _, row in items]
    outputs = generate_outputs(context, references)
    return rate_outputs(context, evaluator, references, outputs, [index for index, _ in items])


def score_responses(context: ResponseContext, version: Version) -> Result:
    """Compare the outputs in a file, in the form of model_outputs.json, with the reference's, as `run` does."""
    references, evaluator = reference(context.data, version), _load_evaluator(context, version)
    rows = [row for _, row in json_files.read_rows(context.file, ModelOutput)]
    responses = [(row.instruction, row.output) for row in rows]
    matched = match_responses(context.file, [row["instruction"] for row in references], responses, "instruction")
    names = sorted({row.generator for row in rows if row.generator})
    if len(names) > 1:
        raise UserError(f"{context.file} has outputs of {len(names)} models ({', '.join(names)}): give a file for each")
    model = names[0] if names else context.file.name.partition(".json")[0]
    answered = [references[index] for index in matched.indices]
    outputs = [_output_row(row, text, model) for row, text in zip(answered, matched.texts, strict=True)]
    context.folder.path.mkdir(parents=True, exist_ok=True)
    result = rate_outputs(context, evaluator, answered, outputs, matched.indices)
    return result.model_copy(update={"notes": (*result.notes, *matched.notes)})


def rate_outputs(
    context: EvalContext | ResponseContext,
    evaluator: Evaluator,
    references: Rows,
    outputs: Rows,
    indices: Sequence[int],
) -> Result:
    """Ask the judge to compare outputs with the reference's, and write outputs and annotations as AlpacaEval does.

    `indices` are those of the instructions among all of AlpacaEval's.
    """
    judge, model = context.required_judge, str(outputs[0]["generator"])
    _write(context.folder, "model_outputs.json", outputs)
    rows, replies = annotate(context, evaluator, references, outputs)
    _write(context.folder, "annotations.json", rows)
    verdicts = win_rate.preferences(rows)
    judged = [verdict for verdict, row in zip(verdicts, rows, strict=True) if row["output_1"] != row["output_2"]]
    leaderboard = scores(rows, folder_of(context.data) / win_rate.GAMED, indices)
    name = judge.name_or(evaluator.model)
    label = name if name == evaluator.model else f"{name} (published figures: by {evaluator.model})"
    outcomes = count_outcomes(replies, judged)
    return Result(
        template=context.template,
        scores={"win rate, %": Score(items=[None if verdict is None else 100 * (verdict - 1) for verdict in verdicts])},
        notes=(*judge_notes(model, label, judge.kind, replies, judged), *length_controlled_notes(model, leaderboard)),
        details={
            "judge": {"model": name, "kind": judge.kind, "config": evaluator.name, **outcomes},
            "leaderboard": leaderboard,
        },
    )


def _load_evaluator(context: EvalContext | ResponseContext, version: Version) -> Evaluator:
    """Return the judge's configuration. Raises UserError if the configuration or the judge is missing."""
    own = context.settings.judge.config if context.required_judge and context.settings.judge else None
    return alpaca_evaluators.load_evaluator(folder_of(context.data), own or version.config)


def scores(rows: Sequence[dict[str, Any]], gamed: Path | None, indices: Sequence[int] | None = None) -> dict[str, Any]:
    """Return AlpacaEval's figures of annotations: the raw win rate, and the length-controlled one if `gamed` is a file.

    `indices` are those of win_rate.length_controlled; None: looked up in a file of reference outputs beside `gamed`.
    "avg_length" is the model's, in characters, rounded down to a whole number as there.
    """
    figures: dict[str, Any] = win_rate.win_rate(win_rate.preferences(rows))._asdict()
    lengths = [len(row["output_2"]) for row in rows if isinstance(row.get("output_2"), str)]
    if lengths:
        figures["avg_length"] = int(fsum(lengths) / len(lengths))
    if gamed and gamed.is_file() and figures["n_total"] > 1:
        indices = _find_indices(rows, gamed.parent) if indices is None else indices
        figures |= win_rate.length_controlled(rows, gamed, indices)._asdict()
    return figures


def _find_indices(rows: Sequence[Mapping[str, Any]], folder: Path) -> list[int] | None:
    """Return the index of each annotation's instruction among AlpacaEval's; None without a file that has them all."""
    for version in (ONE, TWO):
        path = json_files.existing_file(folder, version.reference)
        if path.is_file():
            # Of equal instructions, the first annotation is about the first one.
            indices = defaultdict[str, list[int]](list)
            for index, row in enumerate(reference(path, version)):
                indices[row["instruction"]].append(index)
            counts = Counter(str(row.get("instruction")) for row in rows)
            if all(len(indices[text]) >= count for text, count in counts.items()):
                return [indices[str(row["instruction"])].pop(0) for row in rows]
    return None


def length_controlled_notes(model: str, figures: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a note about the length-controlled win rate, which has no value for each item."""
    rate = figures.get("length_controlled_winrate")
    if rate is None:
        return ()
    return (f"{model}: length-controlled win rate {rate:.1f}% (raw {figures['win_rate']:.1f}%)",)


# --- the user's files


def load_items(settings: BenchmarkSettings, version: Version) -> Rows:
    """Return the instructions that the settings are about, with their reference outputs."""
    return [row for _, row in _indexed_items(settings, version)]


def _indexed_items(settings: BenchmarkSettings, version: Version) -> list[tuple[int, dict[str, Any]]]:
    """Return the same rows, each with its index among all of them."""
    rows = list(enumerate(reference(data_path(settings), version)))
    return select_items(rows, lambda entry: entry[1]["instruction"], settings)


def folder_of(data: Path | None) -> Path:
    """Return `data`, or its folder if it is the file of reference outputs. Raises UserError if it does not exist."""
    if data is None or not data.exists():
        problem = f"{data} is not there" if data else "its files are needed"
        raise UserError(f"alpaca_eval: {problem}; give a folder with AlpacaEval's files as data")
    return data.parent if data.is_file() else data


def reference(data: Path | None, version: Version) -> Rows:
    """Read instructions and reference outputs: {"instruction", "output", "generator", "dataset"}."""
    folder = folder_of(data)
    path = data if data and data.is_file() else json_files.existing_file(folder, version.reference)
    rows = read_rows(path, ("instruction", "output"))
    for row in rows:
        if not isinstance(row["instruction"], str) or not isinstance(row["output"], str):
            raise UserError(f"{path}: instruction and output must be texts, found {row['instruction']!r:.60}")
    return rows


def _write(folder: RunFolder, name: str, rows: Sequence[dict[str, Any]]) -> None:
    folder.write_text(name, json.dumps(rows, indent=2, ensure_ascii=False) + "\n")


# --- asking and judging


def generate_outputs(context: EvalContext, references: Rows) -> Rows:
    """Generate the model's answers, as the rows of a model_outputs.json."""
    sampling = Sampling(temperature=TEMPERATURE, top_p=1.0, max_tokens=MAX_TOKENS, stop=(context.chat.end,))
    answers = context.answers([context.prompt(row["instruction"]) for row in references], sampling)
    return [
        _output_row(row, answer.output.strip(), context.model_name)
        for row, answer in zip(references, answers, strict=True)
    ]


def _output_row(row: Mapping[str, Any], output: str, model: str) -> dict[str, Any]:
    """Return a row of a model_outputs.json."""
    copied = {key: row[key] for key in COPIED_KEYS if key in row}
    return {"instruction": row["instruction"], "output": output, "generator": model, **copied}


def annotate(
    context: EvalContext | ResponseContext, evaluator: Evaluator, references: Rows, outputs: Rows
) -> tuple[Rows, list[ServerReply]]:
    """Return the rows of an annotations.json, and the judge's replies. Equal outputs are a tie and are not judged."""
    requests = [
        evaluator.ask(row["instruction"], *shown_order(row["instruction"], row["output"], output["output"]))
        for row, output in zip(references, outputs, strict=True)
        if row["output"] != output["output"]
    ]
    replies: list[ServerReply] = []
    if requests:
        replies = context.ask_judge(requests, evaluator.parameters, evaluator.model, evaluator.options)
    remaining = iter(replies)
    rows: Rows = []
    for row, output in zip(references, outputs, strict=True):
        reply = None if row["output"] == output["output"] else next(remaining)
        rows.append(
            {
                "instruction": row["instruction"],
                "output_1": row["output"],
                "generator_1": row.get("generator", "reference"),
                **{key: output[key] for key in COPIED_KEYS if key in output},
                "output_2": output["output"],
                "generator_2": output["generator"],
                "annotator": evaluator.name,
                "preference": win_rate.TIE if reply is None else verdict(evaluator, row["instruction"], reply),
                "raw_completion": None if reply is None else evaluator.raw(reply),
            }
        )
    return rows, replies


def shown_order(instruction: str, first: str, second: str) -> tuple[str, str]:
    """Return two outputs in the order in which the judge reads them."""
    return (second, first) if is_switched(instruction) else (first, second)


def verdict(evaluator: Evaluator, instruction: str, reply: ServerReply) -> float | None:
    """Return the preference for (output_1, output_2), whichever was shown first."""
    preference = evaluator.preference(reply)
    if preference is None:
        return None
    return 3 - preference if is_switched(instruction) else preference


BENCHMARK = make_benchmark("alpaca_eval", ONE)
