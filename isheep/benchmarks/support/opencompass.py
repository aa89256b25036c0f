"""The paper's protocol for the standard benchmarks: OpenCompass's prompts and scoring rules.

An option is scored by the mean loss of a token over the whole prompt with the option filled in, the lowest wins; this
is neither lm-eval's `acc` nor its `acc_norm`. A written answer is cut and cleaned, then it must contain or equal one of
the references. The base reads the turns as plain lines, an aligned model in the template of its SFT (Appendix C).
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

from isheep.benchmarks.support.base import Benchmark, Result, Score
from isheep.benchmarks.support.context import EvalContext
from isheep.benchmarks.support.data_files import DataRow
from isheep.benchmarks.support.options import mean_losses, score_items
from isheep.benchmarks.support.responses import ResponseContext, match_rows
from isheep.benchmarks.support.sources import (
    DataSource,
    load_examples,
    load_items,
    load_numbered_items,
    question_texts,
)
from isheep.benchmarks.support.validation_parts import validation_half
from isheep.errors import UserError, one_line
from isheep.files.yaml_files import read_yaml
from isheep.prompts import fill_template
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.records import Record, Sampling

PAPER_FOLDER = Path(__file__).parents[1] / "paper"
# Items whose losses are computed in one call.
BATCH_SIZE = 16
LETTERS = "ABCDE"

Turn = tuple[str, str]
"""(role, text)"""


class PromptTemplate(Record):
    """How OpenCompass prompts and scores: `{option}` and other holes are filled from an item.

    `assistant` is the answer with the option in it; if the model writes the answer, how the base's answer begins.
    `hint` comes before everything. `between` separates few-shot examples as the base reads them, `after` follows the
    last one. The answer begins after the last of the texts in `cut`. If `strip` is false, the first line counts even
    if it holds white space alone. `tokens` is the maximum for a written answer.
    """

    source: str
    licence: str
    score: Literal["loss", "contains", "equals", "letter"]
    user: str
    assistant: str = ""
    hint: str = ""
    examples: int = 0
    between: str = ""
    after: str = ""
    cut: tuple[str, ...] = ()
    strip: bool = True
    tokens: int = 50


def load_template(name: str) -> PromptTemplate:
    """Return the template of a task: OpenCompass's own text, as data in paper/NAME.yaml with its source and licence."""
    path = PAPER_FOLDER / f"{name}.yaml"
    return PromptTemplate.model_validate(read_yaml(path))


class Prepared(NamedTuple):
    """An item: the values for the template's holes, the options, the index of the right one.

    If the model writes its answer, `options` are the references, any of which is right.
    """

    fields: dict[str, str]
    options: list[str]
    right: int = 0


class Shot(NamedTuple):
    """An item and the few-shot examples before it."""

    item: Prepared
    examples: list[Prepared]


Prepare = Callable[[DataRow, int], Prepared | None]
"""What OpenCompass makes of a row and its number (from 1; 0 for an example); None if it leaves the row out."""


@dataclass(frozen=True)
class PaperTask:
    """A benchmark of the paper's protocol.

    `examples` is where few-shot examples come from, if the template has any.
    """

    name: str
    source: DataSource
    template: PromptTemplate
    prepare: Prepare
    examples: DataSource | None = None

    def benchmark(self) -> Benchmark:
        """Return the task as a benchmark."""
        prompts = partial(question_texts, self.source)
        return Benchmark(
            name=self.name,
            run=self.run,
            prompts=prompts,
            score_inputs=self.score_inputs,
            items_from="hub",
            needs_logprobs=self.template.score == "loss",
            validation=validation_half(self.name.rpartition("/")[2], self.run, prompts),
            score_responses=self.score_responses if self.source.response_key else None,
        )

    def score_inputs(self, settings: BenchmarkSettings) -> object:
        """Return the template, the items, and the examples of each subject."""
        shots = self.load_shots(settings)
        examples = {shot.item.fields.get("subject", ""): shot.examples for shot in shots}
        return [self.template.model_dump(), [shot.item for shot in shots], examples]

    def run(self, context: EvalContext) -> Result:
        """Score truth values as "accuracy", or "score" if OpenCompass calls it so; average MMLU over subjects too."""
        shots = self.load_shots(context.settings)
        score = score_options if self.template.score == "loss" else score_written_answers
        score_name, right, details = score(self.template, shots, context)
        by_subject: dict[str, list[bool]] = defaultdict(list)
        for shot, value in zip(shots, right, strict=True):
            if "subject" in shot.item.fields:
                by_subject[shot.item.fields["subject"]].append(value)
        breakdowns = {}
        if by_subject:
            counts = {subject: (sum(values), len(values)) for subject, values in by_subject.items()}
            breakdowns["subject"] = dict(sorted(counts.items()))
            details["naive_average"] = sum(right / total for right, total in counts.values()) / len(counts)
        return Result(
            template=context.template,
            notes=self.source.notes,
            scores={score_name: Score(items=right)},
            breakdowns=breakdowns,
            details={"protocol": "paper", "source": self.template.source, **details},
        )

    def score_responses(self, context: ResponseContext) -> Result:
        """Score the answers in a file by the same rules, as "score"."""
        rows = load_items(self.source, context.settings)
        items = [self._prepare(row, number) for number, row in enumerate(rows, 1)]
        matched = match_rows(self.source, rows, context)
        answered = [(items[index], text) for index, text in zip(matched.indices, matched.texts, strict=True)]
        right = [matches(self.template, text, item.options) for item, text in answered if item]
        return Result(
            template=context.template,
            notes=(*self.source.notes, *matched.notes),
            scores={"score": Score(items=right)},
            details={
                "protocol": "paper",
                "source": self.template.source,
                "empty_answers": sum(not text.strip() for text in matched.texts),
            },
        )

    def load_shots(self, settings: BenchmarkSettings) -> list[Shot]:
        """Return the items that OpenCompass keeps, with their examples."""
        rows = load_numbered_items(self.source, settings)
        items = [item for number, row in rows if (item := self._prepare(row, number))]
        if not self.examples:
            return [Shot(item, []) for item in items]
        by_subject: dict[str, list[Prepared]] = defaultdict(list)
        for row in load_examples(self.examples, settings):
            examples = by_subject[subject_of(row)]
            if (item := self._prepare(row, 0)) and len(examples) < self.template.examples:
                examples.append(item)
        return [Shot(item, by_subject[item.fields.get("subject", "")]) for item in items]

    def _prepare(self, row: DataRow, number: int) -> Prepared | None:
        """Return an item, None if OpenCompass leaves it out. Raises UserError if its values make no item."""
        try:
            item = self.prepare(row, number)
            if item and self.template.score in ("loss", "letter") and not 0 <= item.right < len(item.options):
                raise ValueError(f"its answer is none of its {len(item.options)} options")
            return item
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            problem = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else one_line(error)
            raise UserError(f"benchmark {self.name}: row {number} of its data makes no item: {problem}") from None


def subject_of(row: DataRow) -> str:
    """Return the subject of a row, "" if its benchmark has none."""
    return str(row.get("subject", "")).replace("_", " ")


# --- preparing items


def prepare_choices(row: DataRow, fields: Mapping[str, str]) -> Prepared:
    """Return an item whose options are the letters of its choices, from ARC's and OpenBookQA's columns."""
    texts = dict(zip(LETTERS, row["choices"]["text"], strict=False))
    right = row["choices"]["label"].index(row["answerKey"].strip())
    return Prepared({**fields, **texts}, list(texts), right)


def prepare_arc(row: DataRow, number: int) -> Prepared | None:
    """ARC: OpenCompass leaves out items that have not four choices."""
    if len(row["choices"]["text"]) != 4:
        return None
    return prepare_choices(row, {"question": row["question"]})


def upper_first(text: str) -> str:
    """Return a text whose first letter is upper case."""
    return text[:1].upper() + text[1:]


def lower_first(text: str) -> str:
    """Return a text whose first letter is lower case."""
    return text[:1].lower() + text[1:]


# --- options


def score_options(
    template: PromptTemplate, shots: Sequence[Shot], context: EvalContext
) -> tuple[str, list[bool], dict[str, Any]]:
    """Return for each item whether the option with the lowest mean loss is the right one."""

    def score_batch(batch: Sequence[Shot]) -> list[tuple[float | None, ...]]:
        texts = [[full_text(template, shot, option, context) for option in shot.item.options] for shot in batch]
        losses = iter(mean_losses(context.engine, list(chain(*texts)), context.chat.tokenizer))
        return [tuple(next(losses) for _ in options) for options in texts]

    rows = score_items(context, shots, score_batch, BATCH_SIZE)
    right = [row.lowest == shot.item.right for row, shot in zip(rows, shots, strict=True)]
    return "accuracy", right, {"too_long": sum(row.lowest is None for row in rows)}


def full_text(template: PromptTemplate, shot: Shot, option: str, context: EvalContext) -> str:
    """Return the text whose loss is computed: the examples with their right options, the item with this one."""
    examples = [fill_turns(template, example, example.options[example.right]) for example in shot.examples]
    hint = fill_template(template.hint, **shot.item.fields)
    dialogues = [*examples, fill_turns(template, shot.item, option)]
    return join_turns(template, dialogues, hint, context, open_answer=False)


def fill_turns(template: PromptTemplate, item: Prepared, option: str) -> list[Turn]:
    """Return the turns of an item with an option, without empty ones."""
    values = {**item.fields, "option": option}
    parts = {"user": template.user, "assistant": template.assistant}
    turns = [(role, fill_template(text, **values)) for role, text in parts.items()]
    return [(role, text) for role, text in turns if text]


def join_turns(
    template: PromptTemplate, dialogues: Sequence[Sequence[Turn]], hint: str, context: EvalContext, open_answer: bool
) -> str:
    """Return examples and an item, the last one, as one text.

    The base reads lines, an aligned model its chat template (with the hint in the first turn).
    """
    if context.is_base:
        *examples, last = ["\n".join(text for _, text in turns) for turns in dialogues]
        after = template.after if examples else ""
        return context.plain(hint + template.between.join(examples) + after + last)
    messages = [turn for turns in dialogues for turn in turns]
    messages[0] = ("user", hint + messages[0][1])
    return context.chat.conversation(messages, open_answer)


# --- written answers


def score_written_answers(
    template: PromptTemplate, shots: Sequence[Shot], context: EvalContext
) -> tuple[str, list[bool], dict[str, Any]]:
    """Return for each item whether what the model writes is right."""
    stop = () if context.is_base else (context.chat.end,)
    sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=template.tokens, stop=stop)
    prompts = [question_prompt(template, shot, context) for shot in shots]
    texts = [answer.output for answer in context.answers(prompts, sampling)]
    if template.score == "letter":
        letters = [read_letter(text) for text in texts]
        right = [letter == LETTERS[shot.item.right] for letter, shot in zip(letters, shots, strict=True)]
        return "accuracy", right, {"unreadable": letters.count(None)}
    right = [matches(template, text, shot.item.options) for text, shot in zip(texts, shots, strict=True)]
    return "score", right, {"empty_answers": sum(not text.strip() for text in texts)}


def question_prompt(template: PromptTemplate, shot: Shot, context: EvalContext) -> str:
    """Return the prompt of an item whose answer the model writes; the base's answer begins with `assistant`."""
    turns = fill_turns(template, shot.item, "")
    return join_turns(template, [turns if context.is_base else turns[:1]], "", context, open_answer=True)


def matches(template: PromptTemplate, answer: str, references: Iterable[str]) -> bool:
    """Apply OpenCompass's rules: the first line in lower case, from behind the last "answer is" on, cleaned.

    A reference of which cleaning leaves nothing is contained in every answer, there as here.
    """
    line = (answer.strip() if template.strip else answer).split("\n")[0].lower()
    for words in template.cut:
        line = line.split(words)[-1]
    line = clean(line.strip())
    cleaned = [clean(reference).lower() for reference in references]
    return line in cleaned if template.score == "equals" else any(reference in line for reference in cleaned)


def clean(text: str) -> str:
    """Return a text up to its first line end, full stop or comma, without punctuation, articles and double spaces."""
    text = re.sub(r"[^\w\s]", "", re.split(r"[\n.,]", text, maxsplit=1)[0])
    return " ".join(re.sub(r"\b(a|an|the)\b", "", text, flags=re.IGNORECASE).split())


def read_letter(answer: str) -> str | None:
    """Return the option that an answer names: after its first "answer is", else the first A to D that stands alone.

    OpenCompass tries some forty patterns; these two readings are ours. None if there is no such letter.
    """
    statement = re.search(
        r"answer(?: to (?:this|the) question)? is:?\s*(?:option\s*)?\**\(?([A-D])\b", answer, re.IGNORECASE
    )
    if statement and statement[1].isupper():
        return statement[1]
    letter = re.search(r"(?<![\w'])([A-D])(?![\w'])", answer)
    return letter[1] if letter else None
