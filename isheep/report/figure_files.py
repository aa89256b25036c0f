"""Figures as files for papers and pages: SVG, PDF and PNG by vl-convert, without a browser and without a network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from isheep.report.figures import Figure
from isheep.report.figures.theme import vega_config
from isheep.report.table_formats import to_csv
from isheep.rundir.atomic import write_text

Format = Literal["svg", "pdf", "png"]
FORMATS: tuple[Format, ...] = ("svg", "pdf", "png")
Scheme = Literal["light", "dark"]

# A font that papers are set in beside their text, and its free equivalents. vl-convert draws with one that it has.
PAPER_FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
# The width of a page of a paper in points, and what a panel needs beside its plot for the axis.
PAGE_WIDTH, AXIS_WIDTH = 500, 55
# The largest width and height of a panel: one panel with its axes fits a column of a paper.
PANEL_WIDTH, PANEL_HEIGHT = 220, 165
# A square panel is a plane with marks along both axes, which need their room.
SQUARE_SIDE = 165
# Pixels of a PNG for each point of the figure: 288 dots per inch.
PNG_SCALE = 4.0


def figure_spec(figure: Figure, scheme: Scheme = "light", background: str | None = None) -> dict[str, Any]:
    """Return a figure for Vega-Lite, with the colours of a scheme. Its size is in points of 1/72 inch.

    Panels are narrower than on the page of a run, with letters of the same size, so that a figure can be read in a
    column or across a page of a paper.
    """
    spec: dict[str, Any] = figure.chart.to_dict()
    if figure.fits_column:
        columns = min(len(spec.get("concat", spec.get("hconcat", [0]))), spec.get("columns", 3))
        _narrow(spec, min(PANEL_WIDTH, PAGE_WIDTH // columns - AXIS_WIDTH))
    spec["config"] = {**vega_config(scheme), "font": PAPER_FONT, "background": background}
    return spec


def _narrow(spec: Any, width: int) -> None:
    """Limit the size of each panel of a chart. A square one stays square."""
    if isinstance(spec, list):
        for part in spec:
            _narrow(part, width)
    elif isinstance(spec, dict):
        # Some charts have a size for each step of an axis instead.
        panel_width, panel_height = spec.get("width"), spec.get("height")
        if isinstance(panel_width, int) and isinstance(panel_height, int):
            is_square = panel_width == panel_height
            spec["width"] = min(panel_width, max(width, SQUARE_SIDE) if is_square else width)
            spec["height"] = spec["width"] if is_square else min(PANEL_HEIGHT, panel_height)
        for key in ("concat", "hconcat", "vconcat", "layer", "spec"):
            _narrow(spec.get(key), width)


def figure_svg(figure: Figure, scheme: Scheme = "light", background: str | None = None) -> str:
    """Return a figure as SVG. Without a background it stands on that of the page."""
    import vl_convert

    svg: str = vl_convert.vegalite_to_svg(figure_spec(figure, scheme, background), allowed_base_urls=[])
    return svg


def figure_bytes(figure: Figure, format_name: Format) -> bytes:
    """Return a figure as the content of a file, on white."""
    import vl_convert

    spec = figure_spec(figure, "light", "white")
    if format_name == "svg":
        return figure_svg(figure, "light", "white").encode()
    if format_name == "pdf":
        pdf: bytes = vl_convert.vegalite_to_pdf(spec, allowed_base_urls=[])
        return pdf
    png: bytes = vl_convert.vegalite_to_png(spec, scale=PNG_SCALE, allowed_base_urls=[])
    return png


def write_figure(figure: Figure, folder: Path, formats: Sequence[Format]) -> list[Path]:
    """Write a figure in each format, and its numbers as CSV; return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for format_name in formats:
        path = folder / f"{figure.name}.{format_name}"
        path.write_bytes(figure_bytes(figure, format_name))
        paths.append(path)
    path = folder / f"{figure.name}.csv"
    write_text(path, to_csv(figure.rows))
    return [*paths, path]
