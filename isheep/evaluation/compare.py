"""The verb compare: two models on the same items, or two settings over the same seeds, with all that a claim needs."""

import difflib
from collections.abc import Iterator, Sequence
from math import isnan
from pathlib import Path
from statistics import stdev
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from isheep.benchmarks import Result
from isheep.errors import UserError
from isheep.evaluation import formatting
from isheep.evaluation.evaluate import same_fingerprints, same_prompts
from isheep.evaluation.results import load_result
from isheep.evaluation.statistics import Comparison, Value, compare, compare_over_seeds, estimate, holm
from isheep.evaluation.tables import begun, benchmarks
from isheep.rundir.folder import open_run

Scores = dict[str, Result]  # a model's results by benchmark
LEGEND = (
    "Shares in %. Intervals of 95%; p is two-sided, below it corrected for the {number} tests of this table (Holm); in "
    "brackets the least difference that this comparison would find at 80% power. "
)
MOST = 8  # scores that an error names
OVER_SEEDS = "Seeds are the unit: intervals, p and sd say how runs differ, and not how items do."
OVER_ITEMS = "Items are the unit: this says nothing about another seed."


class Side(NamedTuple):
    """One of the two: a model's results by the seed of its run, or by None where it is a single run."""

    label: str
    by_seed: dict[int | None, Scores]


class ComparisonRow(NamedTuple):
    """A score on both sides, its values telling a share from a mean."""

    benchmark: str
    score: str
    templates: tuple[str, str]
    values: Sequence[Value]
    found: Comparison
    below: tuple[str, str]  # what stands under the two sides


def comparison_tables(a: Path, b: Path | None, iterations: Sequence[int], names: Sequence[str]) -> Group:
    """What `isheep compare` prints: two runs; one run's base and an iteration of it; or folders of runs, by seed.

    `iterations` has none (the newest of each; the base and the newest of one run), one, or one for each side. `names`
    declares the family of tests that p is corrected for, by score ("right", or "lamb right"); all without it. Raises
    UserError where the two have nothing in common, or other items under the same name.
    """
    first, second = which(iterations, alone=b is None)
    sides = side(a, first), side(b or a, second)
    seeds = common(*sides)
    rows = family(list(matched(*sides, seeds)), names)
    tests = sum(not isnan(row.found.p) for row in rows)
    legend = LEGEND.format(number=tests) + (OVER_ITEMS if seeds == [None] else OVER_SEEDS)
    lines = [f"{letter}  {one.label}" for letter, one in zip("AB", sides, strict=True)]
    if foreign := sorted(str(seed) for seed in {*sides[0].by_seed, *sides[1].by_seed} - {*seeds}):
        lines.append(f"left out, for they are on one side only: seeds {', '.join(foreign)}")
    return Group(*map(Text, lines), table(rows), Text(legend, style="dim"))


def which(iterations: Sequence[int], alone: bool) -> tuple[int | None, int | None]:
    """The iteration of each side; None is its newest."""
    match list(iterations):
        case []:
            return (0, None) if alone else (None, None)
        case [t]:
            return (0, t) if alone else (t, t)
        case [s, t]:
            return s, t
    raise UserError(f"two models are compared, and --iteration is given {len(iterations)} times")


def side(path: Path, t: int | None) -> Side:
    """The results of M^t of a run, or of each run in a folder."""
    if (path / "recipe.yaml").is_file():
        _, name, scores = model(path, t)
        return Side(f"{path}, {name}", {None: scores})
    found: dict[int | None, Scores] = {}
    labels = []
    for run in sorted(path.glob("*/recipe.yaml")):
        seed, name, scores = model(run.parent, t)
        if seed in found:
            raise UserError(f"{path} holds two runs with seed {seed}: give a folder with one run for each seed")
        found[seed] = scores
        labels.append(f"seed {seed} {name}")
    if not found:
        raise UserError(f"{path} is neither a run folder nor a folder of runs: give the --out of an isheep run")
    return Side(f"{path}: {', '.join(labels)}", found)


def model(path: Path, t: int | None) -> tuple[int, str, Scores]:
    """A run's seed, and the name and results of M^t, for None of the newest that has results."""
    recipe, run = open_run(path)
    models = begun(recipe, run)
    names = benchmarks(recipe, run, models)
    found = {s: {name: one for name in names if (one := load_result(run, s, name))} for s in models}
    chosen = max((s for s in models if found[s]), default=0) if t is None else t
    name = f"iteration {chosen}" if chosen else "base"
    if not found.get(chosen):
        raise UserError(f"{path}, {name}: it has no results to compare; make them with isheep eval {path}")
    return recipe.seed, name, found[chosen]


def common(a: Side, b: Side) -> list[int | None]:
    """The seeds that both sides have."""
    seeds = [seed for seed in a.by_seed if seed in b.by_seed]
    if (None in a.by_seed) != (None in b.by_seed):
        raise UserError("a run is compared with a run, and a folder of runs with a folder of runs")
    if None not in seeds and len(seeds) < 2:
        raise UserError(f"{len(seeds)} seeds in common ({a.label}; {b.label}): compare two runs, or run more seeds")
    return seeds


def matched(a: Side, b: Side, seeds: Sequence[int | None]) -> Iterator[ComparisonRow]:
    """Every score that all of these models have. Raises UserError where they were asked other items."""
    pairs = [(a.by_seed[seed], b.by_seed[seed]) for seed in seeds]
    flat = [scores for pair in pairs for scores in pair]
    for name in (name for name in flat[0] if all(name in scores for scores in flat)):
        results = [scores[name] for scores in flat]
        if not same_fingerprints(*results):
            what = "scored by other rules" if same_prompts(*results) else "asked other items"
            raise UserError(f"{name}: the two were {what}, so that they can't be compared: score both anew")
        templates = results[0].template, results[1].template
        for score, first in results[0].scores.items():
            if any(score not in one.scores or len(one.scores[score].items) != len(first.items) for one in results):
                continue  # not a score of them all
            values, clusters = first.items, first.clusters
            if seeds == [None]:
                found = compare(values, results[1].scores[score].items, clusters)
                below = f"{found.num_items} items", f"{found.num_unreadable} unread" if found.num_unreadable else ""
            else:
                before, after = ([estimate(one.scores[score].items).value for one in results[n::2]] for n in (0, 1))
                found = compare_over_seeds(before, after)
                below = (
                    f"sd {formatting.format_detectable(stdev(before), values)}",
                    f"sd {formatting.format_detectable(stdev(after), values)}",
                )
            yield ComparisonRow(name, score, templates, values, found, below)


def family(rows: Sequence[ComparisonRow], names: Sequence[str]) -> list[ComparisonRow]:
    """The rows that are named, all where none is. Raises UserError where there is no such score, or none at all."""
    called = {name: row for row in rows for name in (row.score, f"{row.benchmark} {row.score}")}
    if not rows or (foreign := [name for name in names if name not in called]):
        wrong = f"no score {foreign[0]!r} on both sides" if rows else "the two have no score in common"
        near = [called[name] for name in difflib.get_close_matches(foreign[0], called, n=3)] if rows else []
        ours = list(dict.fromkeys(f"{row.benchmark} {row.score}" for row in near or rows))
        more = f", and {len(ours) - MOST} more" * (len(ours) > MOST)
        raise UserError(f"{wrong}: {', '.join(ours[:MOST]) or 'score both with isheep eval'}{more}")
    return [row for row in rows if not names or {row.score, f"{row.benchmark} {row.score}"} & {*names}]


def table(rows: Sequence[ComparisonRow]) -> Table:
    columns = Column("", no_wrap=True), "A", "B", "B - A (finds)", "p (Holm)"
    shown = Table(*columns, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    above = ""
    for row, corrected in zip(rows, holm([row.found.p for row in rows]), strict=True):
        if row.benchmark != above:
            shown.add_section()
            shown.add_row(row.benchmark, *map(escape, row.templates), style="bold")
            above = row.benchmark
        one, values = row.found, row.values
        sides = (formatting.format_estimate(side, values) for side in (one.before, one.after))
        detectable = formatting.format_detectable(one.detectable, values)
        change = f"{formatting.format_change(one.difference, values)} ({detectable})"
        shown.add_row(row.score, *sides, change, formatting.format_p_value(one.p))
        interval = formatting.format_change_interval(one.low, one.high, values)
        shown.add_row(f"  {one.test}", *row.below, interval, f"({formatting.format_p_value(corrected)})", style="dim")
    return shown
