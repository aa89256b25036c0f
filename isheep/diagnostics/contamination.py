"""The verb contamination: rows that touch a benchmark's prompts, and scores on its clean and its touched part."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from isheep.benchmarks import Fingerprints, Result, fingerprint, load_benchmark
from isheep.errors import UserError
from isheep.evaluation.evaluate import same_prompts
from isheep.evaluation.formatting import escape_unprintable
from isheep.evaluation.results import load_result
from isheep.evaluation.statistics import Clusters, Estimate, Value, estimate, is_share
from isheep.filters.contamination import ContaminationFilter
from isheep.recipe.schema import BenchmarkSettings, Recipe
from isheep.records import Drop, Pair
from isheep.rundir.folder import RunFolder, open_run
from isheep.rundir.iterations import iteration_dir
from isheep.stages.filters import kept_pairs
from isheep.text.overlap import Overlap, find_overlap


class Touched(NamedTuple):
    """What an iteration wrote that touches a benchmark's prompts."""

    pairs: Sequence[Pair]  # D_raw^t
    kept: set[str] | None  # ids of D^t; None where nothing is chosen yet
    overlap: Overlap


class Split(NamedTuple):
    """A score of the base and of M^t on the items whose prompts nothing touched, and on the others."""

    score: str
    items: tuple[int, int]  # clean, touched
    base: tuple[Estimate | None, Estimate | None]
    model: tuple[Estimate | None, Estimate | None]
    share: bool  # of truth values; else a mean


def contamination_report(
    path: Path, names: Sequence[str], data: Path | None, ngram: int | None, rouge: float | None, rows: bool
) -> Iterator[RenderableType]:
    """What `isheep contamination` prints. `ngram` and `rouge` None are the recipe's (0: not looked at), or 13 and 0.7.

    Raises UserError where `path` is no run folder, has no pairs yet, or where a benchmark or its data are not there.
    """
    recipe, run = open_run(path)
    rule = wanted_rule(recipe, ngram, rouge)
    written = [t for t in range(1, recipe.iterations + 1) if iteration_dir(run, t).has("pairs.jsonl")]
    if not written:
        raise UserError(f"{path} has no pairs yet: see isheep status {path}")
    for one in benchmarks(recipe, names, data):
        asked = prompts_of(run, one, [0, *written])
        found = {t: touched(run, t, asked, rule) for t in written}
        yield counted(one.label, len(asked), rule, found)
        splits = {t: list(split(recipe, run, one, t, len(asked), found)) for t in written}
        yield scores(one.label, splits) if any(splits.values()) else Text(f"{one.label}: no score has a touched item\n")
        yield from unsplit(run, one, written, len(asked))
        if rows:
            yield from (card(one.label, t, some) for t, some in found.items() if some.overlap.rows)


def wanted_rule(recipe: Recipe, ngram: int | None, rouge: float | None) -> ContaminationFilter:
    """What touching means: the options, over the recipe's contamination filter, over that filter's defaults."""
    filters = [one for one in recipe.filters if isinstance(one, ContaminationFilter)]
    rule = filters[0] if filters else ContaminationFilter(kind="contamination")
    changes = {"ngram": ngram, "rouge": rouge}
    return rule.model_copy(update={name: value or None for name, value in changes.items() if value is not None})


def benchmarks(recipe: Recipe, names: Sequence[str], data: Path | None) -> list[BenchmarkSettings]:
    """The recipe's, or those named; `data` is for a single one, in place of what the recipe names."""
    if data and len(names) != 1:
        raise UserError(f"--data {data} is for one benchmark: name it, and it alone")
    try:
        known: dict[str, BenchmarkSettings] = {one.name: one for one in recipe.evaluation}
        chosen = [known.get(name) or BenchmarkSettings.model_validate({"name": name}) for name in names]
    except ValidationError as error:
        raise UserError(f"benchmark: {error.errors()[0]['msg']}; found {error.errors()[0]['input']!r}") from None
    if not chosen and not recipe.evaluation:
        raise UserError("the recipe has no benchmark in evaluation: name one")
    return [one.model_copy(update={"data": str(data)}) if data else one for one in chosen or recipe.evaluation]


def prompts_of(run: RunFolder, one: BenchmarkSettings, models: Sequence[int]) -> list[str]:
    """What a benchmark asks. Raises UserError where one of the models was scored on something else."""
    prompts = load_benchmark(one.name).prompts(one)
    expected = Fingerprints(prompt_fingerprint=fingerprint(prompts))
    for t in models:
        result = load_result(run, t, one.label)
        if result and not same_prompts(result, expected):
            raise UserError(
                f"{iteration_dir(run, t).path / 'eval' / one.label}.json was scored on other prompts than "
                f"{one.data or 'those of the benchmark now'}: give the data that it was made from as --data, with the "
                "benchmark's name"
            )
    return prompts


def touched(run: RunFolder, t: int, asked: Sequence[str], rule: ContaminationFilter) -> Touched:
    """What M^(t-1) wrote in iteration `t`, against the prompts `asked`."""
    pairs = iteration_dir(run, t).read("pairs.jsonl", Pair)
    chosen = None
    if iteration_dir(run, t).has("dropped.jsonl"):
        chosen = {pair.id for pair in kept_pairs(pairs, iteration_dir(run, t).read("dropped.jsonl", Drop))}
    return Touched(pairs, chosen, find_overlap(pairs, asked, rule.ngram, rule.rouge))


def split(
    recipe: Recipe, run: RunFolder, one: BenchmarkSettings, t: int, prompts: int, found: dict[int, Touched]
) -> Iterator[Split]:
    """The scores of M^t with touched items. Touched by what was written for M^t: in iteration t, or in all up to it
    where M^t learned from them (`training.data: all` or `start: last`)."""
    all_of_them = recipe.training.data == "all" or recipe.training.start == "last"
    hit: set[int] = set().union(*(found[s].overlap.prompts for s in found if s == t or all_of_them and s < t))
    base, now = (load_result(run, s, one.label) for s in (0, t))
    for score, place in places(one, now, prompts).items():
        models = [result.scores[score].items if result and score in result.scores else None for result in (base, now)]
        groups = now.scores[score].clusters if now else None
        parts = [[n for n, p in enumerate(place) if (p in hit) == side] for side in (False, True)]
        if parts[1]:
            of_base, of_model = ((part(items, parts[0], groups), part(items, parts[1], groups)) for items in models)
            is_proportion = is_share(models[1] or ())
            yield Split(score, (len(parts[0]), len(parts[1])), of_base, of_model, is_proportion)


def places(settings: BenchmarkSettings, result: Result | None, prompts: int) -> dict[str, list[int]]:
    """For each score the place of each item's prompt, where that is known.

    The benchmark says so itself (`locate_items`); or there is an item for each prompt, or a cluster, in their order.
    """
    locate = load_benchmark(settings.name).locate_items
    known = locate(settings) if locate else {}
    scores = result.scores if result else {}
    for name, score in scores.items():
        order = {group: place for place, group in enumerate(dict.fromkeys(score.clusters or ()))}
        if name not in known and len(order) == prompts:
            known[name] = [order[group] for group in score.clusters or ()]
        elif name not in known and len(score.items) == prompts:
            known[name] = list(range(prompts))
    return {name: known[name] for name, score in scores.items() if len(known.get(name, ())) == len(score.items)}


def part(items: Sequence[Value] | None, indices: Sequence[int], clusters: Clusters) -> Estimate | None:
    """Return a score on some of its items, None without a result."""
    if not items:
        return None
    return estimate([items[n] for n in indices], clusters and [clusters[n] for n in indices])


# --- as text


def counted(name: str, prompts: int, rule: ContaminationFilter, found: dict[int, Touched]) -> Group:
    ways = {"exact": "exact", "ngram": f"{rule.ngram} words", "rouge": f"ROUGE-L>{rule.rouge}"}
    asked = [kind for kind in ways if kind == "exact" or getattr(rule, kind)]
    columns = ("iteration", "rows", "touched", *(ways[kind] for kind in asked), "kept", "prompts")
    shown = Table(*(Column(name, justify="right") for name in columns), box=SIMPLE_HEAD, pad_edge=False)
    for t, (pairs, chosen, hits) in found.items():
        trained = "-" if chosen is None else str(sum(pairs[row].id in chosen for row in hits.rows))
        ways_found = (str(hits.kinds.get(kind, 0)) for kind in asked)
        shown.add_row(str(t), str(len(pairs)), str(len(hits.rows)), *ways_found, trained, str(len(hits.prompts)))
    title = Text(f"{name}: rows that touch one of its {prompts} prompts", style="bold")
    return Group(
        title, shown, Text("a row is counted by its surest way; kept: touched rows that were trained on\n", "dim")
    )


def scores(name: str, splits: dict[int, list[Split]]) -> Group:
    columns = ("t", "clean", "base", "now", "touched", "base", "now")
    heads = (Column("score", no_wrap=True), *(Column(name, justify="right") for name in columns))
    shown = Table(*heads, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for score in dict.fromkeys(one.score for some in splits.values() for one in some):
        for t, one in ((t, one) for t, some in splits.items() for one in some if one.score == score):
            cells = (
                (str(n), value(b, one), figure(m, one)) for n, b, m in zip(one.items, one.base, one.model, strict=True)
            )
            shown.add_row(escape(score), str(t), *(cell for side in cells for cell in side))
    title = Text(f"{name}: scores on the clean and on the touched items", style="bold")
    legend = "now: the model of iteration t; shares in %; 95% intervals as in isheep status\n"
    return Group(title, shown, Text(legend, "dim"))


def value(one: Estimate | None, of: Split) -> str:
    return "-" if one is None or math.isnan(one.value) else f"{100 * one.value if of.share else one.value:.3g}"


def figure(one: Estimate | None, of: Split) -> str:
    """A share in % or a mean, with its interval."""
    if one is None or math.isnan(one.low):
        return value(one, of)
    low, high = (f"{100 * bound:.0f}" if of.share else f"{bound:.2g}" for bound in (one.low, one.high))
    return f"{value(one, of)} \\[{low},{high}]"


def unsplit(run: RunFolder, one: BenchmarkSettings, written: Sequence[int], prompts: int) -> Iterator[Text]:
    """A line for the scores whose items can't be told by prompt."""
    found = [load_result(run, t, one.label) for t in written]
    known = {score for some in found for score in places(one, some, prompts)}
    if lost := {score for some in found if some for score in some.scores} - known:
        yield Text(f"not split, the prompts of their items are not known: {', '.join(sorted(lost))}\n")


def card(name: str, t: int, some: Touched) -> Text:
    """The touched rows of an iteration, each with how."""
    text = Text(f"iteration {t}, {name}\n", "bold")
    for row, (_, why) in sorted(some.overlap.rows.items()):
        pair = some.pairs[row]
        gone = " (dropped)" if some.kept is not None and pair.id not in some.kept else ""
        text.append(f"{pair.id}{gone}  ", "cyan").append(
            f"{escape_unprintable(why)}\n    {escape_unprintable(pair.content)}\n"
        )
    return text
