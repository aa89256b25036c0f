"""The table of the contrasts of a sweep with random seeds."""

from collections.abc import Iterator
from statistics import stdev

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from isheep.evaluation import formatting
from isheep.evaluation.contrasts import Contrast, ContrastFamily, ContrastScore

# The p of more seeds would widen the table; --json has all.
MAX_LISTED_P = 5
LEGEND = (
    "A is the first side of a contrast, B the second. Shares in % with 95% intervals over the random seeds. p is that "
    "of Student's paired t test over the seeds, two-sided, and below it corrected for {tests} (Holm). In brackets: "
    "minimum detectable difference at 80% power with these seeds and the corrected level. p over items is that of each "
    "seed's own pair of models, uncorrected: it says nothing about another random seed."
)


def contrast_tables(family: ContrastFamily) -> Iterator[RenderableType]:
    """Yield a table with the scores of each contrast, what was left out, and a legend."""
    columns = Column("", overflow="fold"), "A", "B", "B - A", "p over\nseeds\n(Holm)"
    table = Table(*columns, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    previous: tuple[Contrast, str] | None = None
    for score, corrected in zip(family.scores, family.corrected_p, strict=True):
        if previous is None or previous[0] != score.contrast:
            table.add_section()
            table.add_row(f"A {escape(str(score.contrast.before))}", style="bold")
            table.add_row(f"B {escape(str(score.contrast.after))}", style="bold")
        if previous != (score.contrast, score.benchmark):
            table.add_row(f"{escape(score.benchmark)}, {_count_seeds(score)}")
        previous = score.contrast, score.benchmark
        _add_score(table, score, corrected, family.alpha)
    tests = "one test" if family.num_tests == 1 else f"the {family.num_tests} tests of this table"
    yield Group(table, Text(LEGEND.format(tests=tests), style="dim"))
    yield from (Text(f"left out: {formatting.escape_unprintable(line)}", style="yellow") for line in family.left_out)


def _add_score(table: Table, score: ContrastScore, corrected_p: float, alpha: float) -> None:
    result, share = score.over_seeds, score.is_share
    sides = (formatting.format_estimate(side, share) for side in (result.before, result.after))
    detectable = formatting.format_detectable(result.precision.detectable_at(alpha), share)
    change = f"{formatting.format_change(result.difference, share)} ({detectable})"
    table.add_row(f"  {escape(score.score)}", *sides, change, formatting.format_p_value(result.p))
    deviations = (
        f"sd {formatting.format_detectable(stdev(values), share)}" if len(values) > 1 else "" for values in score.scores
    )
    interval = formatting.format_change_interval(result.low, result.high, share)
    table.add_row(f"  {result.test}", *deviations, interval, f"({formatting.format_p_value(corrected_p)})", style="dim")
    over_items = score.over_items
    changes = [formatting.format_change(item.difference, share) for item in over_items[:MAX_LISTED_P]]
    p_values = [formatting.format_p_value(item.p) for item in over_items[:MAX_LISTED_P]]
    tests = ", ".join(dict.fromkeys(item.test for item in over_items))
    more = f"\nand {len(over_items) - MAX_LISTED_P} more" if len(over_items) > MAX_LISTED_P else ""
    seeds = "\n".join(f"seed {seed}" for seed in score.seeds[:MAX_LISTED_P])
    rows = ("", seeds + more, "\n".join(changes), "\n".join(p_values))
    table.add_row(f"  p over items: {tests}", *rows, style="dim")


def _count_seeds(score: ContrastScore) -> str:
    return "1 seed" if len(score.seeds) == 1 else f"{len(score.seeds)} seeds"
