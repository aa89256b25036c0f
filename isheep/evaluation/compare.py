"""Compare two models on the same items, or two settings over the same seeds, with the statistics that a claim needs."""

import difflib
from collections.abc import Hashable, Iterator, Sequence
from math import nan
from pathlib import Path
from statistics import stdev
from typing import NamedTuple, Protocol, TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from isheep.benchmarks import Result, Score
from isheep.errors import UserError, option, shell_word
from isheep.evaluation import formatting
from isheep.evaluation.evaluate import same_fingerprints, same_prompts
from isheep.evaluation.power import ALPHA
from isheep.evaluation.score_rows import load_results
from isheep.evaluation.statistics import Comparison, compare, compare_over_seeds, correct_family, estimate, is_share
from isheep.rundir.iterations import find_run_result, model_words
from isheep.rundir.run import find_runs, open_run

# A model's results by benchmark.
Results = dict[str, Result]
# Scores that an error lists.
MAX_LISTED_SCORES = 8
LEGEND = (
    "Shares in % with 95% intervals. {p} is two-sided, and below it corrected for {tests} (Holm); in brackets: minimum "
    "detectable difference at 80% power and the corrected level. {unit}"
)
OVER_SEEDS = "Random seeds are the unit: intervals, p and sd describe how runs differ, not how items differ."
OVER_ITEMS = "Items are the unit: the result says nothing about another random seed."


class Side(NamedTuple):
    """One of the two sides: a model's results by the seed of its run, or by None for a single run."""

    label: str
    by_seed: dict[int | None, Results]


class ScoreComparison(NamedTuple):
    """A score on both sides.

    `benchmark` is its title, with the part of its items that was asked, if it is not all; `part` is that part alone.
    `is_share` tells a share from a mean; `over_seeds` holds the scores of A and B by seed. Comparisons of the same
    values have equal `values`, and are one test.
    """

    benchmark: str
    score: str
    templates: tuple[str, str]
    is_share: bool
    result: Comparison
    over_seeds: tuple[list[float], list[float]] | None
    values: Hashable
    part: str

    @property
    def full_name(self) -> str:
        return f"{self.benchmark} {self.score}"

    @property
    def names(self) -> list[str]:
        """The names of the score for `--score`."""
        return score_names(self.benchmark, self.score, self.part)


class LeftOutScore(NamedTuple):
    """A score that can't be compared, because its models have other numbers of items; 0 without the score."""

    benchmark: str
    score: str
    num_items: tuple[list[int], list[int]]

    def __str__(self) -> str:
        a, b = (" or ".join(map(str, numbers)) for numbers in self.num_items)
        return f"{self.benchmark} {self.score} is left out: A has {a} items, B has {b}"


class ModelComparison(NamedTuple):
    """What `isheep compare` prints: the two sides, the seeds that both have, and each score with its corrected p.

    `num_tests` is the number of different tests that p is corrected for. `left_out` are the scores that one side lacks,
    or has with another number of items.
    """

    sides: tuple[Side, Side]
    seeds: list[int | None]
    scores: list[ScoreComparison]
    corrected_p: list[float]
    num_tests: int
    left_out: list[LeftOutScore]

    @property
    def unit(self) -> str:
        """What the tests count as observations: "items" or "seeds"."""
        return "items" if self.seeds == [None] else "seeds"

    @property
    def alpha(self) -> float:
        """The level of one test if all of them together have 5%, at which detectable differences are computed."""
        return ALPHA / max(1, self.num_tests)


def compare_models(a: Path, b: Path | None, iterations: Sequence[int], names: Sequence[str] = ()) -> ModelComparison:
    """Compare two runs; or, without `b`, the base and an iteration of one run; or two folders of runs, by seed.

    `iterations` has no number (the result of each; the base and the result of one run), one, or one for each side.
    The result is the newest model, or the best by the recipe's stop rule.
    `names` limits the scores ("right", or "lamb right"), and with them the family of tests that p is corrected for.
    Raises UserError if the two have no score in common, or other items under the same name.
    """
    first, second = _choose_iterations(iterations, is_single=b is None)
    sides = load_side(a, first), load_side(b or a, second)
    seeds = _common_seeds(*sides)
    left_out = list(_left_out_scores(*sides, seeds))
    all_scores = list(_compare_scores(*sides, seeds))
    if not all_scores:
        raise UserError(_nothing_in_common(sides, left_out))
    for score in left_out:
        if {score.score, f"{score.benchmark} {score.score}"} & {*names}:
            raise UserError(f"{score}: score both anew")
    scores = choose_scores(all_scores, names)
    corrected_p, num_tests = correct_family([(score.values, score.result.p) for score in scores])
    return ModelComparison(sides, seeds, scores, corrected_p, num_tests, left_out)


# --- the two sides


def load_side(path: Path, iteration: int | None) -> Side:
    """Return the results of M^iteration of a run, or of each run in a folder; None is the run's result."""
    run_dirs = find_runs(path)
    if run_dirs == [path]:
        _, name, results = _load_model(path, iteration)
        return Side(f"{path}, {name}", {None: results})
    by_seed: dict[int | None, Results] = {}
    labels = []
    for run_dir in run_dirs:
        seed, name, results = _load_model(run_dir, iteration)
        if seed in by_seed:
            raise UserError(f"{path} holds two runs with random seed {seed}: give a folder with one run for each")
        by_seed[seed] = results
        labels.append(f"seed {seed} {name}")
    return Side(f"{path}: {', '.join(labels)}", by_seed)


def _load_model(run_dir: Path, iteration: int | None) -> tuple[int, str, Results]:
    """Return a run's seed, and the name and results of one of its models."""
    recipe, run = open_run(run_dir)
    results = load_results(recipe, run)
    label = ""
    if iteration is None and recipe.stop_rule:
        run_result = find_run_result(recipe, run)
        iteration, label = run_result.iteration, str(run_result)
    elif iteration is None:
        iteration = max((index for index in results if results[index]), default=0)
    label = label or model_words(iteration)
    if iteration and recipe.judge_note:
        label += f" ({recipe.judge_note})"
    if not results.get(iteration):
        raise UserError(
            f"{run_dir}, {label}: it has no results to compare; make them with isheep eval {shell_word(run_dir)}"
        )
    return recipe.seed, label, results[iteration]


def _choose_iterations(iterations: Sequence[int], is_single: bool) -> tuple[int | None, int | None]:
    """Return the iteration of each side, None for the run's result."""
    match list(iterations):
        case []:
            return (0, None) if is_single else (None, None)
        case [iteration]:
            return (0, iteration) if is_single else (iteration, iteration)
        case [first, second]:
            return first, second
    raise UserError(f"two models are compared, and {option('iteration')} is given {len(iterations)} times")


def _common_seeds(a: Side, b: Side) -> list[int | None]:
    seeds = [seed for seed in a.by_seed if seed in b.by_seed]
    if (None in a.by_seed) != (None in b.by_seed):
        raise UserError("a run is compared with a run, and a folder of runs with a folder of runs")
    if None not in seeds and len(seeds) < 2:
        labels = f"{a.label}; {b.label}"
        number = f"{len(seeds) or 'no'} random seed in common"
        raise UserError(f"{number} ({labels}): compare two runs, or run both settings with two random seeds or more")
    return seeds


# --- the scores


def _common_results(a: Side, b: Side, seeds: Sequence[int | None]) -> Iterator[tuple[str, list[Result]]]:
    """Yield the benchmarks that all models of both sides have, each with their results: those of `a`, then of `b`."""
    models = [side.by_seed[seed] for side in (a, b) for seed in seeds]
    for benchmark in models[0]:
        if all(benchmark in results for results in models):
            yield benchmark, [model[benchmark] for model in models]


def _compare_scores(a: Side, b: Side, seeds: Sequence[int | None]) -> Iterator[ScoreComparison]:
    """Yield a comparison for every score that all models of both sides have."""
    for benchmark, results in _common_results(a, b, seeds):
        if reason := fingerprint_conflict(results):
            raise UserError(f"{benchmark}: {reason}, so that they can't be compared: score both anew")
        for name, first in results[0].scores.items():
            if all(name in result.scores and len(result.scores[name].items) == len(first.items) for result in results):
                yield _compare_score(benchmark, name, results[: len(seeds)], results[len(seeds) :], seeds == [None])


def _left_out_scores(a: Side, b: Side, seeds: Sequence[int | None]) -> Iterator[LeftOutScore]:
    """Yield the scores of the benchmarks that all models have which `_compare_scores` leaves out."""
    for benchmark, results in _common_results(a, b, seeds):
        for name in dict.fromkeys(name for result in results for name in result.scores):
            numbers = [num_items(result, name) for result in results]
            if len({*numbers}) > 1:
                sides = numbers[: len(seeds)], numbers[len(seeds) :]
                yield LeftOutScore(benchmark, name, (sorted({*sides[0]}), sorted({*sides[1]})))


def fingerprint_conflict(results: Sequence[Result]) -> str | None:
    """Return why results of a benchmark can't be compared; None if items and rules are the same."""
    if same_fingerprints(*results):
        return None
    return f"the two were {'scored by other rules' if same_prompts(*results) else 'asked other items'}"


def num_items(result: Result, score: str) -> int:
    """Return the number of items of a score, 0 if the result has no such score."""
    return len(result.scores[score].items) if score in result.scores else 0


def _compare_score(
    benchmark: str, name: str, before: Sequence[Result], after: Sequence[Result], is_single: bool
) -> ScoreComparison:
    score, templates = before[0].scores[name], (before[0].template, after[0].template)
    unit = score.unit or after[0].scores[name].unit
    share = is_share(score.items, unit)
    if is_single:
        items = after[0].scores[name].items
        result = compare(score.items, items, score.clusters, unit)
        values = tuple(score.items), tuple(items), None if score.clusters is None else tuple(score.clusters)
        return ScoreComparison(benchmark, name, templates, share, result, None, values, before[0].part)
    means = [paired_means(x.scores[name], y.scores[name]) for x, y in zip(before, after, strict=True)]
    a, b = [mean[0] for mean in means], [mean[1] for mean in means]
    result = compare_over_seeds(a, b, share)
    return ScoreComparison(benchmark, name, templates, share, result, (a, b), (tuple(a), tuple(b)), before[0].part)


def paired_means(before: Score, after: Score) -> tuple[float, float]:
    """Return the means of a score on two sides over the items that both can be read for; nan without such an item."""
    pairs = [pair for pair in zip(before.items, after.items, strict=True) if None not in pair]
    first, second = (estimate(values).value for values in zip(*pairs, strict=True)) if pairs else (nan, nan)
    return first, second


def score_names(benchmark: str, score: str, part: str) -> list[str]:
    """Return the names of a score for `--score`: alone, or after the benchmark's name, with or without the part."""
    return [score, f"{benchmark.removesuffix(f' ({part})')} {score}", f"{benchmark} {score}"]


class ScoreOfBenchmark(Protocol):
    """A compared score that `--score` may choose."""

    @property
    def full_name(self) -> str: ...

    @property
    def names(self) -> list[str]: ...


S = TypeVar("S", bound=ScoreOfBenchmark)


def choose_scores(scores: Sequence[S], names: Sequence[str]) -> list[S]:
    """Return the scores with one of the names, or all without names. Raises UserError for a name that none has."""
    by_name = {name: score for score in scores for name in score.names}
    for name in names:
        if name not in by_name:
            near = [by_name[match] for match in difflib.get_close_matches(name, by_name, n=3)]
            listed = list(dict.fromkeys(score.full_name for score in near or scores))
            more = f", and {len(listed) - MAX_LISTED_SCORES} more" if len(listed) > MAX_LISTED_SCORES else ""
            raise UserError(f"no score {name!r} on both sides: {', '.join(listed[:MAX_LISTED_SCORES])}{more}")
    return [score for score in scores if not names or {*score.names} & {*names}]


def _nothing_in_common(sides: tuple[Side, Side], left_out: Sequence[LeftOutScore]) -> str:
    """Return the message that two sides can't be compared: what each has, and the way out."""
    results = [{name: result for model in side.by_seed.values() for name, result in model.items()} for side in sides]
    reason = "; ".join(map(str, left_out)) or f"A has {', '.join(results[0])}; B has {', '.join(results[1])}"
    is_part = not left_out and any(result.part for side in results for result in side.values())
    way_out = "take runs whose recipes have the same stop and num_items" if is_part else "score both with isheep eval"
    return f"the two have no score in common ({reason}): {way_out}"


# --- as a table


def comparison_table(comparison: ModelComparison) -> Group:
    """Return the sides, a table with a score in each row, and a legend."""
    lines = [f"{letter}  {side.label}" for letter, side in zip("AB", comparison.sides, strict=True)]
    first, second = (side.by_seed.keys() for side in comparison.sides)
    if unpaired := sorted(str(seed) for seed in first ^ second):
        lines.append(f"left out because only one side has them: random seeds {', '.join(unpaired)}")
    lines += map(str, comparison.left_out)
    return Group(*map(Text, lines), _table(comparison), Text(_legend(comparison), style="dim"))


def _legend(comparison: ModelComparison) -> str:
    tests = "one test" if comparison.num_tests == 1 else f"the {comparison.num_tests} tests of this table"
    if len({score.values for score in comparison.scores}) < len(comparison.scores):
        tests += ", scores with the same values counted once"
    unit = OVER_ITEMS if comparison.unit == "items" else OVER_SEEDS
    return LEGEND.format(p=f"p over {comparison.unit}", tests=tests, unit=unit)


def _table(comparison: ModelComparison) -> Table:
    columns = Column("", no_wrap=True), "A", "B", "B - A", f"p over\n{comparison.unit}\n(Holm)"
    table = Table(*columns, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    benchmark = ""
    for score, corrected in zip(comparison.scores, comparison.corrected_p, strict=True):
        if score.benchmark != benchmark:
            benchmark = score.benchmark
            table.add_section()
            table.add_row(benchmark, style="bold")
            table.add_row("  chat template", *map(escape, score.templates))
        result, share = score.result, score.is_share
        sides = (formatting.format_estimate(side, share) for side in (result.before, result.after))
        detectable = formatting.format_detectable(result.precision.detectable_at(comparison.alpha), share)
        change = f"{formatting.format_change(result.difference, share)} ({detectable})"
        table.add_row(score.score, *sides, change, formatting.format_p_value(result.p))
        interval = formatting.format_change_interval(result.low, result.high, share)
        p_value = f"({formatting.format_p_value(corrected)})"
        table.add_row(f"  {result.test}", *_below_sides(score), interval, p_value, style="dim")
    return table


def _below_sides(score: ScoreComparison) -> list[str]:
    """Return what stands below the two sides: the numbers of items, or the standard deviations over seeds."""
    if score.over_seeds:
        return [f"sd {formatting.format_detectable(stdev(values), score.is_share)}" for values in score.over_seeds]
    unreadable = f"{score.result.num_unreadable} unreadable" if score.result.num_unreadable else ""
    return [f"{score.result.num_items} items", unreadable]
