"""The figures of a report: FIGURES names one module each, in the order of the page.

A module has `draw(runs)`, which returns a Figure, or None if the runs lack what it shows. A figure that makes sense for
one run only returns None for several. Charts are made by Altair; `isheep.report.figures.theme` has the colours.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from isheep.report.run_data import RunData

FIGURES = (
    "scores",
    "compute",
    "loss",
    "costs",
    "ratings",
    "passing_shares",
    "rating_plane",
    "projection",
    "diversity",
    "thresholds",
    "data_sizes",
)


@dataclass(frozen=True)
class Figure:
    """A figure: the chart, what it shows in words, and the numbers that are drawn.

    `name` is the id in the page and the stem of files ("figure-3"). `caption` says how to read it, the paper's figure
    that it corresponds to, and what the numbers are. `chart` is an Altair chart without colours of its own for text,
    axes and background: the theme sets them for light and dark. `rows` are the numbers that are drawn, also as CSV.
    `fits_column` says that a file for a paper is made as narrow as a column.
    """

    name: str
    title: str
    caption: str
    chart: Any
    rows: list[dict[str, Any]]
    fits_column: bool = True


def all_figures(runs: Sequence[RunData]) -> Iterator[Figure]:
    """Yield the figures that can be drawn of a run, or of several."""
    for name in FIGURES:
        if figure := import_module(f"isheep.report.figures.{name}").draw(runs):
            yield figure
