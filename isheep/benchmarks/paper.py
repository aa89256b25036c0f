"""The standard benchmarks by the paper's protocol: OpenCompass's prompts and rules, as data in tasks/paper/.

An option is scored by the mean loss of a token over the whole prompt with the option filled in, the lowest wins; this
is neither lm-eval's `acc` nor its `acc_norm`. A written answer is cut and cleaned, then it must contain or equal one of
the references. The base reads the turns as plain lines, an aligned model in the template of its SFT (Appendix C).
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from isheep.batching import ordered_map
from isheep.benchmarks.items import examples, load, notes, questions
from isheep.benchmarks.options import OptionScores, losses, ready, too_long
from isheep.benchmarks.originals import DataRow
from isheep.benchmarks.prepared import PREPARE, Prepared
from isheep.benchmarks.support.base import Benchmark, Result, Score
from isheep.benchmarks.support.context import EvalContext, data_path
from isheep.benchmarks.support.fingerprints import check_unchanged, item_fingerprints
from isheep.errors import UserError
from isheep.models.chat_template import render_conversation
from isheep.prompts import fill_template
from isheep.recipe.schema import BenchmarkSettings
from isheep.records import Record, Sampling

FOLDER = Path(__file__).parent / "tasks" / "paper"
SIZE = 16  # items in a batch of losses


class PromptTemplate(Record):
    """One file of tasks/paper/: how OpenCompass asks and scores. `{option}` and other holes are filled from an item."""

    source: str
    licence: str
    score: Literal["loss", "contains", "equals", "letter"]
    user: str
    assistant: str = ""  # the answer with the option in it; where the model writes one, how the base's begins
    hint: str = ""  # stands before everything
    examples: int = 0
    between: str = ""  # examples, as the base reads them
    after: str = ""  # the last of them
    cut: tuple[str, ...] = ()  # what follows the last of these is the answer
    strip: bool = True  # whether white space before the first line is no line
    tokens: int = 50


class Shot(NamedTuple):
    """An item and the examples before it."""

    item: Prepared
    before: list[Prepared]


def task(name: str) -> Benchmark:
    """Return the benchmark `paper/name`."""
    return Benchmark(
        name=f"paper/{name}",
        run=partial(run, name),
        prompts=lambda settings: questions(name, data_path(settings)),
        score_inputs=partial(score_inputs, name),
        items_from="hub",
        needs_logprobs=spec(name).score == "loss",
    )


def score_inputs(name: str, settings: BenchmarkSettings) -> object:
    shots = prepare(name, data_path(settings))
    before = {shot.item.fields.get("subject", ""): shot.before for shot in shots}
    return [spec(name).model_dump(), [shot.item for shot in shots], before]


def spec(name: str) -> PromptTemplate:
    return PromptTemplate.model_validate(yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")))


def run(name: str, context: EvalContext) -> Result:
    """Score truth values as "accuracy" ("score" if OpenCompass calls it so); of MMLU also the average over subjects."""
    template, shots = spec(name), prepare(name, context.data)
    choose = score_options if template.score == "loss" else score_written_answers
    score_name, right, details = choose(template, shots, context)
    by_subject: dict[str, list[bool]] = defaultdict(list)
    for shot, value in zip(shots, right, strict=True):
        if "subject" in shot.item.fields:
            by_subject[shot.item.fields["subject"]].append(value)
    breakdowns = {}
    if by_subject:
        breakdowns["subject"] = {name: (sum(by_subject[name]), len(by_subject[name])) for name in sorted(by_subject)}
        shares = [sum(values) / len(values) for values in by_subject.values()]
        details["naive_average"] = sum(shares) / len(shares)
    return Result(
        template=context.template,
        notes=notes(name),
        scores={score_name: Score(items=right)},
        breakdowns=breakdowns,
        details={"protocol": "paper", "source": template.source, **details},
    )


def prepare(name: str, data: Path | None) -> list[Shot]:
    """The items as OpenCompass takes them (ARC's with other than four choices are left out), with their examples."""
    how, one = spec(name), partial(prepared, name)
    found = [item for number, row in enumerate(load(name, data), 1) if (item := one(row, number))]
    if not how.examples:
        return [Shot(item, []) for item in found]
    by_subject: dict[str, list[Prepared]] = defaultdict(list)
    for row in examples(name, data):
        if (item := one(row, 0)) and len(by_subject[subject(row)]) < how.examples:
            by_subject[subject(row)].append(item)
    return [Shot(item, by_subject[item.fields.get("subject", "")]) for item in found]


def prepared(name: str, row: DataRow, number: int) -> Prepared | None:
    """An item, None where OpenCompass leaves it out. Raises UserError where its values make no item."""
    try:
        return PREPARE[name](row, number)
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise UserError(f"benchmark paper/{name}: row {number} of its data makes no item: {what}") from None


def subject(row: DataRow) -> str:
    return str(row.get("subject", "")).replace("_", " ")


# --- options


def score_options(how: PromptTemplate, shots: list[Shot], exam: EvalContext) -> tuple[str, list[bool], dict[str, Any]]:
    """Of each item, whether the option with the lowest mean loss is the right one."""
    about, path = item_fingerprints(shots), exam.folder.path / "losses.jsonl"

    def made(start: int) -> list[OptionScores]:
        some = shots[start : start + SIZE]
        texts = [[whole(how, shot, option, exam) for option in shot.item.options] for shot in some]
        found = iter(losses(exam.engine, list(chain(*texts)), exam.chat.tokenizer))
        values = [tuple(next(found) for _ in options) for options in texts]
        return [OptionScores(values=some, of=about[start + n]) for n, some in enumerate(values)]

    def owed(done: Sequence[OptionScores]) -> Iterator[list[OptionScores]]:
        check_unchanged(path, done, about)
        return ordered_map(made, range(len(done), len(shots), SIZE), exam.engine.at_once)

    ready(exam.engine)
    rows = exam.folder.records(path.name, OptionScores, owed, SIZE, len(shots))
    check_unchanged(path, rows, about)
    too_long(exam.folder, rows)
    right = [row.lowest == shot.item.right for row, shot in zip(rows, shots, strict=True)]
    return "accuracy", right, {"too_long": sum(row.lowest is None for row in rows)}


def whole(how: PromptTemplate, shot: Shot, option: str, exam: EvalContext) -> str:
    """The text whose loss is taken: examples with their right options, the item with this one."""
    before = [turns(how, one, one.options[one.right]) for one in shot.before]
    return joined(
        how, before, turns(how, shot.item, option), fill_template(how.hint, **shot.item.fields), exam, open_answer=False
    )


def turns(how: PromptTemplate, item: Prepared, option: str) -> list[tuple[str, str]]:
    values = {**item.fields, "option": option}
    spoken = [("user", fill_template(how.user, **values)), ("assistant", fill_template(how.assistant, **values))]
    return [(role, text) for role, text in spoken if text]


def joined(
    how: PromptTemplate,
    before: list[list[tuple[str, str]]],
    last: list[tuple[str, str]],
    hint: str,
    exam: EvalContext,
    open_answer: bool,
) -> str:
    """Turns as one text: lines for the base, the chat template for an aligned model (the hint in its first turn)."""
    if exam.is_base:
        plain = ["\n".join(text for _, text in one) for one in (*before, last)]
        return hint + how.between.join(plain[:-1]) + (how.after if before else "") + plain[-1]
    spoken = [(role, exam.chat.plain(text)) for one in (*before, last) for role, text in one]
    spoken[0] = ("user", hint + spoken[0][1])
    return render_conversation(exam.chat.tokenizer, exam.chat.template, spoken, open_answer)


# --- written answers


def score_written_answers(
    how: PromptTemplate, shots: list[Shot], exam: EvalContext
) -> tuple[str, list[bool], dict[str, Any]]:
    """Of each item, whether what the model writes is right."""
    sampling = Sampling(
        temperature=0.0, top_p=1.0, max_tokens=how.tokens, stop=() if exam.is_base else (exam.chat.end,)
    )
    prompts = [question(how, shot, exam) for shot in shots]
    texts = [answer.output for answer in exam.answers(prompts, sampling)]
    if how.score == "letter":
        letters = [letter(text) for text in texts]
        right = [one == "ABCD"[shot.item.right] for one, shot in zip(letters, shots, strict=True)]
        return "accuracy", right, {"unreadable": letters.count(None)}
    right = [matches(how, text, shot.item.options) for text, shot in zip(texts, shots, strict=True)]
    return "score", right, {"empty_answers": sum(not text.strip() for text in texts)}


def question(how: PromptTemplate, shot: Shot, exam: EvalContext) -> str:
    spoken = turns(how, shot.item, "")
    return joined(how, [], spoken if exam.is_base else spoken[:1], "", exam, open_answer=True)


def matches(how: PromptTemplate, answer: str, references: list[str]) -> bool:
    """OpenCompass's rules: the first line in lower case, from behind the last "answer is" on, cleaned.

    A reference of which cleaning leaves nothing is contained in every answer, there as here.
    """
    line = (answer.strip() if how.strip else answer).split("\n")[0].lower()
    for words in how.cut:
        line = line.split(words)[-1]
    line, known = clean(line.strip()), [clean(one).lower() for one in references]
    return line in known if how.score == "equals" else any(one in line for one in known)


def clean(text: str) -> str:
    """Up to the first line end, full stop or comma; without punctuation, articles and double spaces."""
    text = re.sub(r"[^\w\s]", "", re.split(r"[\n.,]", text, maxsplit=1)[0])
    return " ".join(re.sub(r"\b(a|an|the)\b", "", text, flags=re.IGNORECASE).split())


def letter(answer: str) -> str | None:
    """The option that an answer names: after its first "answer is", else the first capital A to D that stands alone.

    OpenCompass tries some forty patterns; these two readings are ours. None where there is no such letter.
    """
    said = re.search(
        r"answer(?: to (?:this|the) question)? is:?\s*(?:option\s*)?\**\(?([A-D])\b", answer, re.IGNORECASE
    )
    found = said if said and said[1].isupper() else re.search(r"(?<![\w'])([A-D])(?![\w'])", answer)
    return found[1] if found else None
