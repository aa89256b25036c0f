"""Numbers as they are printed: shares in %, means, p values, each short enough for a table of 80 columns.

`share` tells a share (truth values, or numbers that the benchmark declares as shares) from a mean (numbers).
"""

import math
import re
from collections.abc import Sequence

from isheep.evaluation.statistics import Clusters, Comparison, Estimate, Value, estimate, is_share, wilson

# Characters that could move a cursor, change a colour, reverse a line or break an encoder; tab and newline may stay.
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# Numbers from this one on are written with an exponent.
LONGEST_NUMBER = 1e6


def format_score(items: Sequence[Value] | None, clusters: Clusters = None, unit: str = "") -> str:
    """Return the share of true values or the mean of numbers, with its interval; "" without items."""
    return format_estimate(estimate(items, clusters, unit), is_share(items, unit)) if items else ""


def format_count(count: Sequence[int] | None) -> str:
    """Return (right, all) as a share with its interval; "" without items."""
    if not count or not count[1]:
        return ""
    right, total = count
    return format_estimate(Estimate(right / total, *wilson(right, total), total), share=True)


def format_estimate(result: Estimate, share: bool) -> str:
    """Return 63.2 [59,67] for a share, 7.25 [6.9,7.6] for a mean."""
    if math.isnan(result.value):
        return "-"
    if share:
        interval = "" if math.isnan(result.low) else f" [{100 * result.low:.0f},{100 * result.high:.0f}]"
        return f"{100 * result.value:.3g}{interval}"
    interval = "" if math.isnan(result.low) else f" [{_short(result.low)},{_short(result.high)}]"
    return f"{result.value:.3g}{interval}"


def format_rounded(result: Estimate, share: bool) -> str:
    """Return 63 [59,67] for a share: without decimals, which say nothing beside such an interval."""
    if math.isnan(result.value) or not share:
        return format_estimate(result, share)
    return f"{100 * result.value:.0f} [{100 * result.low:.0f},{100 * result.high:.0f}]"


def format_rounded_change(result: Comparison, share: bool) -> str:
    """Return +13 [+11,+16] in points for a share, and tenths if all numbers are below 1."""
    if math.isnan(result.difference):
        return "-"
    if not share:
        return f"{format_change(result.difference, share)} {format_change_interval(result.low, result.high, share)}"
    numbers = [100 * number for number in (result.difference, result.low, result.high) if not math.isnan(number)]
    digits = 1 if max(map(abs, numbers)) < 1 else 0
    change, *ends = (f"{number:+.{digits}f}" for number in numbers)
    return f"{change} [{','.join(ends)}]" if ends else change


def format_detectable(value: float, share: bool) -> str:
    """Return a difference between two scores: in points for shares, which differ by 100 at most."""
    if math.isnan(value):
        return "-"
    if share:
        return f"{100 * value:.1f}" if value <= 1 else ">100"
    return _short(value)


def format_change(value: float, share: bool) -> str:
    """Return +2.8, in points for shares."""
    if math.isnan(value):
        return "-"
    return f"{100 * value:+.1f}" if share else format_fixed(value, 2, "+")


def format_change_interval(low: float, high: float, share: bool) -> str:
    """Return [-0.8,+3.1], or [-28,+28] if tenths say nothing; "" without an interval."""
    if math.isnan(low) or math.isnan(high):
        return ""
    scale, digits = (100, 1) if share else (1, 2)
    ends = [scale * low, scale * high]
    if max(map(abs, ends)) >= 10:
        digits = 0
    return f"[{format_fixed(ends[0], digits, '+')},{format_fixed(ends[1], digits, '+')}]"


def format_p_value(value: float) -> str:
    if math.isnan(value):
        return "-"
    return "<0.0001" if value < 1e-4 else f"{value:.4f}"


def format_number(value: int | None) -> str:
    return "-" if value is None else str(value)


def format_part(part: int | None, total: int | None) -> str:
    """Return a number and its share of a total: 232 (33%)."""
    return f"{part} ({part / total:.0%})" if part is not None and total else format_number(part)


def format_fixed(value: float, digits: int, sign: str = "") -> str:
    """Return a number with some decimals, or as 1e+08 if its digits would widen a table; `sign` "+" adds a plus."""
    return f"{value:{sign}.{digits}f}" if abs(value) < LONGEST_NUMBER else f"{value:{sign}.3g}"


def _short(value: float) -> str:
    if abs(value) >= 10:
        return format_fixed(value, 0)
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.2f}"


def escape_unprintable(text: str) -> str:
    """Return text of a model for a terminal: control characters become escapes such as \\x1b."""
    return UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
