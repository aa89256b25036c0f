"""Figure 3 of the paper: the share of the generated pairs that pass the threshold, by criterion and iteration."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

from isheep.evaluation.statistics import Estimate, estimate
from isheep.records import Grade
from isheep.report.figures import Figure
from isheep.report.figures.theme import HEIGHT, panel_width
from isheep.report.quadrants import passing_rule, threshold_words
from isheep.report.run_data import IterationData, RunData
from isheep.report.settings import Setting, group_settings, spread_over_seeds

CAPTION = (
    "As the paper's Figure 3: of all generated pairs, those whose rating passes the threshold ({threshold}). A rating "
    'that can\'t be read does not pass. "kept" are the pairs that no filter dropped.'
)
EXPECTED = (
    " Dashed: the same for the expected rating, which the judge gives on average under the probabilities of its scores."
)
ONE_SEED = " Bars are 95% intervals over the pairs (Wilson)."
SEVERAL_SEEDS = " Bars are 95% intervals of the mean over random seeds (Student's t)."

ALL_CRITERIA = {2: "both"}
KEPT = "kept"
MAX_PANELS = 12
# The width in pixels of a panel, at most.
MOST_WIDTH = 420
# The distance between two series, in iterations.
DODGE = 0.04


def draw(runs: Sequence[RunData]) -> Figure | None:
    """Return a panel for each setting whose pairs are rated; None if there is none, or too many to read."""
    settings = [setting for setting in group_settings(runs) if any(map(_is_rated, setting.runs))]
    rows = [row for setting in settings for row in setting_rows(setting)]
    if not rows or len(settings) > MAX_PANELS:
        return None
    thresholds = dict.fromkeys(row["threshold"] for row in rows if row["threshold"])
    caption = CAPTION.format(threshold=", ".join(thresholds))
    if any(row["reading"] == "expected" for row in rows):
        caption += EXPECTED
    caption += SEVERAL_SEEDS if any(row["seeds"] > 1 for row in rows) else ONE_SEED
    return Figure("figure-3", "Pairs that pass the threshold", caption, chart_of(rows), rows)


def setting_rows(setting: Setting) -> Iterator[dict[str, Any]]:
    """Yield a row for each iteration and series that all runs of a setting have."""
    by_run = [dict(chain.from_iterable(map(shares, run.iterations))) for run in setting.runs]
    for key in by_run[0]:
        if not all(key in values for values in by_run):
            continue
        iteration, series, reading, threshold = key
        counts = [values[key] for values in by_run]
        estimates = [_share(passed, total) for passed, total in counts]
        spread = spread_over_seeds(estimates, is_share=True)
        yield {
            "setting": setting.name,
            "iteration": iteration,
            "series": series,
            "reading": reading,
            "threshold": threshold,
            "passed": sum(passed for passed, _ in counts),
            "pairs": sum(total for _, total in counts),
            "value": 100 * spread.estimate.value,
            "low": 100 * spread.estimate.low,
            "high": 100 * spread.estimate.high,
            "seeds": spread.num_seeds,
        }


# (iteration, series, reading, threshold in words)
SeriesKey = tuple[int, str, str, str]


def shares(iteration: IterationData) -> Iterator[tuple[SeriesKey, tuple[int, int]]]:
    """Yield (pairs that pass, all pairs) of an iteration: for each criterion, for all criteria, and the kept pairs."""
    if not iteration.assessed:
        return
    total, number = len(iteration.assessed), iteration.number
    rules = {name: passing_rule(iteration.score_filter(name)) for name in iteration.criteria}
    readings: dict[str, Callable[[Grade], Grade]] = {"rating": lambda grade: grade}
    if any(grade.expected is not None for pair in iteration.assessed for grade in pair.grades.values()):
        readings["expected"] = lambda grade: grade.model_copy(update={"score": grade.expected})
    for reading, as_read in readings.items():
        passes = [
            {name: rules[name].reason_against({name: as_read(grade)}) is None for name, grade in pair.grades.items()}
            for pair in iteration.assessed
        ]
        for name, rule in rules.items():
            yield (number, name, reading, threshold_words(rule)), (sum(verdict[name] for verdict in passes), total)
        if len(rules) > 1:
            label = ALL_CRITERIA.get(len(rules), "all")
            yield (number, label, reading, ""), (sum(all(verdict.values()) for verdict in passes), total)
    if iteration.is_filtered:
        yield (number, KEPT, "rating", ""), (len(iteration.kept), total)


def _is_rated(run: RunData) -> bool:
    return any(iteration.assessed for iteration in run.iterations)


def _share(passed: int, total: int) -> Estimate:
    return estimate([*chain([True] * passed, [False] * (total - passed))])


def chart_of(rows: Sequence[dict[str, Any]]) -> Any:
    """Return a panel for each setting, with a line for each series."""
    import altair as alt

    series = list(dict.fromkeys(row["series"] for row in rows))
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    panels, width = [], panel_width(min(3, len(settings)), MOST_WIDTH)
    for setting in settings:
        # The series are drawn side by side, because their intervals would hide each other at one place.
        of_panel = [
            {**row, "position": row["iteration"] + DODGE * (series.index(row["series"]) - (len(series) - 1) / 2)}
            for row in rows
            if row["setting"] == setting
        ]
        numbers = sorted({row["iteration"] for row in of_panel})
        color = alt.Color("series:N", title=None, sort=series, scale=alt.Scale(domain=series))
        shape = alt.Shape("series:N", title=None, sort=series, scale=alt.Scale(domain=series))
        dash = alt.StrokeDash("reading:N", legend=None, scale=alt.Scale(domain=["rating", "expected"]))
        base = alt.Chart(alt.Data(values=of_panel)).encode(
            x=alt.X(
                "position:Q",
                title="iteration",
                axis=alt.Axis(values=numbers, format="d", grid=False),
                scale=alt.Scale(domain=[numbers[0] - 0.3, numbers[-1] + 0.3], nice=False),
            )
        )
        y_title = "share of the generated pairs (%)"
        y_axis = alt.Y("value:Q", title=y_title, scale=alt.Scale(domainMin=0, nice=True))
        line = base.mark_line().encode(y=y_axis, color=color, strokeDash=dash)
        bars = base.mark_rule(strokeWidth=1.2).encode(y=alt.Y("low:Q", title=y_title), y2="high:Q", color=color)
        points = base.mark_point(filled=True, size=55, opacity=1).encode(y=y_axis, color=color, shape=shape)
        title = {"title": setting} if len(settings) > 1 else {}
        panels.append(alt.layer(bars, line, points).properties(width=width, height=HEIGHT, **title))
    return alt.concat(*panels, columns=3)
