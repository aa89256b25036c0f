"""Figures as they are printed: shares in %, means, p values, each short enough for a table of 80 columns."""

import math
import re
from collections.abc import Sequence

from isheep.evaluation.statistics import Clusters, Estimate, Value, estimate, is_share, wilson

# What could move a cursor, change a colour, reverse a line or break an encoder; tab and newline may stay.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def format_score(values: Sequence[Value] | None, clusters: Clusters = None) -> str:
    """The share of true values or the mean of numbers, with its interval; nothing where there are no values."""
    return "" if not values else format_estimate(estimate(values, clusters), values)


def format_count(counts: Sequence[int] | None) -> str:
    """[right, all] as a share."""
    if not counts or not counts[1]:
        return ""
    right, total = counts
    return format_estimate(Estimate(right / total, *wilson(right, total), total), [True])


def format_estimate(one: Estimate, like: Sequence[Value]) -> str:
    """63.2 [59,67] for items that are right or not, 7.25 [6.9,7.6] for numbers."""
    if math.isnan(one.value):
        return "-"
    if is_share(like):
        return f"{100 * one.value:.3g} [{100 * one.low:.0f},{100 * one.high:.0f}]"
    return f"{one.value:.3g}" + ("" if math.isnan(one.low) else f" [{_short(one.low)},{_short(one.high)}]")


def format_detectable(value: float, like: Sequence[Value]) -> str:
    """A difference between two scores of such items: in points where they are shares, which differ by 100 at most."""
    if math.isnan(value):
        return "-"
    if is_share(like):
        return f"{100 * value:.1f}" if value <= 1 else ">100"
    return _short(value)


def format_change(value: float, like: Sequence[Value]) -> str:
    """+2.8, in points where items are right or not."""
    if math.isnan(value):
        return "-"
    return f"{100 * value:+.1f}" if is_share(like) else f"{value:+.2f}"


def format_change_interval(low: float, high: float, like: Sequence[Value]) -> str:
    """[-0.8,+3.1], and [-28,+28] where tenths say nothing; nothing where there is no interval."""
    if math.isnan(low) or math.isnan(high):
        return ""
    scale, digits = (100, 1) if is_share(like) else (1, 2)
    ends = [scale * low, scale * high]
    digits = 0 if max(map(abs, ends)) >= 10 else digits
    return f"[{ends[0]:+.{digits}f},{ends[1]:+.{digits}f}]"


def format_p_value(value: float) -> str:
    return "-" if math.isnan(value) else "<0.0001" if value < 1e-4 else f"{value:.4f}"


def _short(value: float) -> str:
    return f"{value:.{0 if abs(value) >= 10 else 1 if abs(value) >= 1 else 2}f}"


def escape_unprintable(text: str) -> str:
    """Model text for a terminal: control characters as their escapes, such as \\x1b."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
