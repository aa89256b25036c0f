"""The paper's Table 6 as a figure: how many pairs have which two ratings, and the four quadrants of the threshold."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from isheep.recipe.schema import RATING_SCALE
from isheep.report.figures import Figure
from isheep.report.quadrants import Quadrant, quadrants
from isheep.report.run_data import IterationData, RunData

CAPTION = (
    "The plane of the paper's Table 6: the number of generated pairs with each two ratings, rounded to whole scores. "
    "The lines are the thresholds ({thresholds}). The numbers in the corners count the pairs of each quadrant. "
    "{num_unreadable} of {num_pairs} pairs have a rating that can't be read and are not in the plane."
)
# The width and height of a panel in pixels.
SIDE = 220
# The height of the margins above and below the plane, in points of the scale.
MARGIN = 1.1


def draw(runs: Sequence[RunData]) -> Figure | None:
    """Return a panel for each iteration of a run whose pairs are rated by two criteria; None for other runs."""
    if len(runs) != 1:
        return None
    rated = [iteration for iteration in runs[0].iterations if len(iteration.criteria) == 2]
    if not rated:
        return None
    rows = [row for iteration in rated for row in plane_rows(iteration)]
    corners = [quadrant for iteration in rated for quadrant in quadrants(iteration)]
    num_pairs = sum(len(iteration.assessed) for iteration in rated)
    caption = CAPTION.format(
        thresholds=", ".join(dict.fromkeys(quadrant.thresholds for quadrant in corners)),
        num_unreadable=num_pairs - sum(row["pairs"] for row in rows),
        num_pairs=num_pairs,
    )
    return Figure("table-6", "Ratings of quality and following", caption, chart_of(rated, rows, corners), rows)


def plane_rows(iteration: IterationData) -> list[dict[str, Any]]:
    """Return a row for each two whole scores that a pair of the iteration has."""
    first, second = iteration.criteria
    scores = zip(iteration.scores(first), iteration.scores(second), strict=True)
    cells = Counter((round(a), round(b)) for a, b in scores if a is not None and b is not None)
    return [
        {"iteration": iteration.number, first: a, second: b, "pairs": count} for (a, b), count in sorted(cells.items())
    ]


def chart_of(rated: Sequence[IterationData], rows: Sequence[dict[str, Any]], corners: Sequence[Quadrant]) -> Any:
    """Return a heat map for each iteration, with the thresholds as lines and the counts of the quadrants."""
    import altair as alt

    highest_count = max(row["pairs"] for row in rows)
    low, high = RATING_SCALE[0] - 0.5, RATING_SCALE[-1] + 0.5
    panels = []
    for iteration in rated:
        quality, following = iteration.criteria
        cells = [
            {
                **row,
                "x0": row[following] - 0.5,
                "x1": row[following] + 0.5,
                "y0": row[quality] - 0.5,
                "y1": row[quality] + 0.5,
            }
            for row in rows
            if row["iteration"] == iteration.number
        ]
        scale = alt.Scale(domain=[low, high], nice=False)
        # The counts of the quadrants stand in the margins above and below the scale.
        y_scale = alt.Scale(domain=[low - MARGIN, high + MARGIN], nice=False)
        axis = alt.Axis(values=list(RATING_SCALE), grid=False, labelAngle=0, labelOverlap=False)
        # Every layer names the axes: Vega-Lite merges them, and an axis without values would thin out the labels.
        x_axis = {"title": f"{following} (1 to 10)", "scale": scale, "axis": axis}
        y_axis = {"title": f"{quality} (1 to 10)", "scale": y_scale, "axis": axis}
        heat = (
            alt.Chart(alt.Data(values=cells))
            .mark_rect()
            .encode(
                x=alt.X("x0:Q", **x_axis),
                x2="x1:Q",
                y=alt.Y("y0:Q", **y_axis),
                y2="y1:Q",
                color=alt.Color(
                    "pairs:Q",
                    title="pairs",
                    scale=alt.Scale(type="sqrt", domain=[1, highest_count]),
                    legend=alt.Legend(format="d", tickMinStep=1, tickCount=4),
                ),
                tooltip=[f"{following}:Q", f"{quality}:Q", "pairs:Q"],
            )
        )
        of_panel = [quadrant for quadrant in corners if quadrant.iteration == iteration.number]
        limits = alt.Chart(alt.Data(values=[dict(zip("yx", of_panel[0].limits, strict=True))]))
        lines = [
            limits.mark_rule(strokeWidth=1.5).encode(x=alt.X("x:Q", **x_axis)),
            limits.mark_rule(strokeWidth=1.5).encode(y=alt.Y("y:Q", **y_axis)),
        ]
        layers = [heat, *lines, *(_corner(quadrant) for quadrant in of_panel)]
        panels.append(alt.layer(*layers).properties(width=SIDE, height=SIDE, title=f"iteration {iteration.number}"))
    return alt.concat(*panels, columns=3)


def _corner(quadrant: Quadrant) -> Any:
    """Return the count of a quadrant, written into its corner of the plane."""
    import altair as alt

    is_top, is_right = quadrant.passes
    text = f"{quadrant.count:,}"
    return (
        alt.Chart(alt.Data(values=[{"text": text}]))
        .mark_text(
            align="right" if is_right else "left",
            baseline="top" if is_top else "bottom",
            dx=-4 if is_right else 4,
            dy=3 if is_top else -3,
            fontWeight="bold",
        )
        .encode(
            x=alt.value("width" if is_right else 0),
            y=alt.value(0 if is_top else "height"),
            text="text:N",
        )
    )
