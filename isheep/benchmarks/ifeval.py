"""IFEval (Zhou et al. 2023): prompts with instructions that a program can check, by lm-eval's checkers.

Two checks are random in lm-eval and deterministic here. The guess of a text's language is seeded. A "letter" that is
none ("#" and "!", prompts 1122 and 1129) is counted as it is, as the original does since 2025; lm-eval replaces it by a
random letter.
"""

import io
import json
import logging
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from isheep.benchmarks.support.base import Benchmark, PlannedAnswers, Result, Score
from isheep.benchmarks.support.context import EvalContext, data_path
from isheep.benchmarks.support.ifeval_checks import linear_check
from isheep.benchmarks.support.item_parts import select_items
from isheep.benchmarks.support.responses import ResponseContext, match_responses, read_sample
from isheep.benchmarks.support.validation_parts import validation_half
from isheep.errors import UserError, one_line, option
from isheep.files.json_files import ForeignRow, Text, existing_file, parse_row, read_values
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.records import Answer, Sampling
from isheep.rundir.folder import RunFolder

HUB, FILE = "google/IFEval", "input_data.jsonl"
# The verdicts of a reading, in the original's format.
VERDICTS_FILE = "eval_results_{}.jsonl"
# Of an answer, as in lm-eval's task.
MAX_TOKENS = 1280
PLANNED = PlannedAnswers(num_answers=541, max_tokens=MAX_TOKENS, batch_size=64)

Check = Callable[[str], bool]
"""Returns whether a text follows one instruction."""

Registry = dict[str, Any]
"""lm-eval's checkers by kind of instruction."""


class Item(BaseModel):
    """A line of input_data.jsonl: a prompt, the kinds of its instructions, and the settings of each."""

    key: int
    prompt: str
    instruction_id_list: list[str]
    kwargs: list[dict[str, Any]]


class Verdicts(NamedTuple):
    """Whether each instruction of a prompt is followed."""

    strict: list[bool]
    loose: list[bool]


def run(context: EvalContext) -> Result:
    """Answer the prompts greedily and check the answers (`score_answers`); "cut_off" counts answers without an end."""
    items = load_items(context.settings)
    sampling = Sampling(temperature=0, top_p=1, max_tokens=MAX_TOKENS, stop=(context.chat.end,))
    answers = context.answers([context.prompt(item.prompt) for item in items], sampling)
    result = score_answers(items, [answer.output for answer in answers], context.folder)
    details = {**result.details, "cut_off": sum(answer.finish != "stop" for answer in answers)}
    return result.model_copy(update={"template": context.template, "details": details})


def prompts(settings: BenchmarkSettings) -> list[str]:
    return [item.prompt for item in load_items(settings)]


def score_inputs(settings: BenchmarkSettings) -> object:
    return [item.model_dump() for item in load_items(settings)]


def score_responses(context: ResponseContext) -> Result:
    """Score a file of {"prompt", "response"} rows, the original's format, or of samples that lm-eval logged.

    Prompts without a response are left out, and the last of several responses to one prompt counts; a note says how
    many. Raises UserError if a row has neither format, or if no prompt has a response.
    """
    items = load(context.data)
    responses = [read_response(location, row) for location, row in read_values(context.file)]
    matched = match_responses(context.file, [item.prompt for item in items], responses, "prompt")
    result = score_answers([items[index] for index in matched.indices], matched.texts, context.folder)
    return result.model_copy(update={"template": context.template, "notes": matched.notes})


class PromptResponse(ForeignRow):
    """A row of a file of responses."""

    form = '{"prompt": "...", "response": "..."}, or samples that lm-eval logged,'
    prompt: Text
    response: Text


def read_response(location: str, row: Any) -> tuple[str, str]:
    """Return the prompt and the response in a row of a file of responses. Raises UserError if it has neither form."""
    if (sample := read_sample(location, row)) is not None:
        row = {"prompt": sample.doc.get("prompt"), "response": sample.response}
    response = parse_row(location, row, PromptResponse)
    return response.prompt, response.response


def score_answers(items: Sequence[Item], answers: Sequence[str], folder: RunFolder) -> Result:
    """Compute the four accuracies, and how often each kind of instruction and each group of kinds is followed.

    Writes the verdicts into `folder` as the original does: eval_results_strict.jsonl and eval_results_loose.jsonl.
    """
    registry = checkers()
    verdicts = [check_answer(item, answer, registry) for item, answer in zip(items, answers, strict=True)]
    by_instruction = [item.key for item in items for _ in item.instruction_id_list]
    scores: dict[str, Score] = {}
    breakdowns = {}
    for reading in Verdicts._fields:
        followed: list[list[bool]] = [getattr(verdict, reading) for verdict in verdicts]
        scores[f"prompt {reading}"] = Score(items=[all(row) for row in followed])
        flat = [value for row in followed for value in row]
        scores[f"instruction {reading}"] = Score(items=flat, clusters=by_instruction)
        breakdowns[f"instruction {reading}"] = count_kinds(items, followed)
        folder.write_text(VERDICTS_FILE.format(reading), "".join(lines(items, answers, followed)))
    accuracies = {name: score.mean for name, score in scores.items()}
    return Result(scores=scores, breakdowns=breakdowns, details={"accuracies": accuracies})


def why_wrong(folder: RunFolder, answers: Sequence[Answer]) -> list[str]:
    """Return for each answer the instructions that it does not follow by the strict reading."""
    rows = [row for _, row in read_values(folder.path / VERDICTS_FILE.format("strict"))]
    return [describe_mistakes(answer, row) for answer, row in zip(answers, rows, strict=True)]


def describe_mistakes(answer: Answer, verdict: Any) -> str:
    match verdict:
        case {"response": answer.output, "instruction_id_list": [*kinds], "follow_instruction_list": [*verdicts]}:
            kinds = [str(kind) for kind, is_followed in zip(kinds, verdicts, strict=True) if not is_followed]
        case _:
            raise ValueError("the verdict is about another answer")
    return f"not followed: {', '.join(kinds)}" if kinds else ""


def lines(items: Sequence[Item], answers: Sequence[str], followed: Sequence[list[bool]]) -> Iterator[str]:
    """Yield verdicts in the original's output format."""
    for item, answer, row in zip(items, answers, followed, strict=True):
        verdict = {
            "follow_all_instructions": all(row),
            "follow_instruction_list": row,
            "instruction_id_list": item.instruction_id_list,
            "prompt": item.prompt,
            "response": answer,
        }
        yield json.dumps(verdict) + "\n"


def count_kinds(items: Sequence[Item], followed: Sequence[list[bool]]) -> dict[str, tuple[int, int]]:
    """Return (followed, all) by kind of instruction ("keywords:existence") and by group of kinds ("keywords")."""
    values: dict[str, list[bool]] = defaultdict(list)
    for item, row in zip(items, followed, strict=True):
        for kind, right in zip(item.instruction_id_list, row, strict=True):
            values[kind.partition(":")[0]].append(right)
            values[kind].append(right)
    return {kind: (sum(values[kind]), len(values[kind])) for kind in sorted(values)}


# --- verdicts


def check_answer(item: Item, answer: str, registry: Registry) -> Verdicts:
    """Check an answer by the strict reading, and by the loose one: whether any variant follows the instruction."""
    checks = list(make_checks(item, registry))
    strict = [follows(check, answer) for check in checks]
    loose = [any(follows(check, text) for text in variants(answer)) for check in checks]
    return Verdicts(strict, loose)


def follows(check: Check, text: str) -> bool:
    """Return whether a text follows an instruction; an empty text follows none."""
    try:
        return bool(text.strip()) and bool(check(text))
    except RecursionError:
        # lm-eval's JSON check fails so on a text of a thousand brackets, which is no JSON.
        return False


def variants(answer: str) -> list[str]:
    """Return the answer without its first line, its last, both or none, and each of these without asterisks."""
    rows = answer.split("\n")
    texts = [answer, *("\n".join(part).strip() for part in (rows[1:], rows[:-1], rows[1:-1]))]
    return [variant for text in texts for variant in (text, text.replace("*", ""))]


def make_checks(item: Item, registry: Registry) -> Iterator[Check]:
    """Yield a check for each instruction.

    Raises ValueError if the settings leave something to chance, and whatever lm-eval raises for wrong settings.
    """
    for kind, row in zip(item.instruction_id_list, item.kwargs, strict=True):
        if kind not in registry:
            raise ValueError(f"{kind!r} is no instruction of IFEval")
        # The Hub's rows have the names of all settings.
        settings = {name: value for name, value in row.items() if value is not None}
        letter = settings.get("letter", "")
        if len(letter) == 1 and not "a" <= letter.lower() <= "z":
            yield count_character(**settings)
            continue
        checker, state = registry[kind](kind), random.getstate()
        checker.build_description(**settings)
        if random.getstate() != state:
            raise ValueError(f"{kind} with {settings} leaves something out, and the checker would draw it")
        yield linear_check(kind, settings) or checker.check_following


def count_character(letter: str, let_frequency: int, let_relation: str) -> Check:
    """Return lm-eval's letter_frequency for a character that is no letter."""
    fewer = {"less than": True, "at least": False}[let_relation]
    return lambda text: (text.lower().count(letter.lower()) < let_frequency) == fewer


def checkers() -> Registry:
    """Return lm-eval's checkers by kind, made deterministic. Raises UserError if they or their data are missing.

    Looks for punkt_tab itself, because lm-eval claims to have downloaded it even if the download failed.
    """
    try:
        import nltk
        from langdetect import DetectorFactory
    except ImportError as error:
        raise UserError(f"IFEval needs {error.name}: pip install 'isheep[eval]'") from None
    try:
        nltk.data.find("tokenizers/punkt_tab/english")
    except LookupError:
        if not nltk.download("punkt_tab", quiet=True, print_error_to=io.StringIO()):
            raise UserError(
                "IFEval's sentence checks need NLTK's punkt_tab, which is not here and could not be downloaded: on a "
                "machine with a network give python -m nltk.downloader -d FOLDER punkt_tab, and set NLTK_DATA to FOLDER"
            ) from None
    try:
        from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT
    except ImportError as error:
        raise UserError(f"IFEval needs {error.name}: pip install 'isheep[eval]'") from None
    # It logs whole answers.
    logging.getLogger("lm_eval.tasks.ifeval.instructions").setLevel(logging.CRITICAL)
    DetectorFactory.seed = 0
    registry: Registry = INSTRUCTION_DICT
    return registry


# --- data


def load_items(settings: BenchmarkSettings) -> list[Item]:
    """Return the prompts that the settings are about."""
    return select_items(load(data_path(settings)), lambda item: item.key, settings)


def load(data: Path | None) -> list[Item]:
    """Return the prompts of a file (or of input_data.jsonl in a folder), of the Hub's data set for None.

    Raises UserError, naming the line, if one is malformed or names an instruction that can't be checked.
    """
    registry = checkers()
    rows = download() if data is None else read_values(existing_file(data, FILE) if data.is_dir() else data)
    items = [read_item(location, row, registry) for location, row in rows]
    if not items:
        raise UserError(f"{data or HUB}: it holds no prompts")
    return items


def read_item(location: str, row: Any, registry: Registry) -> Item:
    """Return a row as an Item. Raises UserError if one of its instructions can't be checked."""
    try:
        item = Item.model_validate(row)
        for check in make_checks(item, registry):
            check("word")
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the line"
        raise UserError(f"{location}: {key}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None
    except Exception as error:
        # Settings of the wrong kind or number, or a keyword that is no regular expression.
        reason = one_line(error) or type(error).__name__
        raise UserError(f"{location}: its instructions can't be checked: {reason}") from None
    return item


def download() -> Iterator[tuple[str, Any]]:
    """Return the rows of the Hub's data set, each with its location. Raises UserError if it can't be downloaded."""
    from datasets import load_dataset

    # It reports each attempt.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        rows = load_dataset(HUB, split="train")
    except Exception as error:
        # No network, no cache, or a library that is too old: they have no common class.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{HUB} can't be fetched ({reason}): give {option('data')} {FILE}, or data in the recipe"
        ) from None
    return ((f"{HUB} row {number}", row) for number, row in enumerate(rows, 1))


BENCHMARK = Benchmark(
    name="ifeval",
    run=run,
    prompts=prompts,
    score_inputs=score_inputs,
    headline=("prompt strict", "instruction strict"),
    items_from="hub",
    validation=validation_half("ifeval", run, prompts, "prompt strict", planned=PLANNED),
    score_responses=score_responses,
    why_wrong=why_wrong,
    planned=PLANNED,
)
