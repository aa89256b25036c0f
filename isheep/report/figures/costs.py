"""Time, tokens and memory of each stage."""

from collections.abc import Sequence
from typing import Any

from isheep.report.figures import Figure
from isheep.report.figures.theme import SHORT_NUMBERS, panel_width
from isheep.report.run_data import RunData
from isheep.rundir.artifacts import OTHER_STAGE, STAGES

TITLE = "What each stage took"
CAPTION = (
    "Seconds and written tokens of each stage, one piece of a bar for each iteration (0: the base model, which is only "
    "evaluated), and the most memory of the process while the stage was at work, the model and the libraries included: "
    "of the GPU if there is one, else the main memory. The tokens of ratings and of benchmarks' answers are not "
    "recorded. Of an interrupted stage the seconds are those of the last try; a file that was copied from another run "
    "has none."
)
HEIGHT_OF_BAR = 22


def draw(runs: Sequence[RunData]) -> Figure | None:
    """Return a panel for time, tokens and memory; None if the run has no events, or for several runs."""
    if len(runs) != 1 or not (rows := cost_rows(runs[0])):
        return None
    return Figure("costs", TITLE, CAPTION, chart_of(rows), rows)


def cost_rows(run: RunData) -> list[dict[str, Any]]:
    """Return a row for each stage of an iteration, in the order in which stages are executed."""
    order = {stage: index for index, stage in enumerate((*STAGES, OTHER_STAGE))}
    rows = [
        {
            "iteration": item.iteration,
            "stage": item.stage,
            "seconds": round(item.seconds, 3),
            "tokens": item.tokens,
            "peak memory, GiB": None if item.peak_memory is None else round(item.peak_memory / 2**30, 3),
            "is partial": item.is_partial,
            "is shared": item.is_shared,
        }
        for item in run.costs
    ]
    return sorted(rows, key=lambda row: (row["iteration"], order[row["stage"]]))


def chart_of(rows: Sequence[dict[str, Any]]) -> Any:
    """Return the panels side by side; their lines are stages."""
    import altair as alt

    stages = [stage for stage in (*STAGES, OTHER_STAGE) if any(row["stage"] == stage for row in rows)]
    height = HEIGHT_OF_BAR * len(stages)
    base = alt.Chart(alt.InlineData(values=list(rows))).properties(width=panel_width(4), height=height)
    tooltip = ["stage:N", "iteration:O"]

    axis = alt.Axis(ticks=False, domain=False, labelLimit=200)

    def panel(quantity: str, title: str) -> Any:
        return base.mark_bar().encode(
            y=alt.Y("stage:N", sort=stages, title=None, axis=axis),
            x=alt.X(f"{quantity}:Q", title=title, axis=alt.Axis(**SHORT_NUMBERS)),
            color=alt.Color("iteration:O", title="iteration", legend=alt.Legend(columns=8)),
            order="iteration:Q",
            tooltip=[*tooltip, f"{quantity}:Q"],
        )

    memory = base.mark_bar().encode(
        y=alt.Y("stage:N", sort=stages, title=None, axis=axis),
        x=alt.X("max(peak memory, GiB):Q", title="peak memory, GiB", axis=alt.Axis(tickCount=4)),
    )
    panels = [panel("seconds", "seconds")]
    if any(row["tokens"] for row in rows):
        panels.append(panel("tokens", "tokens written"))
    if any(row["peak memory, GiB"] for row in rows):
        panels.append(memory)
    return alt.hconcat(*panels)
