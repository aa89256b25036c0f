"""Scores against what the models have cost: tokens written, seconds, FLOPs."""

from collections.abc import Iterator, Sequence
from typing import Any

from isheep.report.compute import model_computes
from isheep.report.figures import Figure
from isheep.report.figures.theme import HEIGHT, SHORT_NUMBERS, panel_width
from isheep.report.run_data import RunData

TITLE = "Score against compute"
CAPTION = (
    "The first score of each benchmark, against what it took to make the model from the base: all iterations up to it, "
    "without evaluation. Numbers beside the points are iterations, 0 the base model. Tokens are those of instructions "
    "and answers, as the run counted them. FLOPs are an estimate by the formulas of isheep plan, from the measured "
    "lengths. A quantity that is not known (files copied from another run, a shape that is not known) has no panel."
)
QUANTITIES = {
    "tokens": "tokens that the model wrote",
    "seconds": "seconds",
    "flops": "FLOPs (estimated)",
}


def draw(runs: Sequence[RunData]) -> Figure | None:
    """Return a panel for each quantity and unit of scores; None without scores of a trained model, or without costs."""
    import altair as alt

    if len(runs) != 1 or not runs[0].num_trained or not (rows := compute_rows(runs[0])):
        return None
    panels = list(lines_of_panels(rows))
    if not panels:
        return None
    return Figure("compute", TITLE, CAPTION, alt.vconcat(*panels), rows)


def compute_rows(run: RunData) -> list[dict[str, Any]]:
    """Return a row for each model and benchmark: its first headline score, and the model's costs."""
    computes = {compute.iteration: compute for compute in model_computes(run)}
    rows = []
    for benchmark in run.benchmarks:
        score = benchmark.headline[0]
        for model in filter(None, score.models):
            if compute := computes.get(model.iteration):
                scale = 100 if model.is_share else 1
                values = (model.estimate.value, model.estimate.low, model.estimate.high)
                numbers = dict(zip(("value", "low", "high"), (scale * value for value in values), strict=True))
                name = {"benchmark": f"{benchmark.title}, {score.label}", "unit": "%" if model.is_share else "mean"}
                rows.append({**name, **compute._asdict(), **numbers})
    return rows


def lines_of_panels(rows: Sequence[dict[str, Any]]) -> Iterator[Any]:
    """Yield a line of panels for each unit, with a panel for each quantity that every model has."""
    import altair as alt

    for unit in dict.fromkeys(row["unit"] for row in rows):
        of_unit = [row for row in rows if row["unit"] == unit]
        quantities = [name for name in QUANTITIES if all(row[name] is not None for row in of_unit)]
        if quantities:
            yield alt.hconcat(*(_panel(of_unit, name, unit) for name in quantities))


def _panel(rows: Sequence[dict[str, Any]], quantity: str, unit: str) -> Any:
    import altair as alt

    title = "% of the items" if unit == "%" else "mean score"
    base = alt.Chart(alt.InlineData(values=list(rows))).encode(
        x=alt.X(f"{quantity}:Q", title=QUANTITIES[quantity], axis=alt.Axis(**SHORT_NUMBERS)),
        y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=False)),
        color=alt.Color("benchmark:N", title=None, sort=None),
    )
    tooltip = [alt.Tooltip("benchmark:N"), alt.Tooltip("iteration:Q")]
    tooltip += [alt.Tooltip(f"{quantity}:Q", format=",.4~g"), alt.Tooltip("value:Q", format=".1f")]
    interval = base.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q", title=title), y2="high:Q")
    line, points = base.mark_line(), base.mark_point(filled=True, size=60).encode(tooltip=tooltip)
    numbers = base.mark_text(align="left", dx=7, dy=-7).encode(text="iteration:Q", color=alt.Undefined)
    return (interval + line + points + numbers).properties(width=panel_width(3), height=HEIGHT)
