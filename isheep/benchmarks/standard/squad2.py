"""SQuAD 2.0 by the standard protocol (Rajpurkar et al. 2018): lm-eval's prompt, the official exact match and F1.

As in lm-eval nothing but an empty answer is right where the passage has none; the threshold on the probability of no
answer, which lm-eval's best_exact and best_f1 look for, is not computed.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

from isheep.benchmarks.support.base import Benchmark, Result, Score
from isheep.benchmarks.support.context import EvalContext
from isheep.benchmarks.support.data_files import DataRow
from isheep.benchmarks.support.responses import ResponseContext, match_rows
from isheep.benchmarks.support.sources import SQUAD2, load_items, question_texts
from isheep.benchmarks.support.validation_parts import validation_half
from isheep.prompts import fill_template
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.records import Sampling

PROMPT = "Title: {title}\n\nBackground: {context}\n\nQuestion: {question}\n\nAnswer:"
MAX_TOKENS = 256


def run(context: EvalContext) -> Result:
    """Score exact match and F1 of greedy answers."""
    rows = load_items(SQUAD2, context.settings)
    texts = [
        fill_template(PROMPT, title=str(row.get("title", "")), context=row["context"], question=row["question"])
        for row in rows
    ]
    ends = ("\n",) if context.is_base else ("\n", context.chat.end)
    sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=MAX_TOKENS, stop=ends)
    answers = [answer.output for answer in context.answers([context.prompt(text) for text in texts], sampling)]
    return score_answers(rows, answers, context.template)


def score_responses(context: ResponseContext) -> Result:
    """Score the answers in a file."""
    rows = load_items(SQUAD2, context.settings)
    matched = match_rows(SQUAD2, rows, context)
    result = score_answers([rows[index] for index in matched.indices], matched.texts, context.template)
    return result.model_copy(update={"notes": (*result.notes, *matched.notes)})


def score_answers(rows: Sequence[DataRow], answers: Sequence[str], template: str) -> Result:
    """Compute exact match and F1 of an answer to each row."""
    references = [list(row["answers"]["text"]) for row in rows]
    right = [exact(answer, golds) for answer, golds in zip(answers, references, strict=True)]
    by_kind = {
        "answer in the passage": [value for value, golds in zip(right, references, strict=True) if golds],
        "no answer in the passage": [value for value, golds in zip(right, references, strict=True) if not golds],
    }
    f1_scores = [f1(answer, golds) for answer, golds in zip(answers, references, strict=True)]
    return Result(
        template=template,
        notes=SQUAD2.notes,
        details={"protocol": "standard"},
        scores={"exact": Score(items=right), "f1": Score(items=f1_scores, unit="share")},
        breakdowns={"kind": {kind: (sum(values), len(values)) for kind, values in by_kind.items()}},
    )


def exact(answer: str, references: list[str]) -> bool:
    """Return whether a cleaned answer is one of the references."""
    return words(answer) in [words(reference) for reference in _scored(references)]


def f1(answer: str, references: list[str]) -> float:
    """Return the best F1 of bags of words over the references; 1 if both are empty, 0 if one of them is."""
    return max(_f1(words(answer), words(reference)) for reference in _scored(references))


def _scored(references: list[str]) -> list[str]:
    """Leave out references of which cleaning leaves nothing; without any reference, an empty answer is right."""
    return [reference for reference in references if words(reference)] or [""]


def _f1(answer: list[str], reference: list[str]) -> float:
    if not answer or not reference:
        return float(answer == reference)
    common = (Counter(answer) & Counter(reference)).total()
    return 2 * common / (len(answer) + len(reference))


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation and articles."""
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def prompts(settings: BenchmarkSettings) -> list[str]:
    return question_texts(SQUAD2, settings)


BENCHMARK = Benchmark(
    name="standard/squad2",
    run=run,
    prompts=prompts,
    score_inputs=lambda settings: load_items(SQUAD2, settings),
    items_from="hub",
    validation=validation_half("squad2", run, prompts),
    score_responses=score_responses,
)
