"""Draw the curve of a run on lamb as SVG, for the README: python benchmarks/demo_figure.py RUN_DIR OUTPUT.svg.

Each line is a score of the benchmark lamb over the iterations with its 95% interval. Altair draws it, vl-convert writes
the file without a browser.
"""

import json
import sys
from pathlib import Path
from typing import Any

import altair as alt

from isheep.evaluation.statistics import estimate

LABELS = {
    "right": "accuracy",
    "right sampled": "accuracy, sampled",
    "content": "content",
    "prompt strict": "IFEval prompt-level",
}
"""The scores to draw, with their labels."""

# Colors of Okabe and Ito (2008), which people with color blindness tell apart.
COLORS = ("#0072B2", "#56B4E9", "#D55E00", "#009E73")


def points(run_dir: Path) -> list[dict[str, Any]]:
    """Return a row for each score and model of a run, in percent with its interval."""
    folders = [run_dir / "base", *sorted(run_dir.glob("iter-*"))]
    rows = []
    for iteration, folder in enumerate(folders):
        scores = json.loads((folder / "eval" / "lamb.json").read_text(encoding="utf-8"))["scores"]
        for name, label in LABELS.items():
            result = estimate(scores[name]["items"], scores[name].get("clusters"))
            low, value, high = (100 * number for number in (result.low, result.value, result.high))
            rows.append({"iteration": iteration, "score": label, "low": low, "value": value, "high": high})
    return rows


def chart(rows: list[dict[str, Any]]) -> alt.LayerChart:
    """Return the chart: a line with a band for each score."""
    data = alt.Data(values=rows)
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
    return (band + line).properties(width=480, height=260, background="white").configure_legend(symbolOpacity=1)


def main() -> None:
    run_dir, output = Path(sys.argv[1]), Path(sys.argv[2])
    output.parent.mkdir(parents=True, exist_ok=True)
    chart(points(run_dir)).save(str(output))
    print(output)


if __name__ == "__main__":
    main()
