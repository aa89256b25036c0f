"""Colours of the figures: a palette that colour-blind people tell apart, and Vega-Lite configurations.

A chart leaves colours to the configuration: it says `alt.Color("series:N")` and not which colours the series have. So
the same chart is readable on the light page, on the dark page, and on paper.
"""

from collections.abc import Iterable
from itertools import count
from typing import Any, Literal

# Okabe and Ito (2008), without the black and the yellow, which one of the two backgrounds hides. The dark page has
# lighter shades of the same hues.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DARK_PALETTE = ("#4aa8e0", "#f0824a", "#2fc39a", "#dd97bd", "#edb33a", "#8fd0f5")
# Colours of text, of lines of the grid, and of axes.
INK = {"light": "#24292f", "dark": "#e6e6e3"}
GRID = {"light": "#e3e3df", "dark": "#33383f"}
AXIS = {"light": "#8a8f98", "dark": "#8a8f98"}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"
# Shades of an ordered series, such as iterations, from the first to the last: away from the colour of the page.
ORDERED_SCHEME = {"light": {"scheme": "blues", "extent": [0.3, 1]}, "dark": {"scheme": "blues", "extent": [0.75, 0.1]}}
# The width in pixels of all panels of a line together, and the height of a panel.
FULL_WIDTH, HEIGHT = 1000, 220
# The most ticks of an axis of iterations.
MAX_TICKS = 12
# Larger numbers with a suffix: 20k. Without the expression, the tick at 0 would be 0k, and that at 0.01 would be 10m.
SHORT_NUMBERS: dict[str, Any] = {
    "format": "~s",
    "labelExpr": "abs(datum.value) < 1 ? format(datum.value, '~f') : datum.label",
    "tickCount": 4,
}


def vega_config(scheme: Literal["light", "dark"]) -> dict[str, Any]:
    """Return the Vega-Lite configuration of a page, or of a file for a paper ("light")."""
    ink, palette = INK[scheme], list(PALETTE if scheme == "light" else DARK_PALETTE)
    return {
        "background": None,
        "font": FONT,
        "axis": {
            "labelColor": ink, "titleColor": ink, "gridColor": GRID[scheme], "domainColor": AXIS[scheme],
            "tickColor": AXIS[scheme], "labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": 500,
        },
        "legend": {
            "labelColor": ink, "titleColor": ink, "labelFontSize": 11, "titleFontSize": 12, "symbolSize": 90,
            "labelLimit": 400, "orient": "bottom", "columns": 3,
        },
        "header": {"labelColor": ink, "titleColor": ink, "labelFontSize": 12, "labelFontWeight": 600},
        "title": {
            "color": ink, "fontSize": 13, "fontWeight": 600, "anchor": "start", "subtitleColor": ink,
            "subtitleFontSize": 11,
        },
        "text": {"color": ink},
        "rule": {"color": AXIS[scheme]},
        "mark": {"color": palette[0]},
        "range": {"category": palette, "ordinal": ORDERED_SCHEME[scheme], "ramp": ORDERED_SCHEME[scheme],
                  "heatmap": ORDERED_SCHEME[scheme]},
        "view": {"stroke": None},
    }  # fmt: skip


def panel_width(num_panels: int, widest: int = 640) -> int:
    """Return the width of each of some panels side by side."""
    return min(widest, FULL_WIDTH // max(1, num_panels) - 70)


def whole_ticks(last: int) -> list[int]:
    """Return the ticks of an axis of whole numbers from 0 to `last`: steps of 1, 2 or 5 times a power of ten."""
    steps = (size * 10**power for power in count() for size in (1, 2, 5))
    return [*range(0, last + 1, next(step for step in steps if last // step < MAX_TICKS))]


def iteration_ticks(iterations: Iterable[int]) -> list[int]:
    """Return the ticks of an axis of iterations: whole numbers, MAX_TICKS at most."""
    numbers = sorted(set(iterations))
    return numbers[:: -(-len(numbers) // MAX_TICKS)]
