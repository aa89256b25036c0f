"""health.json as tables of 80 columns, one line for each iteration and criterion."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from isheep.diagnostics.judge_metrics import Found

BARS = " ▁▂▃▄▅▆▇█"


def tables(found: Sequence[Found]) -> Iterator[Table | Text]:
    """What `isheep judge-health` prints of health.json of some iterations."""
    yield scores(found)
    yield from again(found)
    yield against(found)
    yield from truth(found)
    yield from wins(found)
    lost = found[-1]["annotations that can't be read"] if found else 0
    if lost:
        yield Text(f"lines of annotations that can't be read and are left out: {lost}", style="yellow")


def scores(found: Sequence[Found]) -> Table:
    shown = _table("scores", "judge", "criterion", "rated", "unreadable, %", "mean", "sd", "1 to 10")
    for one in found:
        for name, some in one["scores"].items():
            numbers = (_number(some["mean"], 2), _number(some["deviation"], 2), bars(some["histogram"]))
            shown.add_row(
                *_head(one), one["judge"], escape(name), str(some["rated"]), share(some["unreadable"]), *numbers
            )
    return shown


def again(found: Sequence[Found]) -> Iterator[Table | Text]:
    asked = [one for one in found if "criteria" in one["again"]]
    shown = _table("the same pairs rated again", "criterion", "pairs", "equal, %", "within 1, %", "concordance")
    for one in asked:
        for name, some in one["again"]["criteria"].items():
            shares = (share(some["equal"]), share(some["within 1"]))
            shown.add_row(*_head(one), escape(name), str(some["pairs"]), *shares, figure(some["concordance"]))
        if same := one["again"]["the same decision"]:
            shown.add_row(*_head(one), "kept or not", str(one["sample"]), share(same))
    shown.caption = found[-1]["again"]["how"]
    yield shown if asked else Text(f"the same pairs rated again: {shown.caption}\n")


def against(found: Sequence[Found]) -> Table:
    shown = _table("scores beside", "what", "criterion", "pairs", "rank correlation", "higher by")
    for what in found[0]["against"]:
        for one in found:
            for name, some in (one["against"][what] or {}).items():
                numbers = (figure(some["rank correlation"]), figure(some.get("difference")))
                shown.add_row(*_head(one), what, escape(name), str(some["pairs"]), *numbers)
    shown.caption = "higher by: the run's scores than those beside them; length: the answers' tokens"
    return shown


def truth(found: Sequence[Found]) -> Iterator[Table | Text]:
    shown = _table("scores and the truth", "truth", "pairs", "right, %", "AUROC", "kept", "precision, %", "recall, %")
    for what in dict.fromkeys(name for one in found for name in one["truth"]):
        for one in (one for one in found if what in one["truth"]):
            some = one["truth"][what]
            passing = "-" if some["passing"] is None else str(some["passing"])
            numbers = (str(some["pairs"]), share(some["right"]), figure(some["auroc"]), passing)
            shown.add_row(*_head(one), escape(what), *numbers, share(some["precision"]), share(some["recall"]))
    shown.caption = "kept: by the recipe's score filters; precision: right of kept; recall: kept of right"
    yield shown if shown.row_count else Text("no truth is known: no benchmark with kept answers, and nobody rated\n")


def wins(found: Sequence[Found]) -> Iterator[Table]:
    shown = _table("people choose between answers", "against", "tasks", "win rate, %")
    for one in found:
        for some in one["wins"]:
            earlier = f"iteration {some['against']}" if some["against"] else "base"
            shown.add_row(*_head(one), earlier, str(some["tasks"]), share(some["win rate"]))
    shown.caption = "a tie counts half"
    if shown.row_count:
        yield shown


def bars(histogram: dict[str, int]) -> str:
    """How often each score was given, as ten bars; a score that was given at all has one."""
    most = max(histogram.values(), default=0)
    return "".join(BARS[-(-8 * count // most) if most else 0] for count in histogram.values())


def figure(one: Sequence[float] | None) -> str:
    return "-" if one is None else f"{one[0]:.2f} \\[{one[1]:.2f},{one[2]:.2f}]"


def share(one: Sequence[float] | None) -> str:
    return "-" if one is None else f"{100 * one[0]:.3g} \\[{100 * one[1]:.0f},{100 * one[2]:.0f}]"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _head(one: dict[str, Any]) -> list[str]:
    return [str(one["iteration"])]


def _table(title: str, *columns: str) -> Table:
    words = ("judge", "criterion", "what", "truth", "against", "1 to 10")
    heads = (Column(name, justify="left" if name in words else "right", no_wrap=name in words) for name in columns)
    return Table("t", *heads, title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
