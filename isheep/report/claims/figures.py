"""The figures of the page of findings: every contrast with its interval, and the scores of every setting."""

import math
from collections.abc import Iterator, Sequence
from itertools import count
from statistics import fmean
from typing import Any

from isheep.evaluation.seed_runs import SeedRun, SeedSweep
from isheep.evaluation.statistics import estimate_over_seeds
from isheep.report.claims.measures import is_share, recipe_and_folder
from isheep.report.claims.verdicts import ClaimResults
from isheep.report.figures import Figure

# The height in pixels of a line of a figure, and the sizes of panels.
LINE_HEIGHT, CONTRASTS_WIDTH, SCORES_WIDTH, STEPS_SIZE = 15, 420, 190, 480
# The size in pixels of a letter of a label, its distance from its point, and the free space around the points.
LETTER_WIDTH, LABEL_HEIGHT, LABEL_OFFSET, PADDING = 5, 10, 8, 12
POINT_RADIUS = 4
# The scores whose panels stand side by side: form and content together, content alone, form alone.
SCORES = ("right", "content", "prompt strict")


def findings_figures(claim_results: ClaimResults, sweep: SeedSweep, measure: str) -> list[Figure]:
    """Return the figures that can be drawn: without a finished run there are none. `measure` is that of most claims."""
    benchmark = measure.partition(" ")[0]
    figures = [
        _contrast_figure(claim_results, measure),
        _score_figure(sweep, benchmark),
        _step_figure(sweep, benchmark),
    ]
    return [figure for figure in figures if figure.rows]


# --- contrasts


def _contrast_figure(claim_results: ClaimResults, usual_measure: str) -> Figure:
    import altair as alt

    rows = list(_contrast_rows(claim_results, usual_measure))
    y = alt.Y("contrast:N", sort=[row["contrast"] for row in rows], title=None, axis=alt.Axis(labelLimit=380))
    x = alt.X(
        "difference:Q", title="difference in points, with 95% interval over random seeds", scale=alt.Scale(zero=True)
    )
    colour = alt.Color("verdict:N", title="claim")
    base = alt.Chart(alt.InlineData(values=rows)).encode(y=y)
    zero = alt.Chart(alt.InlineData(values=[{"zero": 0}])).mark_rule(strokeDash=[3, 3]).encode(x="zero:Q")
    lines = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q"), x2="high:Q", color=colour)
    points = base.mark_point(filled=True, size=50, opacity=1).encode(x=x, color=colour)
    chart = alt.layer(zero, lines, points).properties(width=CONTRASTS_WIDTH, height=alt.Step(LINE_HEIGHT))
    caption = (
        "Each contrast of a score, BEFORE:AFTER with SETTING@ITERATION on both sides, in the order of the claims. To "
        "the right of 0, AFTER is better. The colour is the verdict on its claim."
    )
    return Figure("findings-contrasts", "Contrasts", caption, chart, rows)


def _contrast_rows(claim_results: ClaimResults, usual_measure: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each contrast of a score, once; a contrast without an interval is a point."""
    names = set[str]()
    for claim, tests, _, verdict in claim_results.results:
        if not is_share(claim.measure):
            continue
        for test in tests:
            measure = "" if claim.measure == usual_measure else f" ({claim.measure})"
            name, difference = f"{test.contrast}{measure}", test.comparison.difference
            if name in names:
                continue
            names.add(name)
            ends = (test.comparison.low, test.comparison.high)
            low, high = (difference if math.isnan(end) else end for end in ends)
            values = {"difference": difference, "low": low, "high": high}
            yield {"contrast": name, "verdict": verdict, **{key: 100 * value for key, value in values.items()}}


# --- scores


def _score_figure(sweep: SeedSweep, benchmark: str) -> Figure:
    import altair as alt

    rows = list(_score_rows(sweep, benchmark))
    y = alt.Y("setting:N", sort=list(dict.fromkeys(row["setting"] for row in rows)), title=None)
    panels = []
    for score in SCORES:
        values = [row for row in rows if row["score"] == score]
        base = alt.Chart(alt.InlineData(values=values)).encode(y=y)
        x = alt.X("value:Q", title=f"{score}, %", scale=alt.Scale(zero=False))
        lines = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q"), x2="high:Q")
        points = base.mark_point(filled=True, size=50, opacity=1).encode(x=x)
        panels.append(alt.layer(lines, points).properties(width=SCORES_WIDTH, height=alt.Step(LINE_HEIGHT)))
    caption = "The base models and the last model of each setting: means over random seeds with 95% intervals."
    return Figure("findings-scores", "Scores of all settings", caption, alt.hconcat(*panels), rows)


def _score_rows(sweep: SeedSweep, benchmark: str) -> Iterator[dict[str, Any]]:
    """Yield the base models and then the settings, each with its mean of every score."""
    runs = [run for run in sweep.runs if run.state == "finished" and run.opened]
    # All runs of one base model have the same scores of the base.
    models = {recipe_and_folder(run)[0].model: run for run in runs}
    bases = {"base" if len(models) == 1 else f"base {model}": [run] for model, run in models.items()}
    settings = {name: [run for run in runs if run.setting == name] for name in sweep.settings}
    for setting, members in (bases | settings).items():
        if not members:
            continue
        for score in SCORES:
            means = _means(members, benchmark, score, is_base=setting in bases)
            # A mean over some of the seeds is not comparable with the others.
            if len(means) < len(members):
                continue
            estimate = estimate_over_seeds(means, is_of_shares=True)
            ends = [estimate.value if math.isnan(end) else end for end in (estimate.low, estimate.high)]
            values = {"value": estimate.value, "low": ends[0], "high": ends[1]}
            scaled = {key: 100 * value for key, value in values.items()}
            yield {"setting": setting, "score": score, **scaled, "seeds": len(means)}


def _means(runs: Sequence[SeedRun], benchmark: str, score: str, is_base: bool = False) -> list[float]:
    """Return the mean score of the base, or of the last model, of each run that has it."""
    means = (run.mean_score(0 if is_base else max(run.results), benchmark, score) for run in runs)
    return [mean for mean in means if mean is not None]


# --- scores against training


def _step_figure(sweep: SeedSweep, benchmark: str) -> Figure:
    import altair as alt

    rows = list(_step_rows(sweep, benchmark))
    x_scale, y_scale = (_padded_scale([row[key] for row in rows]) for key in ("steps", "value"))
    x = alt.X("steps:Q", title="optimizer steps of the last model's weights", scale=x_scale)
    base = alt.Chart(alt.InlineData(values=_with_label_places(rows))).encode(x=x)
    y = alt.Y("value:Q", title=f"{SCORES[0]}, %", scale=y_scale)
    colour = alt.Color("pairs:N", title="pairs trained on")
    points = base.mark_point(filled=True, size=60, opacity=1).encode(y=y, color=colour)
    leaders = base.mark_rule(strokeWidth=0.5, opacity=0.6).encode(y=y, y2="label_value:Q")
    labels = base.mark_text(align="left", dx=LABEL_OFFSET, fontSize=9).encode(y="label_value:Q", text="setting:N")
    chart = alt.layer(leaders, points, labels).properties(width=STEPS_SIZE, height=STEPS_SIZE)
    caption = (
        "The last model of each setting, means over random seeds. The steps are those of its own weights: of all "
        "iterations together where each continues the last one's weights, and else of the last iteration. Where a "
        "label stands higher or lower than its point, a line joins the two."
    )
    return Figure("findings-steps", "Scores against training", caption, chart, rows, fits_column=False)


def _step_rows(sweep: SeedSweep, benchmark: str) -> Iterator[dict[str, Any]]:
    for setting in sweep.settings:
        runs = [run for run in sweep.runs_of(setting) if run.state == "finished" and run.opened]
        steps = [number for run in runs if (number := _steps_of_weights(run)) is not None]
        means = _means(runs, benchmark, SCORES[0])
        if not runs or len(steps) < len(runs) or len(means) < len(runs):
            continue
        pairs = "chosen by ratings" if _is_chosen_by_ratings(runs[0]) else "chosen otherwise, or all"
        yield {"setting": setting, "steps": fmean(steps), "value": 100 * fmean(means), "pairs": pairs}


def _padded_scale(values: Sequence[float]) -> Any:
    """Return a scale over values with PADDING pixels on both sides."""
    import altair as alt

    low, high = min(values, default=0.0), max(values, default=1.0)
    padding = PADDING * _unit(values)
    return alt.Scale(domain=[low - padding, high + padding], nice=False, zero=False)


def _unit(values: Sequence[float]) -> float:
    """Return how much a pixel of the figure of steps stands for, on an axis that shows these values."""
    return ((max(values) - min(values)) or 1.0) / (STEPS_SIZE - 2 * PADDING) if values else 1.0


def _with_label_places(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with the height of each label, `label_value`, so that no label lies on another one or on a point.

    From the highest point down, a label stands at the free place that is nearest to its point.
    """
    x_unit, y_unit = (_unit([row[key] for row in rows]) for key in ("steps", "value"))
    # The left and right end and the height of each point and of each placed label, in pixels.
    points = ((row["steps"] / x_unit, row["value"] / y_unit) for row in rows)
    marks = [(x - POINT_RADIUS, x + POINT_RADIUS, y) for x, y in points]
    rows_with_places = []
    for row in sorted(rows, key=lambda row: -row["value"]):
        left = row["steps"] / x_unit + LABEL_OFFSET
        right, point_height = left + LETTER_WIDTH * len(row["setting"]), row["value"] / y_unit
        heights = [height for start, end, height in marks if left < end and start < right]
        nearest_first = (point_height + sign * distance for distance in count() for sign in (-1, 1))
        free_places = (y for y in nearest_first if all(abs(y - height) >= LABEL_HEIGHT for height in heights))
        label_height = next(free_places)
        marks.append((left, right, label_height))
        rows_with_places.append(row | {"label_value": label_height * y_unit})
    return rows_with_places


def _steps_of_weights(run: SeedRun) -> float | None:
    """Return the optimizer steps that the weights of a run's last model were trained; None if they are not known."""
    last, *earlier = run.costs[::-1]
    continues = run.opened is not None and run.opened[0].training.start == "last"
    if last.steps is None or continues or not earlier:
        return last.steps
    return None if earlier[0].steps is None else last.steps - earlier[0].steps


def _is_chosen_by_ratings(run: SeedRun) -> bool:
    return run.opened is not None and any(entry.kind == "score" for entry in run.opened[0].filters)
