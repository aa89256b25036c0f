"""Diversity of the generated data over the iterations."""

from collections.abc import Sequence
from typing import Any

from isheep.report.figures import Figure
from isheep.report.figures.theme import HEIGHT, iteration_ticks, panel_width
from isheep.report.run_data import RunData

TITLE = "Diversity of the generated data"
CAPTION = (
    "A model that learns from its own text may write ever fewer kinds of it. Near duplicates: texts whose ROUGE-L "
    "similarity to another one of the iteration is above 0.7. Distinct-2: different pairs of words over all pairs of "
    "words. Entropy of first words: 1 bit less means half as many openings. Length: the median, with a band from the "
    "lower to the upper quartile. The metrics need no judge and no ground truth."
)
# Each panel: its title, the title of its axis, the factor of its values, and its series by metric.
PANELS = (
    (
        "Repetition",
        "%",
        100,
        {
            "near_duplicates": "instructions: near duplicates",
            "answers_near_duplicates": "answers: near duplicates",
            "refused_by_novelty": "instructions: rejected as known",
        },
    ),
    ("Distinct-2", "share of different word pairs", 1, {
        "distinct_2": "instructions", "answers_distinct_2": "answers",
    }),
    ("Openings", "entropy of first words, bits", 1, {"first_word_entropy": "instructions"}),
    ("Length of the answers", "tokens", 1, {"tokens_median": "median"}),
)  # fmt: skip
BAND = ("tokens_quarter", "tokens_three_quarters")


def draw(runs: Sequence[RunData]) -> Figure | None:
    """Return a panel for each group of metrics; None before the first iteration is measured."""
    if len(runs) != 1 or not (rows := diversity_rows(runs[0])):
        return None
    return Figure("diversity", TITLE, CAPTION, chart_of(rows), rows)


def diversity_rows(run: RunData) -> list[dict[str, Any]]:
    """Return a row for each iteration and metric of a panel; the length of the answers has its quartiles too."""
    rows = []
    for iteration in run.iterations:
        metrics = iteration.diversity or {}
        for title, _, factor, series in PANELS:
            for name, label in series.items():
                if metrics.get(name) is None:
                    continue
                row = {"panel": title, "iteration": iteration.number, "series": label, "value": factor * metrics[name]}
                if name == "tokens_median":
                    row |= {"low": metrics[BAND[0]], "high": metrics[BAND[1]]}
                rows.append(row)
    return rows


def chart_of(rows: Sequence[dict[str, Any]]) -> Any:
    """Return the panels in two lines."""
    import altair as alt

    panels = []
    axis = alt.Axis(values=iteration_ticks(row["iteration"] for row in rows), format="d")
    for title, unit, _, _ in PANELS:
        of_panel = [row for row in rows if row["panel"] == title]
        if not of_panel:
            continue
        base = alt.Chart(alt.InlineData(values=of_panel)).encode(
            x=alt.X("iteration:Q", title="iteration", axis=axis),
        )
        line = base.mark_line(point=True).encode(
            y=alt.Y("value:Q", title=unit),
            color=alt.Color("series:N", title=None, sort=None),
            tooltip=["iteration:Q", "series:N", alt.Tooltip("value:Q", format=".3~f")],
        )
        layers = [line]
        if "low" in of_panel[0]:
            layers.insert(0, base.mark_area(opacity=0.2).encode(y=alt.Y("low:Q", title=unit), y2="high:Q"))
        panels.append(alt.layer(*layers).properties(width=panel_width(2), height=HEIGHT - 60, title=title))
    return alt.concat(*panels, columns=2).resolve_scale(color="independent")
