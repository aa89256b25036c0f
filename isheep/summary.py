"""Where a run stands, in one table: base, iteration 1, 2, ...: rows, and scores with their intervals."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Column, Table

from isheep.evaluate import home
from isheep.filters import kept, unreadable
from isheep.recipe import Recipe
from isheep.records import AssessedPair, Drop, Kind, Pair, Rejected
from isheep.run import Folder
from isheep.statistics import mcnemar, wilson


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


def counts(run: Folder, t: int) -> Counts:
    """The rows of iteration `t`, from its finished files."""
    folder = home(run, t)
    pairs = folder.read("pairs.jsonl", Pair) if folder.has("pairs.jsonl") else None
    graded = folder.read("assessed.jsonl", AssessedPair) if folder.has("assessed.jsonl") else None
    drops = folder.read("dropped.jsonl", Drop) if folder.has("dropped.jsonl") else None
    return Counts(
        written=None if pairs is None else len(pairs),
        kept=None if pairs is None or drops is None else len(pairs) - len(drops),
        unreadable=None if graded is None else sum(map(unreadable, graded)),
        trained=_json(folder, "adapter/training.json").get("rows", {}).get("trained"),
        unanswered=sum(pair.unanswered for pair in pairs) if pairs and pairs[0].thoughts is not None else None,
    )


class Told(NamedTuple):
    """What became of an iteration's tasks with response.prompt: instances; None where it has not come that far."""

    classification: int | None  # tasks that the model calls classification
    unreadable: int | None  # tasks whose kind can't be read
    lost: int | None  # tasks whose instance is no pair


def told(run: Folder, t: int) -> Told:
    """The kinds and instances of iteration `t`, from its finished files."""
    folder = home(run, t)
    kinds = [row.classification for row in folder.read("kinds.jsonl", Kind)] if folder.has("kinds.jsonl") else None
    lost = folder.read("unanswered.jsonl", Rejected) if folder.has("unanswered.jsonl") else None
    return Told(
        classification=None if kinds is None else kinds.count(True),
        unreadable=None if kinds is None else kinds.count(None),
        lost=None if lost is None else len(lost),
    )


def truly_right(run: Folder, t: int) -> tuple[list[bool], list[bool]]:
    """Which of the pairs written, and of those kept, are right, where a world knows the truth: lamb's."""
    from isheep.lamb.suite import truly_right

    folder = home(run, t)
    if not folder.has("pairs.jsonl") or not folder.has("dropped.jsonl"):
        return [], []
    pairs = folder.read("pairs.jsonl", Pair)
    data = kept(pairs, folder.read("dropped.jsonl", Drop))
    return [truly_right(pair) for pair in pairs], [truly_right(pair) for pair in data]


def results(run: Folder, t: int, benchmark: str) -> dict[str, list[bool]]:
    """The items of each score of M^t on a benchmark; nothing where it was not evaluated."""
    items: dict[str, list[bool]] = _json(home(run, t), f"eval/{benchmark}.json").get("items", {})
    return items


def table(recipe: Recipe, run: Folder) -> Table:
    """One column for the base and one for each iteration that has begun."""
    models = [0, *(t for t in range(1, recipe.iterations + 1) if (run / f"iter-{t}").path.exists())]
    columns = (Column(name, no_wrap=True) for name in ("", *(f"iter {t}" if t else "base" for t in models)))
    title = escape(f"{recipe.model}: {run.path}")
    shown = Table(*columns, title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    if recipe.response.prompt == "instances":
        of_tasks = [told(run, t) for t in models]
        for name, label in zip(Told._fields, ("classification", "kind unreadable", "no instance"), strict=True):
            shown.add_row(label, *(_count(row, name) for row in of_tasks))
    by_model = [counts(run, t) for t in models]
    for name, label in ROWS.items():
        if name != "unanswered" or any(row.unanswered is not None for row in by_model):
            shown.add_row(label, *(_count(row, name) for row in by_model))
    names = [one.name for one in recipe.evaluation]
    if "lamb" in names:
        shown.add_section()
        shares = [truly_right(run, t) for t in models]
        shown.add_row("right of written", *(_share(written) for written, _ in shares))
        shown.add_row("right of kept", *(_share(chosen) for _, chosen in shares))
    for benchmark in names:
        shown.add_section()
        base, *later = (results(run, t, benchmark) for t in models)
        shown.add_row(f"{benchmark} (chat: {recipe.chat})", style="bold")
        for score, items in base.items():
            after = [other.get(score) for other in later]
            shown.add_row(score, *(_share(row) for row in [items, *after]))
            shown.add_row("  p against base", "", *(_p(items, row) for row in after), style="dim")
    shown.caption = "shares in % with 95% Wilson intervals; p: exact McNemar over the same items" if names else None
    return shown


def comparison(recipes: Mapping[str, Recipe], out: Path) -> Table:
    """The runs of a sweep side by side: a row for each model that is there, with the first score of each benchmark."""
    names = list(dict.fromkeys(one.name for recipe in recipes.values() for one in recipe.evaluation))
    heads = [Column("setting", overflow="fold", min_width=10), Column("iter", no_wrap=True), Column("kept")]
    heads += [Column("rows", no_wrap=True), *(Column(f"{name} %", overflow="fold") for name in names)]
    shown = Table(*heads, title=escape(str(out)), box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for setting, recipe in recipes.items():
        run, name_once = Folder(out / setting, out / setting), iter([escape(setting)])
        for t in range(recipe.iterations + 1):
            scores = [next(iter(results(run, t, name).values()), None) for name in names]
            if home(run, t).has("adapter") or any(scores):
                rows = counts(run, t)
                numbers = _count(rows, "kept"), _count(rows, "trained")
                shown.add_row(next(name_once, ""), str(t) if t else "base", *numbers, *map(_share, scores))
    shown.caption = "rows: trained on; a benchmark's first score, with its 95% Wilson interval" if names else None
    return shown


def _count(row: Counts | Told, name: str) -> str:
    """A number, "-" for None; what is kept, also as a share of what was written."""
    number: int | None = getattr(row, name)
    written = row.written if isinstance(row, Counts) else None
    share = f" ({number / written:.0%})" if name == "kept" and number is not None and written else ""
    return "-" if number is None else f"{number}{share}"


def _share(items: list[bool] | None) -> str:
    if not items:
        return ""
    low, high = wilson(sum(map(bool, items)), len(items))
    return f"{100 * sum(map(bool, items)) / len(items):.3g} [{100 * low:.0f},{100 * high:.0f}]"


def _p(before: list[bool], after: list[bool] | None) -> str:
    return "" if not after else "<0.0001" if (p := mcnemar(before, after)) < 1e-4 else f"{p:.4f}"


def _json(folder: Folder, name: str) -> dict[str, Any]:
    """A JSON file's content, {} where it is not there."""
    if not folder.has(name):
        return {}
    content: dict[str, Any] = folder.json(name, dict)
    return content
