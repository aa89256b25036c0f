"""IFEval (Zhou et al. 2023): prompts with instructions that a program can check, by lm-eval's checkers.

Two things are not left to chance, as they are there. The guess of a text's language is seeded. A "letter" that is none
("#" and "!", prompts 1122 and 1129) is counted as it stands, as the original does since 2025; lm-eval counts a letter
that it draws.
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

from isheep.benchmarks import EvalContext, data_path
from isheep.errors import UserError
from isheep.recipe.schema import BenchmarkSettings
from isheep.records import Sampling
from isheep.rundir.atomic import read_json_lines, write_text

HUB, FILE = "google/IFEval", "input_data.jsonl"
LONGEST = 1280  # tokens of an answer, as in lm-eval's task
Check = Callable[[str], bool]
Registry = dict[str, Any]  # lm-eval's checkers by kind of instruction


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


def run(exam: EvalContext) -> dict[str, Any]:
    """Greedy answers to the prompts, and their verdicts: `scored`. "cut off" counts answers that did not end."""
    items = load(exam.data)
    sampling = Sampling(temperature=0, top_p=1, max_tokens=LONGEST, stop=(exam.chat.end,))
    answers = exam.answers([exam.asked(item.prompt) for item in items], sampling)
    result = scored(items, [answer.output for answer in answers], exam.folder.path)
    return {"template": exam.template, **result, "cut off": sum(answer.finish != "stop" for answer in answers)}


def prompts(data: Path | None) -> list[str]:
    return [item.prompt for item in load(data)]


def basis(one: BenchmarkSettings) -> Any:
    return [item.model_dump() for item in load(data_path(one))]


def responses(data: Path | None, file: Path, into: Path) -> dict[str, Any]:
    """`scored` for a file of {"prompt", "response"} lines, the original's, or of samples that lm-eval kept.

    Prompts without a response are left out, of two responses to one prompt the last counts; "note" says how many.
    Raises UserError where a line is neither, or where no prompt has a response.
    """
    items, lines = load(data), [said(place, row) for place, row in read_json_lines(file)]
    given = dict(lines)
    answered = [item for item in items if item.prompt in given]
    if not answered:
        raise UserError(f"{file}: none of its {len(given)} prompts is one of the {len(items)} of {data or HUB}")
    result = {"template": "unknown", **scored(answered, [given[item.prompt] for item in answered], into)}
    silent, foreign, again = len(items) - len(answered), len(given) - len(answered), len(lines) - len(given)
    if silent or foreign or again:
        left = f"{silent} of {len(items)} prompts have no response and are left out"
        twice = f"; {again} lines repeat a prompt, whose last response counts" if again else ""
        result["note"] = f"{left}; {foreign} responses are to other prompts{twice}"
    return result


def said(place: str, row: Any) -> tuple[str, str]:
    """The prompt and the response in a line of such a file."""
    row = row if isinstance(row, dict) else {}
    doc, kept = row.get("doc"), row.get("filtered_resps")
    if isinstance(doc, dict) and isinstance(kept, list) and kept:  # lm-eval's --log_samples
        row = {"prompt": doc.get("prompt"), "response": kept[0]}
    prompt, response = row.get("prompt"), row.get("response")
    if not isinstance(prompt, str) or not isinstance(response, str):
        raise UserError(f"{place}: an object with the texts prompt and response is needed, or a sample of lm-eval's")
    return prompt, response


def scored(items: Sequence[Item], answers: Sequence[str], into: Path) -> dict[str, Any]:
    """The four accuracies, their items, and how often each kind of instruction and each group of kinds is followed.

    Writes the verdicts into the folder `into` as the original does: eval_results_strict.jsonl and _loose.jsonl.
    """
    registry = checkers()
    verdicts = [judged(item, answer, registry) for item, answer in zip(items, answers, strict=True)]
    found: dict[str, list[bool]] = {}
    by = {}
    for way in Verdicts._fields:
        followed = [getattr(verdict, way) for verdict in verdicts]
        found[f"prompt {way}"] = [all(row) for row in followed]
        found[f"instruction {way}"] = [one for row in followed for one in row]
        by[f"instruction {way}"] = breakdown(items, followed)
        write_text(into / f"eval_results_{way}.jsonl", "".join(lines(items, answers, followed)))
    prompt_of = [item.key for item in items for _ in item.instruction_id_list]
    clusters = {f"instruction {way}": prompt_of for way in Verdicts._fields}
    accuracies = {name: sum(row) / len(row) for name, row in found.items()}
    return {"scores": accuracies, "items": found, "clusters": clusters, "by": by}


def lines(items: Sequence[Item], answers: Sequence[str], followed: Sequence[list[bool]]) -> Iterator[str]:
    """Verdicts in the original's output format."""
    for item, answer, row in zip(items, answers, followed, strict=True):
        verdict = {
            "follow_all_instructions": all(row),
            "follow_instruction_list": row,
            "instruction_id_list": item.instruction_id_list,
            "prompt": item.prompt,
            "response": answer,
        }
        yield json.dumps(verdict) + "\n"


def breakdown(items: Sequence[Item], followed: Sequence[list[bool]]) -> dict[str, list[int]]:
    """[followed, all] by kind ("keywords:existence") and by group ("keywords")."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for item, row in zip(items, followed, strict=True):
        for kind, right in zip(item.instruction_id_list, row, strict=True):
            for name in (kind.partition(":")[0], kind):
                counts[name][0] += right
                counts[name][1] += 1
    return dict(sorted(counts.items()))


# --- verdicts


def judged(item: Item, answer: str, registry: Registry) -> Verdicts:
    """An answer by the strict reading, and by the loose one: whether any of its variants follows the instruction."""
    rules = list(checks(item, registry))
    strict = [follows(check, answer) for check in rules]
    loose = [any(follows(check, text) for text in variants(answer)) for check in rules]
    return Verdicts(strict, loose)


def follows(check: Check, text: str) -> bool:
    """Whether a text follows an instruction; an empty one follows none.

    A text of a thousand brackets is no JSON. lm-eval's checker would end the evaluation with a RecursionError.
    """
    try:
        return bool(text.strip()) and bool(check(text))
    except RecursionError:
        return False


def variants(answer: str) -> list[str]:
    """The answer without its first line, its last, both or none, and each of these without asterisks."""
    rows = answer.split("\n")
    cut = [answer, *("\n".join(some).strip() for some in (rows[1:], rows[:-1], rows[1:-1]))]
    return [text for some in cut for text in (some, some.replace("*", ""))]


def checks(item: Item, registry: Registry) -> Iterator[Check]:
    """A check for each instruction. Raises ValueError where the settings leave one to chance, or what lm-eval does."""
    for kind, given in zip(item.instruction_id_list, item.kwargs, strict=True):
        if kind not in registry:
            raise ValueError(f"{kind!r} is no instruction of IFEval")
        settings = {name: value for name, value in given.items() if value is not None}  # the hub's rows have all names
        letter = settings.get("letter", "")
        if len(letter) == 1 and not "a" <= letter.lower() <= "z":
            yield counted(**settings)
            continue
        checker, before = registry[kind](kind), random.getstate()
        checker.build_description(**settings)
        if random.getstate() != before:
            raise ValueError(f"{kind} with {settings} leaves something out, and the checker would draw it")
        yield checker.check_following


def counted(letter: str, let_frequency: int, let_relation: str) -> Check:
    """lm-eval's letter_frequency, for a character that is no letter."""
    few = {"less than": True, "at least": False}[let_relation]
    return lambda text: (text.lower().count(letter.lower()) < let_frequency) == few


def checkers() -> Registry:
    """lm-eval's checkers by kind, made deterministic. Raises UserError where they, or the data they need, are missing.

    lm-eval says that it has downloaded punkt_tab where it has not, so it is looked for here.
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
    logging.getLogger("lm_eval.tasks.ifeval.instructions").setLevel(logging.CRITICAL)  # it logs whole answers
    DetectorFactory.seed = 0
    found: Registry = INSTRUCTION_DICT
    return found


# --- data


def load(data: Path | None) -> list[Item]:
    """The prompts of a file (or of input_data.jsonl in a folder), of the hub's dataset for None.

    Raises UserError, naming the line, where one is malformed or names an instruction that can't be checked.
    """
    registry = checkers()
    rows = fetched() if data is None else read_json_lines(data / FILE if data.is_dir() else data)
    items = [checked(place, row, registry) for place, row in rows]
    if not items:
        raise UserError(f"{data or HUB}: it holds no prompts")
    return items


def checked(place: str, row: Any, registry: Registry) -> Item:
    """A row as an Item, all of whose instructions can be checked."""
    try:
        item = Item.model_validate(row)
        for check in checks(item, registry):
            check("word")
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the line"
        raise UserError(f"{place}: {key}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None
    except Exception as error:  # settings of the wrong kind or number, a keyword that is no regular expression
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{place}: its instructions can't be checked: {reason}") from None
    return item


def fetched() -> Iterator[tuple[str, Any]]:
    """The rows of the hub's dataset, each with its place."""
    from datasets import load_dataset

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of each try
    try:
        rows = load_dataset(HUB, split="train")
    except Exception as error:  # no network, no cache, a library that is too old
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{HUB} can't be fetched ({reason}): give --data {FILE}, or data in the recipe") from None
    return ((f"{HUB} row {number}", row) for number, row in enumerate(rows, 1))
