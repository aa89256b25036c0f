"""Tables of a run for a terminal of 80 columns: the base and each iteration side by side, rows and scores below."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, product
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from isheep.benchmarks import Result
from isheep.evaluation import formatting
from isheep.evaluation.answer_lengths import notable_length_change
from isheep.evaluation.counts import count_dialogues, count_instances, count_rows, pair_accuracy
from isheep.evaluation.formatting import format_number
from isheep.evaluation.newly_met import newly_met
from isheep.evaluation.results import has_result
from isheep.evaluation.score_rows import (
    BenchmarkScores,
    ModelScore,
    ScoreRow,
    evaluated_benchmarks,
    load_scores,
    started_iterations,
)
from isheep.evaluation.statistics import estimate
from isheep.recipe.schema import Recipe
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import find_run_result, model_words

WIDTH = 80
# Iterations beside the base in one table, at most.
MAX_ITERATIONS = 3
CHANGE = "change"

LEGEND = (
    "Shares in % with 95% intervals in brackets. change: {model} minus base on the same items; yellow: "
    "significantly lower (p over items below 0.05, uncorrected). All scores and tests: isheep status --full."
)
FULL_LEGEND = (
    "Shares in % with 95% Wilson intervals (by cluster if items of one prompt or dialogue belong together); means with "
    "Student's. p over items: difference from the base on the same items, uncorrected (exact McNemar; sign flips for "
    "means; t by cluster); in brackets: minimum detectable difference at 80% power. It says nothing about another "
    "random seed. isheep compare corrects for many tests, and compares over seeds."
)


class TableRow(NamedTuple):
    """A row of a table: a label and a cell for each column. `starts_section` draws a gap above it."""

    label: str
    cells: Sequence[str | Text]
    style: str = ""
    starts_section: bool = False


# --- a run


def run_table(recipe: Recipe, run: RunFolder, only: Sequence[str] = (), *, full: bool = False) -> Group:
    """Return the rows and scores of the base and of each iteration that has begun.

    The short form has the headline scores and their change from the base; `full` has all scores and tests. `only`
    limits the benchmarks.
    """
    iterations = started_iterations(recipe, run)
    names = list(only) or evaluated_benchmarks(recipe, run, iterations)
    result = find_run_result(recipe, run) if recipe.stop_rule and iterations[1:] else None
    # An iteration that has begun and has no scores yet would be an empty column beside the change of the one before.
    scored = [t for t in iterations if t == 0 or any(has_result(run, t, name) for name in names)]
    scores = [load_scores(run, scored, name, result.iteration if result else None) for name in names]
    parts: list[RenderableType] = [Text(f"{recipe.model}: {run.path}\n", style="bold")]
    if note := recipe.judge_note:
        parts.append(Text(f"{note}\n", style="yellow"))
    if iterations[1:]:
        rows = list(count_table_rows(recipe, run, iterations[1:], full))
        parts += lay_out(rows, [*map(model_words, iterations[1:])])
    if full:
        rows = [row for benchmark in scores for row in full_score_rows(benchmark)]
    else:
        rows = [row for benchmark in scores for row in short_score_rows(benchmark)]
    columns = [*map(model_words, scored)]
    if rows:
        has_change = not full and len(scored) > 1
        parts += lay_out(rows, [*columns, CHANGE] if has_change else columns, num_fixed=1)
    parts += notes(scores)
    if rows and scored[1:]:
        measured = newly_met(recipe, run, scored[-1])
        parts += [Text(f"{gain}\n") for gain in measured if gain.benchmark in names]
        changes = [notable_length_change(run, scored[-1], name) for name in names]
        parts += [Text(f"{change}\n", style="yellow") for change in changes if change]
    if rows:
        newest = f"iteration {result.iteration}" if result else "last iteration"
        parts.append(Text(FULL_LEGEND if full else LEGEND.format(model=newest), style="dim"))
    return Group(*parts)


def count_table_rows(recipe: Recipe, run: RunFolder, iterations: Sequence[int], full: bool) -> Iterator[TableRow]:
    """Yield the numbers of rows of each iteration, and the accuracy of its pairs if a benchmark knows the truth."""
    if recipe.response.prompt == "instances":
        instances = [count_instances(run, iteration) for iteration in iterations]
        yield TableRow("tasks called classification", [format_number(count.classification) for count in instances])
        yield TableRow("unreadable kinds of task", [format_number(count.unreadable) for count in instances])
        yield TableRow("tasks without an instance", [format_number(count.failed) for count in instances])
    if any(recipe.at(iteration).response.turns > 1 for iteration in iterations):
        dialogues = [count_dialogues(run, iteration) for iteration in iterations]
        yield TableRow("second turns", [format_number(count.second_turns) for count in dialogues])
        yield TableRow("texts that are no second turn", [format_number(count.failed) for count in dialogues])
    counts = [count_rows(run, iteration) for iteration in iterations]
    yield TableRow("generated pairs", [format_number(count.generated) for count in counts])
    if any(count.unanswered is not None for count in counts):
        yield TableRow("unreadable answers", [format_number(count.unanswered) for count in counts])
    yield TableRow("kept", [formatting.format_part(count.kept, count.generated) for count in counts])
    yield TableRow("unreadable ratings", [format_number(count.unreadable) for count in counts])
    yield TableRow("training rows", [format_number(count.trained) for count in counts])
    accuracies = [accuracy for index in iterations if (accuracy := pair_accuracy(recipe, run, index))]
    if accuracies:
        generated = [_accuracy(accuracy.generated, full) for accuracy in accuracies]
        kept = [_accuracy(accuracy.kept, full) for accuracy in accuracies]
        yield TableRow("accuracy, all generated pairs", generated, starts_section=True)
        yield TableRow("accuracy, kept pairs", kept)


def short_score_rows(scores: BenchmarkScores) -> Iterator[TableRow]:
    """Yield the templates and the headline scores of a benchmark, with a last column for the change from the base."""
    yield from _benchmark_rows(scores, "")
    for row in scores.headline:
        cells = [_short_score(model) for model in row.models]
        yield TableRow(row.label, [*cells, _change(row.last)])
        yield from _unreadable_row(row, "")


def full_score_rows(scores: BenchmarkScores) -> Iterator[TableRow]:
    """Yield the templates and all scores of a benchmark, each with its test against the base."""
    yield from _benchmark_rows(scores)
    for row in scores.rows:
        yield TableRow(row.name, [formatting.format_estimate(m.estimate, m.is_share) if m else "" for m in row.models])
        yield from _unreadable_row(row)
        if any(model and model.base for model in row.models):
            yield TableRow("  p over items", [_p_value(model) for model in row.models], "dim")


def notes(scores: Sequence[BenchmarkScores]) -> list[RenderableType]:
    """Return the notes of the results, each once and with the benchmarks that have it."""
    benchmarks: dict[str, list[str]] = {}
    for benchmark in scores:
        for note in benchmark.notes:
            benchmarks.setdefault(note, []).append(benchmark.title)
    return [Text(f"{', '.join(names)}: {note}") for note, names in benchmarks.items()]


def _benchmark_rows(scores: BenchmarkScores, *more: str) -> Iterator[TableRow]:
    """Yield the name of a benchmark, and the templates below it: in one row, a long name would widen the table."""
    templates = [*map(escape, scores.templates), *more]
    yield TableRow(scores.title, [""] * len(templates), "bold", starts_section=True)
    yield TableRow("  chat template", templates)


def _unreadable_row(row: ScoreRow, *more: str) -> Iterator[TableRow]:
    if any(model and model.num_unreadable for model in row.models):
        yield TableRow("  unreadable", [*(str(model.num_unreadable) if model else "" for model in row.models), *more])


def _accuracy(right: Sequence[bool], full: bool) -> str:
    if full or not right:
        return formatting.format_score(right)
    return formatting.format_rounded(estimate(right), share=True)


def _score(model: ModelScore | None) -> str:
    return formatting.format_estimate(model.estimate, model.is_share) if model else ""


def _short_score(model: ModelScore | None) -> str:
    return formatting.format_rounded(model.estimate, model.is_share) if model else ""


def _change(model: ModelScore | None) -> str | Text:
    """Return the change from the base with its interval, yellow if it is a significant fall."""
    if model is None or model.change is None:
        return ""
    change = model.change
    text = formatting.format_rounded_change(change, model.is_share)
    return Text(text, style="yellow") if change.difference < 0 and change.p < 0.05 else text


def _p_value(model: ModelScore | None) -> str:
    if model is None or model.change is None:
        return ""
    detectable = formatting.format_detectable(model.change.detectable, model.is_share)
    return f"{formatting.format_p_value(model.change.p)} ({detectable})"


# --- layout


def lay_out(rows: Sequence[TableRow], columns: Sequence[str], num_fixed: int = 0) -> Iterator[RenderableType]:
    """Yield the rows as tables with as many iterations side by side as fit without a broken line.

    The first `num_fixed` columns (the base) are repeated in every table; the column "change" is in the last one.
    """
    fixed, last = list(range(num_fixed)), [index for index, name in enumerate(columns) if name == CHANGE]
    middle = [index for index in range(len(columns)) if index not in (*fixed, *last)]
    # A heading may have two lines.
    for size, padding, separator in product(range(MAX_ITERATIONS, 0, -1), (1, 0), (" ", "\n")):
        groups = [middle[start : start + size] for start in range(0, max(1, len(middle)), size)]
        groups[-1] += last
        headings = [name.replace(" ", separator) for name in columns]
        tables = [_table(rows, headings, [*fixed, *group], padding) for group in groups]
        if max(map(_width, tables)) <= WIDTH:
            break
    yield from chain(*((table, Text("")) for table in tables))


def _table(rows: Sequence[TableRow], columns: Sequence[str], indices: Sequence[int], padding: int) -> Table:
    headings = (columns[index] for index in indices)
    table = Table(Column("", no_wrap=True), *headings, box=SIMPLE_HEAD, padding=(0, padding, 0, 0))
    table.show_edge = table.pad_edge = False
    for row in rows:
        if row.starts_section:
            table.add_section()
        table.add_row(escape(row.label), *(row.cells[index] for index in indices), style=row.style)
    return table


def _width(table: Table) -> int:
    console = Console(width=1000)
    return Measurement.get(console, console.options, table).maximum


# --- breakdowns and single results


def breakdowns(recipe: Recipe, run: RunFolder, only: Sequence[str] = ()) -> Group:
    """Return the accuracy for each kind of item, of the benchmarks that have kinds. `only` limits the benchmarks."""
    iterations = started_iterations(recipe, run)
    parts: list[RenderableType] = []
    for name in list(only) or evaluated_benchmarks(recipe, run, iterations):
        scores = load_scores(run, iterations, name)
        counts = [result.breakdowns if result else {} for result in scores.results]
        for title in dict.fromkeys(chain(*counts)):
            rows = list(kind_rows([by_title.get(title, {}) for by_title in counts]))
            parts += [
                Text(f"{scores.title}: {title}\n", style="bold"),
                *lay_out(rows, [*map(model_words, iterations)], num_fixed=1),
            ]
    return Group(*parts)


def kind_rows(counts: Sequence[Mapping[str, tuple[int, int]]]) -> Iterator[TableRow]:
    """Yield a row for each kind; "keywords:existence" is indented below its group "keywords"."""
    for kind in dict.fromkeys(chain(*counts)):
        yield TableRow(_kind_label(kind), [formatting.format_count(by_kind.get(kind)) for by_kind in counts])


def result_table(benchmark: str, result: Result) -> Group:
    """Return one result by itself, such as that of a file of responses."""
    table = Table(Column("", no_wrap=True), "score", "items", title=benchmark, box=SIMPLE_HEAD, pad_edge=False)
    for name, score in result.scores.items():
        table.add_row(name, formatting.format_score(score.items, score.clusters, score.unit), str(len(score.items)))
    for title, counts in result.breakdowns.items():
        table.add_section()
        table.add_row(title, style="bold")
        for kind, count in counts.items():
            table.add_row(_kind_label(kind), formatting.format_count(count), str(count[1]))
    return Group(table, *(Text(f"{benchmark}: {note}") for note in result.notes))


def _kind_label(kind: str) -> str:
    group, _, name = kind.partition(":")
    return f"  {name}" if name else group
