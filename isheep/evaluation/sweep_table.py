"""The table of a sweep: the runs below each other, a row for each model."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from isheep.benchmarks import Result, benchmark_title, reported_benchmarks
from isheep.evaluation import formatting
from isheep.evaluation.counts import count_rows
from isheep.evaluation.results import load_result
from isheep.recipe.schema import Recipe
from isheep.recipe.sweeps import folder_of_setting
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import iteration_dir


def sweep_table(recipes: Mapping[str, Recipe], output_dir: Path) -> Group:
    """Return a row for each model that exists, with the first score of each benchmark. Keys are names of settings."""
    folders = {setting: folder_of_setting(output_dir, setting) for setting in recipes}
    runs = {setting: RunFolder(folder, folder) for setting, folder in folders.items()}
    titles = {setting: _titles(recipe, runs[setting]) for setting, recipe in recipes.items()}
    names = list(dict.fromkeys(title for by_label in titles.values() for title in by_label.values()))
    columns = [Column("setting", overflow="fold", min_width=10), Column("iteration", overflow="fold"), Column("kept")]
    columns += [Column("rows", no_wrap=True), *(Column(name, overflow="fold") for name in names)]
    table = Table(*columns, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    templates: dict[str, dict[str, None]] = {name: {} for name in names}
    for setting, recipe in recipes.items():
        run, label = runs[setting], setting
        for iteration, results in _models(recipe, run, list(titles[setting])):
            by_title = {titles[setting][name]: result for name, result in results.items()}
            for name, result in by_title.items():
                if result and result.template:
                    templates[name][result.template] = None
            table.add_row(escape(label), *_cells(run, iteration, [by_title.get(name) for name in names]))
            label = ""
    judge_notes = [
        Text(f"{setting}: {recipe.judge_note}", style="yellow")
        for setting, recipe in recipes.items()
        if recipe.judge_note
    ]
    if not names:
        return Group(Text(str(output_dir), style="bold"), table, *judge_notes)
    listed = "; ".join(f"{name} ({', '.join(templates[name])})" for name in names if templates[name])
    legend = f"rows: training rows; first score of each benchmark, shares in %; templates: {listed}"
    return Group(Text(str(output_dir), style="bold"), table, *judge_notes, Text(legend, style="dim"))


def _titles(recipe: Recipe, run: RunFolder) -> dict[str, str]:
    """Return the titles of a recipe's benchmarks by their labels: with the part of the items that was, or is, asked."""
    titles = {settings.label: benchmark_title(settings) for settings in reported_benchmarks(recipe)}
    for label in titles:
        results = (load_result(run, iteration, label) for iteration in range(recipe.iterations + 1))
        if result := next(filter(None, results), None):
            titles[label] = result.title(label)
    return titles


def _models(recipe: Recipe, run: RunFolder, names: Sequence[str]) -> Iterator[tuple[int, dict[str, Result | None]]]:
    """Yield each model that is trained or evaluated, with its results by benchmark."""
    for iteration in range(recipe.iterations + 1):
        results = {name: load_result(run, iteration, name) for name in names}
        if iteration_dir(run, iteration).has("adapter") or any(results.values()):
            yield iteration, results


def _cells(run: RunFolder, iteration: int, results: Sequence[Result | None]) -> Iterator[str]:
    counts = count_rows(run, iteration)
    yield str(iteration) if iteration else "base"
    yield formatting.format_part(counts.kept, counts.generated)
    yield formatting.format_number(counts.trained)
    for result in results:
        first = next(iter(result.scores.values()), None) if result else None
        yield formatting.format_score(first.items, first.clusters, first.unit) if first else ""
