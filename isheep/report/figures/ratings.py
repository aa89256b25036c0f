"""How often each rating was given, by criterion and iteration."""

from collections import Counter
from collections.abc import Sequence
from math import floor
from typing import Any

from isheep.recipe.schema import RATING_SCALE
from isheep.report.figures import Figure
from isheep.report.figures.theme import panel_width
from isheep.report.run_data import RunData

TITLE = "Ratings of the generated pairs"
CAPTION = (
    "The share of an iteration's pairs that got each rating (1: worst, 10: best; halves are rounded up), by criterion. "
    "The model rates its own answers, so a high rating is no proof of a good answer. The colour says which ratings "
    "reach the threshold of the recipe. A rating that can't be read is no low rating, and stands apart as “?”."
)
UNREADABLE = "?"
REACHES, BELOW, NO_THRESHOLD, NOT_READ = SIDES = (
    "reaches the threshold", "below the threshold", "no threshold", "can't be read"
)  # fmt: skip


def draw(runs: Sequence[RunData]) -> Figure | None:
    """Return a grid of histograms: a row for each criterion, a column for each iteration; None without ratings."""
    if len(runs) != 1 or not (rows := rating_rows(runs[0])):
        return None
    return Figure("ratings", TITLE, CAPTION, chart_of(rows), rows)


def rating_rows(run: RunData) -> list[dict[str, Any]]:
    """Return a row for each iteration, criterion and rating, those that nobody got included."""
    rows = []
    for iteration in run.iterations:
        for criterion in iteration.criteria:
            scores = iteration.scores(criterion)
            counts = Counter(UNREADABLE if score is None else str(floor(score + 0.5)) for score in scores)
            rule = iteration.score_filter(criterion)
            limit = None if rule is None else rule.at_least if rule.at_least is not None else rule.above
            for rating in (*map(str, RATING_SCALE), UNREADABLE):
                side = NOT_READ if rating == UNREADABLE else NO_THRESHOLD
                if rule is not None and limit is not None and rating != UNREADABLE:
                    is_high = float(rating) >= limit if rule.at_least is not None else float(rating) > limit
                    side = REACHES if is_high else BELOW
                rows.append(
                    {
                        "iteration": iteration.number,
                        "criterion": criterion,
                        "rating": rating,
                        "pairs": counts[rating],
                        "share": round(100 * counts[rating] / len(scores), 3),
                        "threshold": side,
                    }
                )
    return rows


def chart_of(rows: Sequence[dict[str, Any]]) -> Any:
    """Return the histograms as a grid."""
    import altair as alt

    order = [*map(str, RATING_SCALE), UNREADABLE]
    sides = [side for side in SIDES if any(row["threshold"] == side and row["pairs"] for row in rows)]
    width = panel_width(len({row["iteration"] for row in rows}), 320)
    criteria = list(dict.fromkeys(row["criterion"] for row in rows))
    chart = alt.Chart(alt.InlineData(values=list(rows))).mark_bar()
    encoded = chart.encode(
        x=alt.X("rating:N", sort=order, title="rating", axis=alt.Axis(labelAngle=0, labelOverlap="greedy")),
        y=alt.Y("share:Q", title="% of the pairs"),
        color=alt.Color("threshold:N", sort=list(SIDES), scale=alt.Scale(domain=sides), title=None),
        tooltip=["iteration:O", "criterion:N", "rating:N", "pairs:Q", alt.Tooltip("share:Q", format=".1f")],
    )
    return encoded.properties(width=width, height=130).facet(
        column=alt.Column("iteration:O", title="iteration"), row=alt.Row("criterion:N", title=None, sort=criteria)
    )
