"""SQuAD 2.0 by the standard protocol (Rajpurkar et al. 2018): lm-eval's prompt, the official exact match and F1.

As in lm-eval nothing but an empty answer is right where the passage has none; the threshold on the probability of no
answer, which lm-eval's best_exact and best_f1 look for, is not computed.
"""

import re
import string
from collections import Counter

from isheep.benchmarks.originals import DataRow
from isheep.benchmarks.support.base import Result, Score
from isheep.benchmarks.support.context import EvalContext
from isheep.prompts import fill_template
from isheep.records import Sampling

PROMPT = "Title: {title}\n\nBackground: {context}\n\nQuestion: {question}\n\nAnswer:"
MAX_TOKENS = 256


def run(context: EvalContext, rows: list[DataRow]) -> Result:
    texts = [
        fill_template(PROMPT, title=str(row.get("title", "")), context=row["context"], question=row["question"])
        for row in rows
    ]
    ends = ("\n",) if context.is_base else ("\n", context.chat.end)
    sampling = Sampling(temperature=0.0, top_p=1.0, max_tokens=MAX_TOKENS, stop=ends)
    answers = [answer.output for answer in context.answers([context.prompt(text) for text in texts], sampling)]
    references = [list(row["answers"]["text"]) for row in rows]
    right = [exact(answer, golds) for answer, golds in zip(answers, references, strict=True)]
    by_kind = {
        "answer in the passage": [value for value, golds in zip(right, references, strict=True) if golds],
        "no answer in the passage": [value for value, golds in zip(right, references, strict=True) if not golds],
    }
    f1_scores = [f1(answer, golds) for answer, golds in zip(answers, references, strict=True)]
    return Result(
        scores={"exact": Score(items=right), "f1": Score(items=f1_scores)},
        breakdowns={"kind": {kind: (sum(values), len(values)) for kind, values in by_kind.items()}},
    )


def exact(answer: str, golds: list[str]) -> bool:
    return words(answer) in [words(gold) for gold in _scored(golds)]


def f1(answer: str, golds: list[str]) -> float:
    """The best F1 of bags of words over the references; 1 where both are empty, 0 where one is."""
    return max(_f1(words(answer), words(gold)) for gold in _scored(golds))


def _scored(golds: list[str]) -> list[str]:
    """References of which cleaning leaves nothing don't count; without any, no answer is the right one."""
    return [gold for gold in golds if words(gold)] or [""]


def _f1(answer: list[str], gold: list[str]) -> float:
    if not answer or not gold:
        return float(answer == gold)
    common = (Counter(answer) & Counter(gold)).total()
    return 2 * common / (len(answer) + len(gold))


def words(text: str) -> list[str]:
    """In lower case, without punctuation and articles."""
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()
