"""Scores against one value that the runs of a sweep vary: both parts of the paper's Figure 2."""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from isheep.recipe.schema import Recipe
from isheep.report.figures.theme import HEIGHT, panel_width
from isheep.report.run_data import RunData
from isheep.report.settings import Setting, Spread, group_settings, spread_over_seeds
from isheep.rundir.iterations import model_words

# The width in pixels of a panel, at most.
MOST_WIDTH = 460
ONE_SEED = "Bands are 95% intervals over the items of the benchmark: they say nothing about another random seed."
SEVERAL_SEEDS = "Bands are 95% intervals of the mean over random seeds (Student's t)."


class Position(NamedTuple):
    """A value of the x axis, and the recipe as JSON without the keys that the value stands for.

    `optional` has parts of the recipe that some values switch off (None): where they are not, they must be equal.
    """

    value: float
    remaining: dict[str, Any]
    optional: dict[str, Any]


def settings_by_value(runs: Sequence[RunData], position: Callable[[Recipe], Position | None]) -> dict[float, Setting]:
    """Return the settings by the value of the x axis, in its order; empty if the runs vary in anything else, too."""
    settings = group_settings(runs)
    positions = [position(setting.runs[0].recipe) for setting in settings]
    chosen = [entry for entry in positions if entry]
    values = [entry.value for entry in chosen]
    parts = [entry.remaining for entry in chosen]
    is_one_value_each = len(chosen) == len(settings) and len(values) == len({*values}) > 1
    if not is_one_value_each or _num_different(parts) > 1:
        return {}
    for key in chosen[0].optional:
        if _num_different([entry.optional[key] for entry in chosen if entry.optional[key] is not None]) > 1:
            return {}
    return dict(sorted(zip(values, settings, strict=True)))


def _num_different(values: Sequence[Any]) -> int:
    return len({json.dumps(value, sort_keys=True) for value in values})


def ablation_rows(settings: dict[float, Setting], axis: str) -> list[dict[str, Any]]:
    """Return a row for each benchmark, value and iteration, with the benchmark's first headline score."""
    rows = []
    for value, setting in settings.items():
        for benchmark, score, iteration, spread, share in first_scores(setting):
            scale = 100 if share else 1
            rows.append(
                {
                    "benchmark": benchmark,
                    "score": score,
                    axis: value,
                    "iteration": iteration,
                    "value": scale * spread.estimate.value,
                    "low": scale * spread.estimate.low,
                    "high": scale * spread.estimate.high,
                    "unit": "%" if share else "mean",
                    "seeds": spread.num_seeds,
                    "setting": setting.name,
                }
            )
    return rows


def first_scores(setting: Setting) -> list[tuple[str, str, int, Spread, bool]]:
    """Return (benchmark, score, iteration, spread, whether it is a share) of each benchmark's first headline score.

    Only iterations that all runs of the setting have are returned, so that a mean is always over all seeds.
    """
    results = []
    for benchmark in setting.runs[0].benchmarks:
        if not benchmark.headline:
            continue
        name = benchmark.headline[0].name
        by_run = [_scores_by_iteration(run, benchmark.benchmark, name) for run in setting.runs]
        for iteration in by_run[0]:
            if all(iteration in scores for scores in by_run):
                models = [scores[iteration] for scores in by_run]
                spread = spread_over_seeds([model.estimate for model in models], models[0].is_share)
                results.append((benchmark.title, name, iteration, spread, models[0].is_share))
    return results


def _scores_by_iteration(run: RunData, benchmark: str, name: str) -> dict[int, Any]:
    scores = [scores for scores in run.benchmarks if scores.benchmark == benchmark]
    rows = [row for entry in scores for row in entry.rows if row.name == name]
    return {model.iteration: model for row in rows for model in row.models if model}


def ablation_chart(rows: Sequence[dict[str, Any]], axis: str, title: str) -> Any:
    """Return a panel for each benchmark: a line for each iteration with its band, and the base as a dashed line."""
    import altair as alt

    iterations = sorted({row["iteration"] for row in rows if row["iteration"]})
    names = [f"iteration {number}" for number in iterations]
    panels = []
    benchmarks = list(dict.fromkeys(row["benchmark"] for row in rows))
    width = panel_width(min(3, len(benchmarks)), MOST_WIDTH)
    for benchmark in benchmarks:
        of_panel = [{**row, "model": model_words(row["iteration"])} for row in rows if row["benchmark"] == benchmark]
        lines = [row for row in of_panel if row["iteration"]]
        # The same base model stands at every value of the axis, so one value is enough.
        bases = [row for row in of_panel if not row["iteration"]][:1]
        unit, score = of_panel[0]["unit"], of_panel[0]["score"]
        y_title = f"{benchmark}: {score}" + (" (%)" if unit == "%" else "")
        y_axis = alt.Y("value:Q", title=y_title, scale=alt.Scale(zero=False))
        x_axis = alt.X(f"{axis}:O", title=title, axis=alt.Axis(labelAngle=0, grid=True), scale=alt.Scale(padding=0.3))
        # The band would make the symbols of the legend as faint as itself.
        by_name = {"title": None, "scale": alt.Scale(domain=names), "legend": alt.Legend(symbolOpacity=1)}
        color, shape = alt.Color("model:N", **by_name), alt.Shape("model:N", **by_name)
        base = alt.Chart(alt.Data(values=lines)).encode(x=x_axis)
        band = base.mark_area(opacity=0.15).encode(y=alt.Y("low:Q", title=y_title), y2="high:Q", color=color)
        line = base.mark_line().encode(y=y_axis, color=color)
        points = base.mark_point(filled=True, size=55, opacity=1).encode(y=y_axis, color=color, shape=shape)
        rule = alt.Chart(alt.Data(values=bases)).mark_rule(strokeDash=[5, 4], strokeWidth=1.5).encode(y=y_axis)
        label = (
            alt.Chart(alt.Data(values=bases))
            .mark_text(align="left", dx=4)
            .encode(x=alt.value("width"), y=y_axis, text=alt.value("base"))
        )
        panels.append(alt.layer(band, rule, line, points, label).properties(width=width, height=HEIGHT))
    return alt.concat(*panels, columns=3)


def caption_of_seeds(rows: Sequence[dict[str, Any]]) -> str:
    """Return the sentence that says what the bands are, with the number of seeds."""
    counts = sorted({row["seeds"] for row in rows})
    if counts == [1]:
        return f"One random seed. {ONE_SEED}"
    numbers = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{numbers} random seeds for each value. {SEVERAL_SEEDS}"
