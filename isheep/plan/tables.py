"""A plan as tables of 80 columns: what is assumed, what is asked, what it takes. Two significant digits."""

from collections.abc import Iterator, Mapping
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table
from rich.text import Text

from isheep.plan import Cost, Plan, shared
from isheep.plan.assumptions import MEANINGS, MEASURED
from isheep.plan.work import Stage

PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")
CLOCK = ((90, 1, "s"), (90 * 60, 60, "min"), (72 * 3600, 3600, "h"), (float("inf"), 86400, "days"))
LEGEND = (
    "Expected numbers; 'at most' where every prompt of the budget is used and every answer goes on to max_tokens. "
    "Downloading and loading weights, novelty and filters are not in it."
)


def tables(one: Plan) -> Iterator[Table | Text]:
    """What `isheep plan` prints of a recipe."""
    yield Text(_head(one))
    yield assumptions(one)
    yield work(one)
    yield Text(LEGEND, style="dim")
    if one.replicas > 1:
        yield Text(f"{one.replicas} replicas generate, each on what the first line names; batches shared out evenly.")
    if one.unknown:
        yield Text(f"not counted, their items are not known here: {', '.join(one.unknown)}", style="yellow")
    yield memory(one)
    yield Text(verdict(one), style="" if one.enough and not one.smaller else "yellow")
    yield disk(one)


def assumptions(one: Plan) -> Table:
    """Each with its key for --assume; what an iteration has of its own, below."""
    shown = _table("assumed", "", "value", "how", title="what is taken for granted (--assume KEY=NUMBER)")
    shown.columns[2].justify = "right"
    before: Mapping[str, float] = {}
    for t, some in one.assumptions.items():
        values = some.model_dump(exclude={"sources"})
        for key, value in values.items():
            if value != before.get(key) and (key != "together" or one.device.count > 1):
                words = MEANINGS[key] + (f", iteration {t}" if before else "")
                shown.add_row(key, words, digits(value), some.sources[key])
        before = values
    for name, value in one.factors.items():
        shown.add_row("", f"time of {name}, to what the rest gives", digits(value), MEASURED)
    return shown


def work(one: Plan) -> Table:
    """A block for iterations that ask for the same, one after another."""
    shown = _table("", "calls", "read", "written", "at most", "FLOP", "time", title="tokens, FLOPs and time")
    by_t = {t: list(some) for t, some in groupby(one.stages, key=lambda stage: stage.t)}
    for block in _alike(by_t):
        first, last = block[0], block[-1]
        each = f"iterations {first} to {last}, each" if last > first else f"iteration {first}" if first else "the base"
        shown.add_row(each, style="bold")
        for name, some in groupby(by_t[first], key=lambda stage: stage.name):
            shown.add_row(f"  {name}", *_sums(list(some)))
    shown.add_section()
    shown.add_row("all", *_sums(one.stages), style="bold")
    if one.device.count > 1:
        shown.add_row("of one GPU", *[""] * 5, clock(one.seconds * one.device.count))
    return shown


def _alike(by_t: Mapping[int, list[Cost]]) -> Iterator[list[int]]:
    """Iterations one after another that take the same."""
    block: list[int] = []
    for t in by_t:
        if block and t and _bare(by_t[t]) != _bare(by_t[block[0]]):
            yield block
            block = []
        block.append(t)
    yield block


def _bare(stages: list[Cost]) -> list[Stage]:
    return [stage.model_copy(update={"t": 0, "made_of": ""}) for stage in stages]


def _sums(stages: list[Cost]) -> list[str]:
    keys = ("calls", "read", "written", "most", "flops")
    sums = [sum(getattr(stage, key) for stage in stages) for key in keys]
    return [*map(si, sums), clock(sum(stage.seconds for stage in stages))]


def memory(one: Plan) -> Table:
    count = one.device.count
    shown = _table("", *one.memory, title="memory at most" + (f", on all {count} GPUs together" if count > 1 else ""))
    for name in dict.fromkeys(name for part in one.memory.values() for name in part):
        shown.add_row(name, *(size(part[name]) if name in part else "-" for part in one.memory.values()))
    shown.add_section()
    shown.add_row("all", *(size(sum(part.values())) for part in one.memory.values()), style="bold")
    if count > 1:
        shown.add_row("of each GPU", *(size(sum(part.values()) / count) for part in one.memory.values()), style="bold")
    return shown


def verdict(one: Plan) -> str:
    """Whether it fits, and what would."""
    device, usable = one.device, one.assumptions[min(one.assumptions)].usable
    each = f"{size(device.memory)}, of which {digits(100 * usable)}% can be used"
    if one.enough and one.enough <= device.count:
        less = f" With {one.fewer[1]}, {one.fewer[0]} would hold it." if one.fewer else ""
        return f"It fits: {_several(device.name, one.enough, device.gpu)} of {each}.{less}"
    needs = f"needs {_several(device.name, one.enough, device.gpu)}" if one.enough else "does not fit"
    most = "" if one.enough or not device.gpu else " 64 of them either"
    with_less = f"; it fits with {one.smaller}" if one.smaller else ""
    return f"It does not fit {_several(device.name, device.count, device.gpu)} of {each}: {needs}{most}{with_less}."


def disk(one: Plan) -> Table:
    shown = _table("", "size", title="disk")
    for name, value in one.disk.items():
        shown.add_row(name, size(value) if value else "none: it is here")
    shown.add_section()
    shown.add_row("all", size(sum(one.disk.values())), style="bold")
    return shown


def sweep(plans: Mapping[str, Plan]) -> Iterator[Table | Text]:
    """What `isheep plan` prints of a sweep: each setting alone, and what it adds to those before it."""
    columns = ("read", "written", "FLOP", "time", "it adds")
    shown = _table("", *columns, title="a sweep: what two settings share is made once")
    left = shared(plans)
    for name, one in plans.items():
        sums = _sums(one.stages)
        shown.add_row(Text(name), *sums[1:3], *sums[4:], clock(left[name]))
    shown.add_section()
    shown.add_row("all", *[""] * 3, clock(sum(p.seconds for p in plans.values())), clock(sum(left.values())))
    first = next(iter(plans.values()))
    yield Text(_head(first))
    yield shown
    yield Text("What is assumed: isheep plan with one of the recipes. " + LEGEND, style="dim")


# --- words and numbers


def _head(one: Plan) -> str:
    d, made = one.device, "measured just now" if one.device.measured else "as its maker states it"
    speed = f"{si(d.flops)}FLOPS, {size(d.bandwidth)}/s, {size(d.memory)}, {made}"
    return f"{one.model}: {si(one.shape.parameters)} parameters on {_several(d.name, d.count, d.gpu)} ({speed})"


def _several(name: str, count: int | None, gpu: bool) -> str:
    return f"{count} x {name}" if gpu else name


def _table(*columns: str, title: str) -> Table:
    shown = (Column(name, justify="right" if n else "left") for n, name in enumerate(columns))
    found = Table(*shown, title=title, box=SIMPLE_HEAD, pad_edge=False, title_justify="left")
    if columns[0] == "assumed":
        found.columns[1].justify = found.columns[3].justify = "left"
    return found


def digits(value: float) -> str:
    """Two significant digits, without an exponent."""
    return f"{float(f'{value:.2g}'):,.15g}" if value else "0"


def si(value: float) -> str:
    """Two significant digits and a prefix: 12 k, 3.4 E."""
    rounded, power = float(f"{value:.2g}"), 0
    while rounded >= 1000 and power < len(PREFIXES) - 1:
        rounded, power = rounded / 1000, power + 1
    return f"{digits(rounded)} {PREFIXES[power]}".rstrip()


def size(value: float) -> str:
    """Bytes: 12 GB, where G is 10^9."""
    return f"{si(value)}B" if value >= 1000 else f"{si(value)} B"


def clock(seconds: float) -> str:
    """Two significant digits of the unit that people would use."""
    unit, name = next((unit, name) for limit, unit, name in CLOCK if seconds < limit)
    return f"{digits(seconds / unit)} {name}"
