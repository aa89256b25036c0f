"""Contamination: generated pairs that overlap with a benchmark's prompts, and scores with and without those prompts."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from isheep.benchmarks import (
    Fingerprints,
    Result,
    Score,
    benchmark_title,
    fingerprint,
    load_benchmark,
    reported_settings,
    without_needless_sample,
)
from isheep.errors import UserError, option, shell_word
from isheep.evaluation.evaluate import same_prompts
from isheep.evaluation.formatting import escape_unprintable
from isheep.evaluation.results import load_result
from isheep.evaluation.statistics import Estimate, estimate, is_share
from isheep.filters.contamination import ContaminationFilter
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.recipe.schema import Recipe
from isheep.records import Drop, Pair
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import iteration_dir
from isheep.rundir.run import open_run
from isheep.stages.filters import kept_pairs
from isheep.text.overlap import Overlap, find_overlap


class IterationOverlap(NamedTuple):
    """The pairs of an iteration, D_raw^t, and their overlap with a benchmark's prompts.

    `kept_ids` are those of D^t; None before the filters ran.
    """

    pairs: Sequence[Pair]
    kept_ids: set[str] | None
    overlap: Overlap


class Part(NamedTuple):
    """A score of the base and of M^t on some of a benchmark's items; None for a model without this score."""

    num_items: int
    base: Estimate | None
    model: Estimate | None


class SplitScore(NamedTuple):
    """A score on the items whose prompts no generated pair overlaps with ("clean"), and on the others ("touched")."""

    name: str
    is_share: bool
    clean: Part
    touched: Part


def contamination_report(
    run_dir: Path,
    names: Sequence[str],
    data: Path | None,
    ngram: int | None,
    rouge: float | None,
    show_rows: bool,
) -> Iterator[RenderableType]:
    """Yield what `isheep contamination` prints.

    `ngram` and `rouge` of None are the recipe's, or 13 and 0.7; 0 turns a rule off. Raises UserError if `run_dir` is no
    run folder or has no pairs yet, or if a benchmark or its data do not exist.
    """
    recipe, run = open_run(run_dir)
    rule = choose_rule(recipe, ngram, rouge)
    iterations = [index for index in range(1, recipe.iterations + 1) if iteration_dir(run, index).has("pairs.jsonl")]
    if not iterations:
        raise UserError(f"{run_dir} has no pairs yet: see isheep status {shell_word(run_dir)}")
    benchmarks = [reported_settings(recipe.stop_rule, settings) for settings in choose_benchmarks(recipe, names, data)]
    # Before the first table is printed: a benchmark may be code that is not allowed, or that can't be loaded.
    for settings in benchmarks:
        load_benchmark(settings.name)
    for settings in benchmarks:
        prompts = load_prompts(run, settings, [0, *iterations])
        overlaps = {index: load_overlap(run, index, prompts, rule) for index in iterations}
        title = benchmark_title(without_needless_sample(settings))
        yield count_table(title, len(prompts), rule, overlaps)
        splits = {
            index: list(split_scores(run, settings, index, touched_prompts(recipe, index, overlaps), len(prompts)))
            for index in iterations
        }
        if any(splits.values()):
            yield split_table(title, splits)
        else:
            yield Text(f"{title}: no score has a touched item\n")
        yield from unsplit_scores(run, settings, iterations, len(prompts))
        if show_rows:
            yield from (row_card(title, index, item) for index, item in overlaps.items() if item.overlap.rows)


# --- what is compared


def choose_rule(recipe: Recipe, ngram: int | None, rouge: float | None) -> ContaminationFilter:
    """Return the definition of overlap: the options, else the recipe's contamination filter, else its defaults."""
    filters = [rule for rule in recipe.filters if isinstance(rule, ContaminationFilter)]
    rule = filters[0] if filters else ContaminationFilter(kind="contamination")
    changes = {"ngram": ngram, "rouge": rouge}
    return rule.model_copy(update={name: value or None for name, value in changes.items() if value is not None})


def choose_benchmarks(recipe: Recipe, names: Sequence[str], data: Path | None) -> list[BenchmarkSettings]:
    """Return the named benchmarks, or the recipe's. `data` replaces the data of a single one."""
    if data and len(names) != 1:
        raise UserError(f"{option('data')} {data} is for one benchmark: name it, and it alone")
    in_recipe: dict[str, BenchmarkSettings] = {settings.name: settings for settings in recipe.evaluation}
    try:
        selected = [in_recipe.get(name) or BenchmarkSettings.model_validate({"name": name}) for name in names]
    except ValidationError as error:
        raise UserError(f"benchmark: {error.errors()[0]['msg']}; found {error.errors()[0]['input']!r}") from None
    if not selected and not recipe.evaluation:
        raise UserError("the recipe has no benchmark in evaluation: name one")
    if data:
        return [settings.model_copy(update={"data": str(data)}) for settings in selected]
    return selected or list(recipe.evaluation)


def load_prompts(run: RunFolder, settings: BenchmarkSettings, iterations: Sequence[int]) -> list[str]:
    """Return a benchmark's prompts. Raises UserError if one of the models was scored on other prompts."""
    prompts = load_benchmark(settings.name).prompts(settings)
    expected = Fingerprints(prompt_fingerprint=fingerprint(prompts))
    for iteration in iterations:
        result = load_result(run, iteration, settings.label)
        if result and not same_prompts(result, expected):
            file = iteration_dir(run, iteration).path / "eval" / f"{settings.label}.json"
            data = settings.data or "those of the benchmark now"
            raise UserError(
                f"{file} was scored on other prompts than {data}: give the data that it was made from as "
                f"{option('data')}, with the benchmark's name"
            )
    return prompts


def load_overlap(run: RunFolder, iteration: int, prompts: Sequence[str], rule: ContaminationFilter) -> IterationOverlap:
    """Compare what M^(t-1) wrote in an iteration with the prompts."""
    folder = iteration_dir(run, iteration)
    pairs, kept_ids = folder.read("pairs.jsonl", Pair), None
    if folder.has("dropped.jsonl"):
        kept_ids = {pair.id for pair in kept_pairs(pairs, folder.read("dropped.jsonl", Drop))}
    return IterationOverlap(pairs, kept_ids, find_overlap(pairs, prompts, rule.ngram, rule.rouge))


def touched_prompts(recipe: Recipe, iteration: int, overlaps: Mapping[int, IterationOverlap]) -> set[int]:
    """Return the prompts that overlap with the pairs generated for M^iteration.

    These are the pairs of this iteration; if M^iteration also learned from those of earlier ones (`training.data: all`
    or `start: last`), the pairs of all iterations up to this one.
    """
    learns_from_all = recipe.training.data == "all" or recipe.training.start == "last"
    indices = [index for index in overlaps if index == iteration or (learns_from_all and index < iteration)]
    return set().union(*(overlaps[index].overlap.prompts for index in indices))


# --- scores on clean and touched items


def split_scores(
    run: RunFolder, settings: BenchmarkSettings, iteration: int, touched: set[int], num_prompts: int
) -> Iterator[SplitScore]:
    """Yield the scores of M^iteration that have touched items, on both parts."""
    base, result = (load_result(run, index, settings.label) for index in (0, iteration))
    if result is None:
        return
    for name, prompt_of_item in locate_items(settings, result, num_prompts).items():
        score, base_score = result.scores[name], base.scores.get(name) if base else None
        hit = [index for index, prompt in enumerate(prompt_of_item) if prompt in touched]
        clean = [index for index, prompt in enumerate(prompt_of_item) if prompt not in touched]
        if hit:
            parts = [
                Part(len(indices), _estimate_part(base_score, indices), _estimate_part(score, indices))
                for indices in (clean, hit)
            ]
            yield SplitScore(name, is_share(score.items, score.unit), *parts)


def locate_items(settings: BenchmarkSettings, result: Result | None, num_prompts: int) -> dict[str, list[int]]:
    """Return, for each score whose items can be located, the index of each item's prompt.

    Either the benchmark locates its items; or the score has one item, or one cluster, for each prompt in their order.
    """
    locate = load_benchmark(settings.name).locate_items
    located = dict(locate(settings)) if locate else {}
    scores = result.scores if result else {}
    for name, score in scores.items():
        clusters = score.clusters or ()
        index_of = {cluster: index for index, cluster in enumerate(dict.fromkeys(clusters))}
        if name not in located and len(index_of) == num_prompts:
            located[name] = [index_of[cluster] for cluster in clusters]
        elif name not in located and len(score.items) == num_prompts:
            located[name] = list(range(num_prompts))
    return {name: located[name] for name, score in scores.items() if len(located.get(name, ())) == len(score.items)}


def unsplit_scores(
    run: RunFolder, settings: BenchmarkSettings, iterations: Sequence[int], num_prompts: int
) -> Iterator[Text]:
    """Yield a line for the scores whose items can't be located."""
    results = [result for index in iterations if (result := load_result(run, index, settings.label))]
    located = {name for result in results for name in locate_items(settings, result, num_prompts)}
    if names := {name for result in results for name in result.scores} - located:
        yield Text(f"not split because the prompts of their items are not known: {', '.join(sorted(names))}\n")


def _estimate_part(score: Score | None, indices: Sequence[int]) -> Estimate | None:
    """Return a score on some of its items, with the interval that the whole score would have on as many items."""
    if score is None:
        return None
    clusters = [score.clusters[index] for index in indices] if score.clusters else None
    return estimate([score.items[index] for index in indices], clusters, score.unit)


# --- as text


def count_table(
    benchmark: str, num_prompts: int, rule: ContaminationFilter, overlaps: Mapping[int, IterationOverlap]
) -> Group:
    """Return the numbers of overlapping pairs by iteration and kind of overlap."""
    labels = {"exact": "exact", "ngram": f"{rule.ngram} words", "rouge": f"ROUGE-L>{rule.rouge}"}
    kinds = [kind for kind in labels if kind == "exact" or getattr(rule, kind)]
    columns = ("iteration", "pairs", "touched", *(labels[kind] for kind in kinds), "kept", "prompts")
    table = Table(*(Column(name, justify="right") for name in columns), box=SIMPLE_HEAD, pad_edge=False)
    for iteration, (pairs, kept_ids, overlap) in overlaps.items():
        num_kept = "-" if kept_ids is None else str(sum(pairs[row].id in kept_ids for row in overlap.rows))
        by_kind = (str(overlap.kinds.get(kind, 0)) for kind in kinds)
        numbers = str(len(pairs)), str(len(overlap.rows)), *by_kind, num_kept, str(len(overlap.prompts))
        table.add_row(str(iteration), *numbers)
    title = Text(f"{benchmark}: pairs that overlap with one of its {num_prompts} prompts (touched)", style="bold")
    legend = "each pair is counted once, by its closest overlap; kept: touched pairs that no filter dropped\n"
    return Group(title, table, Text(legend, "dim"))


def split_table(benchmark: str, splits: Mapping[int, Sequence[SplitScore]]) -> Group:
    """Return a row for each score and iteration, with the clean and the touched items side by side."""
    columns = ("iteration", "clean", "base", "model", "touched", "base", "model")
    headings = (Column("score", no_wrap=True), *(Column(name, justify="right") for name in columns))
    table = Table(*headings, box=SIMPLE_HEAD, padding=0, pad_edge=False)
    for name in dict.fromkeys(split.name for scores in splits.values() for split in scores):
        for iteration, scores in splits.items():
            for split in scores:
                if split.name == name:
                    cells = [cell for part in (split.clean, split.touched) for cell in _part_cells(part, split)]
                    table.add_row(escape(name), str(iteration), *cells)
    title = Text(f"{benchmark}: scores on the clean and on the touched items", style="bold")
    legend = "model: that of the iteration; shares in %; 95% intervals as in isheep status\n"
    return Group(title, table, Text(legend, "dim"))


def _part_cells(part: Part, split: SplitScore) -> list[str]:
    return [str(part.num_items), format_value(part.base, split), format_interval(part.model, split)]


def format_value(result: Estimate | None, split: SplitScore) -> str:
    """Return a share in % or a mean."""
    if result is None or math.isnan(result.value):
        return "-"
    return f"{100 * result.value if split.is_share else result.value:.3g}"


def format_interval(result: Estimate | None, split: SplitScore) -> str:
    """Return a share in % or a mean, with its interval."""
    value = format_value(result, split)
    if result is None or math.isnan(result.low):
        return value
    low, high = (f"{100 * end:.0f}" if split.is_share else f"{end:.2g}" for end in (result.low, result.high))
    return f"{value} \\[{low},{high}]"


def row_card(benchmark: str, iteration: int, item: IterationOverlap) -> Text:
    """Return the touched pairs of an iteration, each with its overlap."""
    text = Text(f"iteration {iteration}, {benchmark}\n", "bold")
    for row, (_, reason) in sorted(item.overlap.rows.items()):
        pair = item.pairs[row]
        dropped = " (dropped)" if item.kept_ids is not None and pair.id not in item.kept_ids else ""
        text.append(f"{pair.id}{dropped}  ", "cyan")
        text.append(f"{escape_unprintable(reason)}\n    {escape_unprintable(pair.content)}\n")
    return text
