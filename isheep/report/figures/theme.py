"""Colours of the figures: a palette that colour-blind people tell apart, and Vega-Lite configurations.

A chart leaves colours to the configuration: it says `alt.Color("series:N")` and not which colours the series have. So
the same chart is readable on the light page, on the dark page, and on paper.
"""

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
# Shades of an ordered series, such as iterations, from the first to the last.
ORDERED_SCHEME = {"light": ["#9ecae1", "#08306b"], "dark": ["#2d5f8a", "#c6e2f5"]}
# The width in pixels of a panel, and its height.
WIDTH, HEIGHT = 300, 200


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
        "legend": {"labelColor": ink, "titleColor": ink, "labelFontSize": 11, "titleFontSize": 12, "symbolSize": 90},
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
