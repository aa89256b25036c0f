"""What is printed of a sweep with random seeds: scores over the seeds with their costs, and how every run ended."""

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from isheep.evaluation import formatting
from isheep.evaluation.compute import ModelCost, mean_cost
from isheep.evaluation.score_rows import ModelScore
from isheep.evaluation.seed_runs import SeedRun, SeedSweep, SettingScore, setting_scores
from isheep.plan.tables import clock, si

LEGEND = (
    "first score of each benchmark, shares in %: mean over the random seeds with Student's 95% interval. Costs are "
    "means over the runs, of all that a model needed but evaluation: tokens of instructions and answers, rows and "
    "steps of training, time on the clock. A file that was copied costs what it cost the other run."
)
RUNS_LEGEND = "runs: scores and costs of the newest model; intervals are over items"


def seed_tables(sweep: SeedSweep) -> Iterator[RenderableType]:
    """Yield the scores of each setting over the random seeds, and every run with its state."""
    scores = setting_scores(sweep)
    first_scores = {(score.setting, score.iteration, score.benchmark): score for score in reversed(scores)}
    benchmarks = list(dict.fromkeys(score.benchmark for score in scores))
    yield Text(str(sweep.path), style="bold")
    yield Group(_settings_table(sweep, first_scores, benchmarks), Text(LEGEND, style="dim"))
    yield Group(_runs_table(sweep, benchmarks), Text(RUNS_LEGEND, style="dim"))
    for run in sweep.runs:
        if run.state != "finished":
            yield Text(f"{run.name}: {run.state}: {formatting.escape_unprintable(run.reason)}", style="yellow")
    notes = {run.opened[0].judge_note: run.setting for run in sweep.runs if run.opened and run.opened[0].judge_note}
    yield from (Text(f"{setting}: {note}", style="yellow") for note, setting in notes.items())


def _settings_table(
    sweep: SeedSweep, first_scores: dict[tuple[str, int, str], SettingScore], benchmarks: Sequence[str]
) -> Table:
    columns = [Column("setting", overflow="fold", min_width=10), Column("it"), Column("seeds", no_wrap=True)]
    columns += [Column(name, overflow="fold") for name in benchmarks]
    columns += [Column(name, justify="right") for name in ("tokens", "rows", "steps", "time")]
    table = Table(*columns, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for setting in sweep.settings:
        label = setting
        for iteration in range(sweep.num_iterations(setting) + 1):
            runs = [run for run in sweep.runs_of(setting) if run.has_model(iteration)]
            if not runs:
                continue
            scores = [first_scores.get((setting, iteration, name)) for name in benchmarks]
            scored = [score for score in scores if score]
            num_seeds = max((len(score.by_seed) for score in scored), default=len(runs))
            cost = scored[0].cost if scored else mean_cost([run.cost(iteration) for run in runs])
            cells = [formatting.format_estimate(score.estimate, score.is_share) if score else "" for score in scores]
            name = str(iteration) if iteration else "base"
            table.add_row(escape(label), name, f"{num_seeds} of {len(sweep.seeds)}", *cells, *_cost_cells(cost))
            label = ""
        if label:
            table.add_row(escape(setting), "-", f"0 of {len(sweep.seeds)}")
    return table


def _runs_table(sweep: SeedSweep, benchmarks: Sequence[str]) -> Table:
    columns = [Column("run", overflow="fold", min_width=10), Column("state"), Column("it")]
    columns += [Column(name, overflow="fold") for name in benchmarks]
    columns += [Column(name, justify="right") for name in ("tokens", "rows", "steps", "time")]
    table = Table(*columns, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for run in sweep.runs:
        iteration = max((number for number in run.results if run.has_model(number)), default=None)
        if iteration is None:
            table.add_row(escape(run.name), run.state, "-")
            continue
        cells = (_first_score(run, iteration, name) for name in benchmarks)
        name = str(iteration) if iteration else "base"
        table.add_row(escape(run.name), run.state, name, *cells, *_cost_cells(run.cost(iteration)))
    return table


def _first_score(run: SeedRun, iteration: int, benchmark: str) -> str:
    result = run.results.get(iteration, {}).get(benchmark)
    first = next(iter(result.scores.values()), None) if result else None
    if first is None:
        return ""
    score = ModelScore(iteration, first, None)
    return formatting.format_estimate(score.estimate, score.is_share)


def _cost_cells(cost: ModelCost) -> list[str]:
    counts = ["-" if value is None else si(value) for value in (cost.tokens, cost.rows, cost.steps)]
    return [*counts, "-" if cost.seconds is None else clock(cost.seconds)]
