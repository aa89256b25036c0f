"""The rows of the browser of examples: generated pairs and rejected candidates, and the items of benchmarks.

A table is stored by columns, as JSON that is compressed inside the page. Texts are cut, and rows left out, only if the
page would become too large; `Examples.notes` says so in words.
"""

import base64
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from isheep.benchmarks import Result, is_readable, load_benchmark, prompt_fingerprint, reported_benchmarks
from isheep.diagnostics.contamination import locate_items
from isheep.errors import UserError
from isheep.evaluation.results import load_answers
from isheep.evaluation.score_rows import BenchmarkScores
from isheep.filters.base import FilterContext
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.records import Answer, AssessedPair, Pair, Rejected, dialogue_text
from isheep.report.run_data import IterationData, RunData
from isheep.rundir.iterations import iteration_dir, model_words

# Bytes of the compressed rows in the page, in base64. With the scripts, a page stays below 10 MB.
MAX_BYTES = 7_500_000
# Generated rows that are read for the page, at most.
MOST_ROWS = 60_000
# The longest texts that are tried, in characters, until the rows fit.
TEXT_LIMITS = (20_000, 4_000, 2_000, 1_000, 500, 250)
# Every how many rows one is compressed to estimate the size of all.
SAMPLE_STEP = 20

Row = dict[str, Any]


class Examples(NamedTuple):
    """The two tables for the page, compressed: `data` is base64 of gzip of JSON. `notes` say what is left out."""

    data: str
    num_generated: int
    num_items: int
    notes: list[str]


def make_examples(run: RunData) -> Examples:
    """Return the rows of a run for its page."""
    num_rows = sum(len(iteration.pairs) + len(iteration.rejected) for iteration in run.iterations)
    first_step = max(1, -(-num_rows // MOST_ROWS))
    generated = [row for iteration in run.iterations for row in generated_rows(iteration, first_step)]
    items, models, notes = [], [*map(model_words, run.numbers)], []
    for benchmark in run.benchmarks:
        rows = item_rows(run, benchmark)
        items += rows
        if not rows:
            notes.append(f"The items of {benchmark.title} are not shown: the run has no texts of them.")
    limit, step = _fitting(generated, items)
    chosen = generated[::step], items[::step]
    if limit < TEXT_LIMITS[0]:
        notes.append(
            f"To keep the page small, texts are cut after {limit:,} characters; the files of the run folder have all "
            "of them."
        )
    if step * first_step > 1:
        notes.append(
            f"To keep the page small, only one generated row in {step * first_step} is here; the files of the run "
            "folder have all of them."
        )
    content = _columns_json([*(cut_texts(rows, limit) for rows in chosen)], models)
    return Examples(_compressed(content), len(chosen[0]), len(chosen[1]), notes)


# --- generated pairs and rejected candidates


def generated_rows(iteration: IterationData, step: int = 1) -> Iterator[Row]:
    """Yield a row for each pair of an iteration, then for each candidate that became none; of both, one in `step`."""
    low = {criterion: low_ids(iteration, criterion) for criterion in iteration.criteria}
    for pair in iteration.pairs[::step]:
        yield _pair_row(iteration, pair, low)
    for rejected in iteration.rejected[::step]:
        yield _rejected_row(iteration, rejected)


def low_ids(iteration: IterationData, criterion: str) -> set[str] | None:
    """Return the ids of the pairs that do not reach the recipe's threshold of a criterion; None without a threshold."""
    rule = iteration.score_filter(criterion)
    if rule is None:
        return None
    rule = rule.model_copy(update={"criteria": (criterion,)})
    return {pair_id for pair_id, _ in rule.reasons(iteration.assessed, FilterContext())}


def _pair_row(iteration: IterationData, pair: Pair, low: Mapping[str, set[str] | None]) -> Row:
    drop = iteration.drops.get(pair.id)
    outcome = "dropped" if drop else "kept" if iteration.is_filtered else "not filtered yet"
    grades = pair.grades if isinstance(pair, AssessedPair) else {}
    sides = [
        f"{name} {'unreadable' if grade.score is None else 'low' if pair.id in (low[name] or ()) else 'high'}"
        for name, grade in grades.items()
        if low.get(name) is not None
    ]
    return {
        "iteration": iteration.number,
        "id": pair.id,
        "instruction": dialogue_text(pair.history, pair.instruction),
        "input": pair.input,
        "thoughts": pair.thoughts or "",
        "output": pair.output,
        "finish": pair.finish,
        "outcome": outcome,
        "by": drop.by if drop else "",
        "why": drop.why if drop else "",
        "quadrant": ", ".join(sides),
        **{f"score {name}": grade.score for name, grade in grades.items()},
        **{f"words {name}": grade.reply for name, grade in grades.items()},
    }


def _rejected_row(iteration: IterationData, rejected: Rejected) -> Row:
    return {
        "iteration": iteration.number,
        "id": rejected.id,
        "instruction": rejected.text,
        "input": "",
        "thoughts": "",
        "output": "",
        "finish": "",
        "outcome": "rejected",
        "by": rejected.by,
        "why": rejected.why,
        "quadrant": "",
    }


# --- items of benchmarks


def item_rows(run: RunData, benchmark: BenchmarkScores) -> list[Row]:
    """Return a row for each item of a benchmark: its prompt, and by model the answer, the verdict and what is wrong.

    An answer or a verdict that is not known is None, and a reason that is not known "". The verdict is the value of the
    first headline score that has one for each prompt. Nothing if the prompts are not known, or not those that the
    models were scored on.
    """
    answers = [load_answers(run.folder, number, benchmark.benchmark) for number in run.numbers]
    result = next(result for result in benchmark.results if result)
    settings = _settings(run, benchmark.benchmark)
    prompts = _prompts(settings, result) or next(([row.prompt for row in rows] for rows in answers if rows), [])
    if not prompts:
        return []
    score, by_model = _verdicts(settings, benchmark, len(prompts))
    reasons = [_reasons(run, number, settings, rows) for number, rows in zip(run.numbers, answers, strict=True)]
    return [
        {
            "benchmark": benchmark.title,
            "item": index,
            "prompt": prompt,
            "score": score,
            "answers": [rows[index].output if len(rows) == len(prompts) else None for rows in answers],
            "verdicts": [values[index] if values else None for values in by_model],
            "why": [texts[index] if len(texts) == len(prompts) else "" for texts in reasons],
        }
        for index, prompt in enumerate(prompts)
    ]


def _settings(run: RunData, label: str) -> BenchmarkSettings | None:
    """Return the recipe's settings of a benchmark, or its defaults; None for code of the user's that is not loaded."""
    settings = next((entry for entry in reported_benchmarks(run.recipe) if entry.label == label), None)
    try:
        settings = settings or BenchmarkSettings(name=label)
    # A benchmark that isheep eval named by its file.
    except ValueError:
        return None
    return settings if is_readable(settings.name) else None


def _prompts(settings: BenchmarkSettings | None, result: Result) -> list[str]:
    """Return a benchmark's prompts, if its items come with isheep and are those of the result. Downloads nothing."""
    if settings is None or load_benchmark(settings.name).items_from != "package":
        return []
    try:
        prompts = load_benchmark(settings.name).prompts(settings)
    except UserError:
        return []
    return prompts if prompt_fingerprint(settings) == result.prompt_fingerprint else []


def _reasons(run: RunData, number: int, settings: BenchmarkSettings | None, answers: Sequence[Answer]) -> Sequence[str]:
    """Return what is wrong with each answer of a model, in the benchmark's words; nothing if it can't be told."""
    why_wrong = load_benchmark(settings.name).why_wrong if settings else None
    if settings is None or why_wrong is None or not answers:
        return ()
    try:
        return why_wrong(iteration_dir(run.folder, number) / f"eval/{settings.label}", answers)
    # The files are of an older version, or were changed by hand: the verdicts stand without reasons.
    except (UserError, ValueError):
        return ()


def _verdicts(
    settings: BenchmarkSettings | None, benchmark: BenchmarkScores, num_prompts: int
) -> tuple[str, list[list[bool | float | None]]]:
    """Return the name of a score, and for each model its value for each prompt; nothing for a model without it."""
    first = next(result for result in benchmark.results if result)
    for row in benchmark.headline:
        indices = _locate(settings, first, row.name, num_prompts)
        by_model = [_values_of_prompts(result, row.name, indices, num_prompts) for result in benchmark.results]
        if any(by_model):
            return row.name, by_model
    return "", [[] for _ in benchmark.results]


def _values_of_prompts(
    result: Result | None, score: str, indices: Sequence[int], num_prompts: int
) -> list[bool | float | None]:
    """Return a score's value for each prompt; `indices` are those of the items' prompts. Nothing without the score."""
    items = result.scores[score].items if result and score in result.scores else ()
    if not items or len(items) != len(indices):
        return []
    values: list[list[bool | float | None]] = [[] for _ in range(num_prompts)]
    for index, value in zip(indices, items, strict=True):
        values[index].append(value)
    return [_summary(of_prompt) for of_prompt in values]


def _locate(settings: BenchmarkSettings | None, result: Result, score: str, num_prompts: int) -> Sequence[int]:
    """Return the index of the prompt of each item of a score; nothing if it is not known."""
    if score not in result.scores:
        return ()
    if settings is not None:
        try:
            return locate_items(settings, result, num_prompts).get(score, ())
        # The data are gone.
        except UserError:
            return ()
    return range(num_prompts) if len(result.scores[score].items) == num_prompts else ()


def _summary(values: Sequence[bool | float | None]) -> bool | float | None:
    """Return whether all items of a prompt are right, the mean of numbers, or None without a value."""
    readable = [value for value in values if value is not None]
    if not readable:
        return None
    if all(isinstance(value, bool) for value in readable):
        return all(readable)
    return sum(readable) / len(readable)


# --- in the page


def cut_texts(rows: Sequence[Row], limit: int) -> list[Row]:
    """Return rows whose texts have `limit` characters at most; a cut text ends with the number of those left out."""
    return [{key: _cut(value, limit) for key, value in row.items()} for row in rows]


def _cut(value: Any, limit: int) -> Any:
    if isinstance(value, str) and len(value) > limit:
        return f"{value[:limit]} [… {len(value) - limit:,} more characters]"
    return [_cut(entry, limit) for entry in value] if isinstance(value, list) else value


def _fitting(generated: Sequence[Row], items: Sequence[Row]) -> tuple[int, int]:
    """Return the largest length of texts, and the smallest step between rows, with which the rows fit into the page."""
    sample = generated[::SAMPLE_STEP], items[::SAMPLE_STEP]
    scale = (len(generated) + len(items)) / max(1, len(sample[0]) + len(sample[1]))
    for limit in TEXT_LIMITS:
        size = scale * len(_compressed(_columns_json([*(cut_texts(rows, limit) for rows in sample)], [])))
        if size <= MAX_BYTES:
            return limit, 1
    return TEXT_LIMITS[-1], -int(-size // MAX_BYTES)


def _columns_json(tables: Sequence[Sequence[Row]], models: Sequence[str]) -> str:
    """Return the tables by columns. A key that some rows lack is null there."""
    columns = []
    for rows in tables:
        keys = dict.fromkeys(key for row in rows for key in row)
        columns.append({key: [row.get(key) for row in rows] for key in keys})
    # Escaped, so that a lone surrogate is no error.
    return json.dumps({"generated": columns[0], "items": columns[1], "models": list(models)})


def _compressed(text: str) -> str:
    # Without the time, the same rows give the same bytes.
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()
