"""Where a run stands, in one table: base, iteration 1, 2, ...: rows, and scores with their intervals."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from isheep.benchmarks import Result, load_benchmark
from isheep.evaluation import formatting
from isheep.evaluation.evaluate import same_fingerprints
from isheep.evaluation.results import load_result
from isheep.evaluation.statistics import compare
from isheep.recipe.benchmark_names import benchmark_names
from isheep.recipe.schema import Recipe
from isheep.records import AssessedPair, Drop, Pair, Rejected, TaskKind
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import iteration_dir
from isheep.stages.filters import has_unreadable_rating, kept_pairs

BESIDE, WIDTH = 3, 80  # iterations beside the base, at most; columns
LEGEND = (
    "Shares in % with 95% Wilson intervals (by cluster where items of one prompt or dialogue belong together); means "
    "with Student's. p: against the base on the same items, uncorrected, with the difference that this would find at "
    "80% power (exact McNemar; sign flips for means; t by cluster). isheep compare corrects for many tests."
)


class Counts(NamedTuple):
    """How many rows an iteration has; None where it has not come that far."""

    written: int | None  # pairs that M^(t-1) wrote
    kept: int | None  # D^t
    unreadable: int | None  # pairs with a rating that can't be read
    trained: int | None  # rows that M^t learned from, held out ones not counted
    unanswered: int | None = None  # pairs in which no answer could be read, where thoughts stand before it


ROWS = {
    "written": "pairs written",
    "unanswered": "no answer readable",
    "kept": "kept",
    "unreadable": "a rating unreadable",
    "trained": "rows trained on",
}


def counts(run: RunFolder, t: int) -> Counts:
    """The rows of iteration `t`, from its finished files."""
    folder = iteration_dir(run, t)
    pairs = folder.read("pairs.jsonl", Pair) if folder.has("pairs.jsonl") else None
    graded = folder.read("assessed.jsonl", AssessedPair) if folder.has("assessed.jsonl") else None
    drops = folder.read("dropped.jsonl", Drop) if folder.has("dropped.jsonl") else None
    return Counts(
        written=None if pairs is None else len(pairs),
        kept=None if pairs is None or drops is None else len(pairs) - len(drops),
        unreadable=None if graded is None else sum(map(has_unreadable_rating, graded)),
        trained=_json(folder, "adapter/training.json").get("rows", {}).get("trained"),
        unanswered=sum(pair.unanswered for pair in pairs) if pairs and pairs[0].thoughts is not None else None,
    )


class Told(NamedTuple):
    """What became of an iteration's tasks with response.prompt: instances; None where it has not come that far."""

    classification: int | None  # tasks that the model calls classification
    unreadable: int | None  # tasks whose kind can't be read
    lost: int | None  # tasks whose instance is no pair


def told(run: RunFolder, t: int) -> Told:
    """The kinds and instances of iteration `t`, from its finished files."""
    folder = iteration_dir(run, t)
    kinds = [row.classification for row in folder.read("kinds.jsonl", TaskKind)] if folder.has("kinds.jsonl") else None
    lost = folder.read("unanswered.jsonl", Rejected) if folder.has("unanswered.jsonl") else None
    return Told(
        classification=None if kinds is None else kinds.count(True),
        unreadable=None if kinds is None else kinds.count(None),
        lost=None if lost is None else len(lost),
    )


def right_pairs(run: RunFolder, t: int, is_right: Callable[[Pair], bool]) -> tuple[list[bool], list[bool]]:
    """Return which of the pairs written, and of those kept, are right by a benchmark that knows."""
    folder = iteration_dir(run, t)
    if not folder.has("pairs.jsonl") or not folder.has("dropped.jsonl"):
        return [], []
    pairs = folder.read("pairs.jsonl", Pair)
    data = kept_pairs(pairs, folder.read("dropped.jsonl", Drop))
    return [is_right(pair) for pair in pairs], [is_right(pair) for pair in data]


def benchmarks(recipe: Recipe, run: RunFolder, models: Sequence[int]) -> list[str]:
    """The recipe's benchmarks, then others that these models were evaluated on."""
    evaluated = [iteration_dir(run, t).path / "eval" for t in models]
    there = {path.stem for folder in evaluated for path in folder.glob("*.json")}
    there |= {name for name in benchmark_names() if any((folder / f"{name}.json").exists() for folder in evaluated)}
    ours = [one.name for one in recipe.evaluation]
    return [*ours, *sorted(there - {*ours})]


class TableRow(NamedTuple):
    """A row of a table with a column for each model."""

    label: str
    cells: Sequence[str]  # in the order of the models
    style: str = ""
    first: bool = False  # of a section


def run_table(recipe: Recipe, run: RunFolder, only: Sequence[str] = ()) -> Group:
    """A column for the base and one for each iteration that has begun, in as many tables as they need.

    `only` these benchmarks; all where none is named.
    """
    models = begun(recipe, run)
    names = only or benchmarks(recipe, run, models)
    notes: dict[str, dict[str, None]] = {}  # each with the benchmarks that it is about
    for name in names:
        for note in chain(*(result.notes for t in models if (result := load_result(run, t, name)))):
            notes.setdefault(note, {})[name] = None
    shown = laid_out(f"{recipe.model}: {run.path}", list(lines(recipe, run, models, names)), models)
    said = (Text(f"{', '.join(some)}: {note}") for note, some in notes.items())
    return Group(*shown, *said, *([Text(LEGEND, style="dim")] if names else []))


def begun(recipe: Recipe, run: RunFolder) -> list[int]:
    """The base, and each iteration that has begun."""
    return [0, *(t for t in range(1, recipe.iterations + 1) if (run / f"iter-{t}").path.exists())]


def laid_out(title: str, rows: Sequence[TableRow], models: Sequence[int]) -> Iterator[RenderableType]:
    """Rows under a title, with as many iterations beside the base as are read without a broken line."""
    for beside in range(BESIDE, 0, -1):
        starts = range(1, max(2, len(models)), beside)
        tables = [_table(rows, models, [0, *range(start, len(models))[:beside]]) for start in starts]
        wide = Console(width=1000)
        if max(Measurement.get(wide, wide.options, one).maximum for one in tables) <= WIDTH:
            break
    yield Text(f"{title}\n", style="bold")
    yield from chain(*((one, Text("")) for one in tables))


def _table(rows: Sequence[TableRow], models: Sequence[int], places: Sequence[int]) -> Table:
    heads = (f"iter {models[n]}" if models[n] else "base" for n in places)
    shown = Table(
        Column("", no_wrap=True), *heads, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False
    )
    for row in rows:
        if row.first:
            shown.add_section()
        shown.add_row(escape(row.label), *(row.cells[n] for n in places), style=row.style)
    return shown


def lines(recipe: Recipe, run: RunFolder, models: Sequence[int], names: Sequence[str]) -> Iterator[TableRow]:
    """Rows of each iteration, what is right of them where a world knows it, and the scores."""
    if recipe.response.prompt == "instances":
        of_tasks = [told(run, t) for t in models]
        for name, label in zip(Told._fields, ("classification", "kind unreadable", "no instance"), strict=True):
            yield TableRow(label, [_count(row, name) for row in of_tasks])
    by_model = [counts(run, t) for t in models]
    for name, label in ROWS.items():
        if name != "unanswered" or any(row.unanswered is not None for row in by_model):
            yield TableRow(label, [_count(row, name) for row in by_model])
    for settings in recipe.evaluation:
        if is_right := load_benchmark(settings.name).is_right:
            shares = [right_pairs(run, t, is_right) for t in models]
            yield TableRow("right of written", [formatting.format_score(pairs) for pairs, _ in shares], first=True)
            yield TableRow("right of kept", [formatting.format_score(kept) for _, kept in shares])
    for benchmark in names:
        yield from of_benchmark(benchmark, [load_result(run, t, benchmark) for t in models])


def of_benchmark(benchmark: str, results: Sequence[Result | None]) -> Iterator[TableRow]:
    """The templates, then each score, and how the models after the first compare with it."""
    yield TableRow(benchmark, [escape(one.template) if one else "" for one in results], "bold", first=True)
    for name in dict.fromkeys(name for one in results if one for name in one.scores):
        scores = [one.scores.get(name) if one else None for one in results]
        yield TableRow(name, [formatting.format_score(one.items, one.clusters) if one else "" for one in scores])
        if any(None in one.items for one in scores if one):
            yield TableRow("  unreadable", [str(one.items.count(None)) if one else "" for one in scores])
        if scores[0] and any(scores[1:]):
            yield TableRow("  p against base", ["", *_tests(name, results)], "dim")


def _tests(name: str, results: Sequence[Result | None]) -> Iterator[str]:
    """How each model's score after the first compares with the first's."""
    base = results[0]
    for one in results[1:]:
        if base and one and name in one.scores and same_fingerprints(base, one):
            before = base.scores[name]
            test = compare(before.items, one.scores[name].items, before.clusters)
            detectable = formatting.format_detectable(test.detectable, before.items)
            yield f"{formatting.format_p_value(test.p)} ({detectable})"
        else:
            yield ""


def breakdowns(recipe: Recipe, run: RunFolder, only: Sequence[str] = ()) -> Group:
    """How often each kind of item is right, for the benchmarks that have kinds; `only` these, where some are named."""
    models = begun(recipe, run)
    shown: list[RenderableType] = []
    for benchmark in only or benchmarks(recipe, run, models):
        results = [load_result(run, t, benchmark) for t in models]
        counts = [one.breakdowns if one else {} for one in results]
        for title in dict.fromkeys(title for by in counts for title in by):
            rows = list(of_kinds([by.get(title, {}) for by in counts]))
            shown += laid_out(f"{benchmark}: {title}", rows, models)
    return Group(*shown)


def of_kinds(found: Sequence[dict[str, tuple[int, int]]]) -> Iterator[TableRow]:
    """A row for each kind, set in below its group ("keywords", "keywords:existence")."""
    for kind in dict.fromkeys(kind for by in found for kind in by):
        group, _, inner = kind.partition(":")
        yield TableRow(f"  {inner}" if inner else group, [formatting.format_count(by.get(kind)) for by in found])


def scores(benchmark: str, result: Result) -> Group:
    """One result by itself, such as that of a file of answers."""
    shown = Table(Column("", no_wrap=True), "score", "items", title=benchmark, box=SIMPLE_HEAD, pad_edge=False)
    for name, score in result.scores.items():
        shown.add_row(name, formatting.format_score(score.items, score.clusters), str(len(score.items)))
    for title, by in result.breakdowns.items():
        shown.add_section()
        shown.add_row(title, style="bold")
        for kind, (_, total) in by.items():
            group, _, inner = kind.partition(":")
            shown.add_row(f"  {inner}" if inner else group, formatting.format_count(by[kind]), str(total))
    return Group(shown, *(Text(f"{benchmark}: {note}") for note in result.notes))


def sweep_table(recipes: Mapping[str, Recipe], out: Path) -> Group:
    """The runs of a sweep side by side: a row for each model that is there, with the first score of each benchmark."""
    names = list(dict.fromkeys(one.name for recipe in recipes.values() for one in recipe.evaluation))
    heads = [Column("setting", overflow="fold", min_width=10), Column("iter", no_wrap=True), Column("kept")]
    heads += [Column("rows", no_wrap=True), *(Column(name, overflow="fold") for name in names)]
    shown = Table(*heads, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    templates: dict[str, dict[str, None]] = {name: {} for name in names}
    for setting, recipe in recipes.items():
        run, name_once = RunFolder(out / setting, out / setting), iter([escape(setting)])
        for t in range(recipe.iterations + 1):
            results = {name: load_result(run, t, name) for name in names}
            scores = [
                next((score.items for score in one.scores.values()), None) if one else None for one in results.values()
            ]
            for name, one in results.items():
                if one and one.template:
                    templates[name][one.template] = None
            if iteration_dir(run, t).has("adapter") or any(scores):
                rows = counts(run, t)
                numbers = _count(rows, "kept"), _count(rows, "trained")
                cells = (formatting.format_score(score) for score in scores)
                shown.add_row(next(name_once, ""), str(t) if t else "base", *numbers, *cells)
    asked = "; ".join(f"{name} ({', '.join(templates[name])})" for name in names if templates[name])
    legend = Text(f"rows: trained on; first score of each, shares in %; templates: {asked}", style="dim")
    return Group(Text(str(out), style="bold"), shown, *([legend] if names else []))


def _count(row: Counts | Told, name: str) -> str:
    """A number, "-" for None; what is kept, also as a share of what was written."""
    number: int | None = getattr(row, name)
    written = row.written if isinstance(row, Counts) else None
    share = f" ({number / written:.0%})" if name == "kept" and number is not None and written else ""
    return "-" if number is None else f"{number}{share}"


def _json(folder: RunFolder, name: str) -> dict[str, Any]:
    """A JSON file's content, {} where it is not there."""
    if not folder.has(name):
        return {}
    content: dict[str, Any] = folder.json(name, dict)
    return content
