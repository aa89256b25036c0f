"""The headline scores of each benchmark over the iterations, with their 95% intervals."""

from collections.abc import Sequence
from typing import Any

from isheep.report.figures import Figure
from isheep.report.figures.theme import HEIGHT, iteration_ticks, panel_width
from isheep.report.run_data import RunData

CAPTION = (
    "The base model is iteration 0. Bars are 95% intervals over the items of the benchmark. They say nothing about "
    "another random seed. Shares are in %."
)


def draw(runs: Sequence[RunData]) -> Figure | None:
    """Return a panel for each benchmark of a run; None without scores, or for several runs."""
    if len(runs) != 1 or not (rows := score_rows(runs[0])):
        return None
    return Figure("scores", "Scores after each iteration", CAPTION, chart_of(rows), rows)


def score_rows(run: RunData) -> list[dict[str, Any]]:
    """Return a row for each model and headline score."""
    rows = []
    for benchmark in run.benchmarks:
        for score in benchmark.headline:
            for model in filter(None, score.models):
                scale = 100 if model.is_share else 1
                rows.append(
                    {
                        "benchmark": benchmark.title,
                        "score": score.label,
                        "iteration": model.iteration,
                        "value": scale * model.estimate.value,
                        "low": scale * model.estimate.low,
                        "high": scale * model.estimate.high,
                        "unit": "%" if model.is_share else "mean",
                    }
                )
    return rows


def chart_of(rows: Sequence[dict[str, Any]]) -> Any:
    """Return the panels side by side, three in a row."""
    import altair as alt

    panels, names = [], list(dict.fromkeys((row["benchmark"], row["unit"]) for row in rows))
    axis = alt.Axis(values=iteration_ticks(row["iteration"] for row in rows), format="d")
    for benchmark, unit in names:
        title = "% of the items" if unit == "%" else "mean score"
        of_panel = [row for row in rows if (row["benchmark"], row["unit"]) == (benchmark, unit)]
        base = alt.Chart(alt.InlineData(values=of_panel)).encode(
            x=alt.X("iteration:Q", title="iteration (0: base)", axis=axis),
            color=alt.Color("score:N", title=None, sort=None),
        )
        tooltip = [
            "score:N",
            "iteration:Q",
            *(alt.Tooltip(f"{key}:Q", format=".4~g") for key in ("value", "low", "high")),
        ]
        value = alt.Y("value:Q", title=title, scale=alt.Scale(zero=False))
        line = base.mark_line(point=alt.OverlayMarkDef(size=50)).encode(y=value, tooltip=tooltip)
        interval = base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q", title=title), y2="high:Q")
        width = panel_width(min(3, len(names)))
        panels.append((interval + line).properties(width=width, height=HEIGHT, title=benchmark))
    return alt.concat(*panels, columns=3).resolve_scale(color="independent")
