"""Draw the scores of a run on lamb over its iterations, as the README shows them.

    python -m benchmarks.demo_figure RUN_DIR OUTPUT.svg

Each line is a score of the benchmark lamb with its 95% interval. Altair draws the figure, and vl-convert writes the
file without a browser.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import make_parser, run_script
from isheep.errors import UserError
from isheep.evaluation.statistics import estimate

if TYPE_CHECKING:
    import altair as alt

LABELS = {
    "right": "accuracy",
    "content": "content",
    "prompt strict": "IFEval prompt-level",
}
"""The scores to draw, with their labels."""

# Colors of Okabe and Ito (2008), which people with color blindness tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73")


def score_points(run_dir: Path) -> list[dict[str, Any]]:
    """Return a row for each score and model of a run, in percent with its interval.

    Raises UserError if a model of the run has no result on lamb.
    """
    folders = [run_dir / "base", *sorted(run_dir.glob("iter-*"))]
    rows = []
    for iteration, folder in enumerate(folders):
        path = folder / "eval" / "lamb.json"
        if not path.is_file():
            raise UserError(f"{path} is not there: give a run folder whose models are scored on lamb")
        scores = json.loads(path.read_text(encoding="utf-8"))["scores"]
        for name, label in LABELS.items():
            result = estimate(scores[name]["items"], scores[name].get("clusters"))
            low, value, high = (100 * number for number in (result.low, result.value, result.high))
            rows.append({"iteration": iteration, "score": label, "low": low, "value": value, "high": high})
    return rows


def draw_chart(rows: list[dict[str, Any]]) -> "alt.LayerChart":
    """Return the chart: a line with a band for each score."""
    import altair as alt

    data = {"values": rows}
    color = alt.Color("score:N", title=None, scale=alt.Scale(domain=list(LABELS.values()), range=list(COLORS)))
    iteration = alt.X(
        "iteration:Q",
        title="iteration (0 is the base model)",
        axis=alt.Axis(values=sorted({row["iteration"] for row in rows}), format="d", grid=False),
    )
    share = alt.Scale(domain=[0, 100])
    band = (
        alt.Chart(data).mark_area(opacity=0.2).encode(iteration, alt.Y("low:Q", scale=share), alt.Y2("high:Q"), color)
    )
    line = (
        alt.Chart(data)
        .mark_line(point=True)
        .encode(iteration, alt.Y("value:Q", title="items in % (band: 95% interval)", scale=share), color)
    )
    layers: alt.LayerChart = (
        (band + line).properties(width=480, height=260, background="white").configure_legend(symbolOpacity=1)
    )
    return layers


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the figure of a run folder into a file."""
    parser = make_parser(__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="Name the run folder.")
    parser.add_argument("output", type=Path, metavar="OUTPUT.svg", help="Name the file to write.")
    args = parser.parse_args(arguments)
    chart = draw_chart(score_points(args.run_dir))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    chart.save(str(args.output))
    print(args.output)


if __name__ == "__main__":
    run_script(main)
