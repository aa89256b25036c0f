"""The loss of each training: on the rows that it learns from, and on the rows that it sets aside."""

from collections.abc import Sequence
from typing import Any

from isheep.report.figures import Figure
from isheep.report.figures.theme import HEIGHT, panel_width, whole_ticks
from isheep.report.run_data import RunData

TITLE = "Loss of the trainings"
CAPTION = (
    "Cross-entropy of the answers' tokens, in nats per token: on the training rows (the mean since the point before), "
    "and on the held-out rows, which training does not learn from. If the held-out loss rises while the training loss "
    "falls, the training learns its rows by heart. Losses of different iterations are about different rows."
)
KINDS = {"loss": "training rows", "eval_loss": "held-out rows"}


def draw(runs: Sequence[RunData]) -> Figure | None:
    """Return a panel for each kind of rows; None if no training wrote its losses, or for several runs."""
    if len(runs) != 1 or not (rows := loss_rows(runs[0])):
        return None
    return Figure("loss", TITLE, CAPTION, chart_of(rows), rows)


def loss_rows(run: RunData) -> list[dict[str, Any]]:
    """Return a row for each loss in the records of the trainings."""
    rows = []
    for iteration in run.iterations:
        record = iteration.training or {}
        for key, kind in KINDS.items():
            # A trainer of the user's own may leave another record.
            losses = record.get(key)
            for step, loss in losses if isinstance(losses, list) else []:
                rows.append({"rows": kind, "iteration": str(iteration.number), "step": step, "loss": loss})
    return rows


def chart_of(rows: Sequence[dict[str, Any]]) -> Any:
    """Return the panels side by side, with a line for each iteration."""
    import altair as alt

    panels, kinds = [], list(dict.fromkeys(row["rows"] for row in rows))
    # Both panels have the same steps, and room around the points.
    last = max(row["step"] for row in rows)
    steps = alt.Scale(domain=[0, last], nice=False, padding=8)
    ticks = alt.Axis(format="d", values=whole_ticks(last))
    for kind in kinds:
        of_kind = [row for row in rows if row["rows"] == kind]
        chart = alt.Chart(alt.InlineData(values=of_kind)).mark_line(point=True)
        encoded = chart.encode(
            x=alt.X("step:Q", title="optimizer step", scale=steps, axis=ticks),
            y=alt.Y("loss:Q", title="loss, nats per token", scale=alt.Scale(zero=False, padding=8)),
            color=alt.Color("iteration:O", title="iteration", legend=alt.Legend(columns=8)),
            tooltip=["iteration:O", "step:Q", alt.Tooltip("loss:Q", format=".3f")],
        )
        panels.append(encoded.properties(width=panel_width(len(kinds)), height=HEIGHT, title=f"on the {kind}"))
    return alt.hconcat(*panels)
