"""The page of findings in Markdown: each claim with its verdict, its tests, what the paper reports, and every run."""

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from isheep.evaluation.compute import ModelCost
from isheep.evaluation.formatting import format_change, format_change_interval, format_detectable, format_p_value
from isheep.evaluation.seed_runs import SeedRun, SeedSweep, load_seed_sweep
from isheep.plan.tables import clock, si
from isheep.report.claims.declared import Laboratory
from isheep.report.claims.figures import findings_figures
from isheep.report.claims.measures import is_share
from isheep.report.claims.verdicts import ClaimResult, ClaimResults, ClaimTest, judge_claims
from isheep.report.figure_files import write_figure
from isheep.report.figures import Figure
from isheep.report.table_formats import markdown_line, markdown_text
from isheep.rundir.atomic import write_text

INTRODUCTION = """\
# Findings: the paper's claims, tested again

Made by `isheep reproduce` from run folders alone. Base models: {models}. The lambs of the package have 0.4 to
4.9 million parameters, so a finding is about the method on such models and not about large ones. {runs} runs:
{settings} settings with the random seeds {seeds}; isheep {version}.

Each contrast is a difference over random seeds: for each seed both models answer the same items, and the test is
Student's paired t over the seeds' differences. p is corrected for all {num_tests} tests of this page together (Holm).
Differences and their 95% intervals are in points, those of a distance in its own unit, those of the best iteration in
iterations. "Detectable" is the difference that a test would find in 80% of cases at the corrected level.

{rule}"""
CONTRAST_COLUMNS = (
    "contrast (before : after)", "measure", "before", "after", "difference", "95% interval", "p", "p (Holm)",
    "detectable", "by seed", "tokens", "training steps",
)  # fmt: skip


class Findings(NamedTuple):
    """A page of findings in Markdown, and the figures that it shows, each as a file NAME.svg beside it."""

    page: str
    figures: list[Figure]


def save_findings(findings: Findings, path: Path) -> None:
    """Write the page to a path, and its figures with their numbers beside it."""
    write_text(path, findings.page)
    for figure in findings.figures:
        write_figure(figure, path.parent, ["svg"])


def make_findings(laboratory: Laboratory, sweep_dir: Path) -> Findings:
    """Return the findings of a sweep's folder. Raises UserError if it is no sweep with random seeds."""
    sweep = load_seed_sweep(sweep_dir)
    claim_results = judge_claims(laboratory.claims, sweep, laboratory.margin)
    figures = findings_figures(claim_results, sweep, laboratory.measure)
    parts = [_introduction(laboratory, sweep, claim_results), "## Verdicts\n", *_verdict_lines(claim_results), ""]
    for figure in figures:
        parts += [f"## {figure.title}\n", f"![{figure.title}]({figure.name}.svg)\n", f"{figure.caption}", ""]
    for result in claim_results.results:
        parts += [*_claim_lines(result, claim_results.alpha), ""]
    parts += ["## All runs\n", RUNS_NOTE, *_run_lines(laboratory, sweep)]
    return Findings("\n".join(parts) + "\n", figures)


def _introduction(laboratory: Laboratory, sweep: SeedSweep, claim_results: ClaimResults) -> str:
    models = dict.fromkeys(run.opened[0].model for run in sweep.runs if run.opened)
    return INTRODUCTION.format(
        models=", ".join(f"`{model}`" for model in models) or "none was run",
        runs=len(sweep.runs),
        settings=len(sweep.settings),
        seeds=", ".join(map(str, sweep.seeds)),
        version=version("isheep"),
        num_tests=claim_results.num_tests,
        rule=laboratory.rule.format(margin=100 * laboratory.margin),
    )


# --- claims


def _verdict_lines(claim_results: ClaimResults) -> Iterator[str]:
    yield markdown_line(("claim", "source", "verdict", "smallest and largest difference", "the paper"))
    yield markdown_line(["---"] * 5)
    for claim, tests, _, verdict in claim_results.results:
        differences, share = sorted(test.comparison.difference for test in tests), is_share(claim.measure)
        ends = (*differences[:1], *differences[-1:])
        span = " to ".join(dict.fromkeys(format_change(value, share) for value in ends))
        link = f"[{markdown_text(claim.claim)}](#{claim.id})"
        yield markdown_line((link, claim.source, f"**{verdict}**", span or "–", markdown_text(claim.paper)))


def _claim_lines(result: ClaimResult, alpha: float) -> Iterator[str]:
    claim, tests, missing, verdict = result
    yield f"## {claim.id}\n"
    yield f"{claim.claim} ({claim.source}.) **{verdict.capitalize()}.**"
    if claim.margin is not None:
        yield f"Margin: {claim.margin:g}, in the unit of the {claim.measure}."
    if tests:
        yield ""
        yield markdown_line(CONTRAST_COLUMNS)
        yield markdown_line(["---", "---", *["---:"] * (len(CONTRAST_COLUMNS) - 2)])
        yield from (_test_line(test, claim.measure, alpha) for test in tests)
    if missing:
        yield ""
        yield from (f"- Left out: {markdown_text(line)}." for line in missing)


def _test_line(test: ClaimTest, measure: str, alpha: float) -> str:
    comparison, share = test.comparison, is_share(measure)
    differences = (after - before for before, after in zip(*test.values, strict=True))
    return markdown_line(
        (
            f"`{test.contrast}`",
            measure,
            *(_format_value(side.value, share) for side in (comparison.before, comparison.after)),
            format_change(comparison.difference, share),
            format_change_interval(comparison.low, comparison.high, share),
            format_p_value(comparison.p),
            format_p_value(test.corrected_p),
            format_detectable(comparison.precision.detectable_at(alpha), share),
            ", ".join(format_change(value, share) for value in differences),
            " : ".join(_count(cost.tokens) for cost in test.costs),
            " : ".join(_count(cost.steps) for cost in test.costs),
        )
    )


def _format_value(value: float, share: bool) -> str:
    return f"{100 * value:.1f}%" if share else f"{value:.2f}"


def _count(value: float | None) -> str:
    return "–" if value is None else si(value)


# --- runs

RUNS_NOTE = """\
Scores by model, from the base to the last iteration. Costs are those of the last model: tokens that it took to write,
rows and steps of training, time on the clock of one process. A file that was copied from another setting counts as if
it had been made.
"""


def _run_lines(laboratory: Laboratory, sweep: SeedSweep) -> Iterator[str]:
    columns = ("run", "state", laboratory.measure, "tokens", "rows", "steps", "time")
    yield markdown_line(columns)
    yield markdown_line(["---"] * len(columns))
    for run in sweep.runs:
        state = run.state if run.state == "finished" else f"{run.state}: {run.reason}"
        cost = run.costs[-1] if run.costs else ModelCost(None, None, None, None)
        seconds = "–" if cost.seconds is None else clock(cost.seconds)
        counts = [_count(value) for value in (cost.tokens, cost.rows, cost.steps)]
        yield markdown_line((run.name, markdown_text(state), _scores(run, laboratory.measure), *counts, seconds))


def _scores(run: SeedRun, measure: str) -> str:
    """Return a score of each model of a run, as 55.9 → 66.3 → 69.3."""
    benchmark, _, name = measure.partition(" ")
    means = [run.mean_score(iteration, benchmark, name) for iteration in sorted(run.results)]
    return " → ".join(f"{100 * mean:.1f}" for mean in means if mean is not None) or "–"
