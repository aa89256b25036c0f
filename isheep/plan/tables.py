"""A plan as tables of 80 columns: assumptions, work, memory and disk. Numbers have two significant digits."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Column, Table
from rich.text import Text

from isheep.plan import Cost, Plan, added_seconds
from isheep.plan.assumptions import MEANINGS, MEASURED
from isheep.plan.cost import DEVICE_COUNTS
from isheep.plan.work import Stage
from isheep.rundir.iterations import model_words

PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")
# (largest number of seconds, seconds of the unit, name of the unit)
TIME_UNITS = ((90, 1, "s"), (90 * 60, 60, "min"), (72 * 3600, 3600, "h"), (float("inf"), 86400, "days"))
LEGEND = (
    "Expected numbers. 'at most': every prompt of the budget is used and every answer has max_tokens. "
    "The calls of a training are its rows times its epochs. "
    "Not included: downloading and loading weights, the novelty check, the filters."
)


def tables(plan: Plan) -> Iterator[Table | Group]:
    """Yield what `isheep plan` prints for a recipe."""
    yield _paragraph(_headline(plan))
    yield assumption_table(plan)
    yield work_table(plan)
    yield _paragraph(LEGEND, style="dim")
    if plan.replicas > 1:
        yield _paragraph(
            f"{plan.replicas} replicas generate, each on the device of the first line, and share the batches."
        )
    if plan.uncounted_benchmarks:
        names = ", ".join(plan.uncounted_benchmarks)
        yield _paragraph(f"not counted, because the number of items is not known: {names}", style="yellow")
    yield memory_table(plan)
    yield _paragraph(memory_verdict(plan), style="" if plan.devices_needed and not plan.fitting_settings else "yellow")
    yield disk_table(plan)


def assumption_table(plan: Plan) -> Table:
    """Return the assumptions with their keys for --assume; an iteration's own values are at the end."""
    columns = ("assumed", "", "value", "source")
    table = _table(*columns, title="assumptions (change one with --assume KEY=NUMBER)", left=(0, 1, 3))
    previous: Mapping[str, float] = {}
    for iteration, assumed in plan.assumptions.items():
        values = assumed.model_dump(exclude={"sources"})
        for key, value in values.items():
            if value != previous.get(key) and (key != "together" or plan.device.count > 1):
                meaning = f"{MEANINGS[key]}, iteration {iteration}" if previous else MEANINGS[key]
                table.add_row(key, meaning, digits(value), assumed.sources[key])
        previous = values
    for name, factor in plan.time_factors.items():
        table.add_row("", f"measured / computed time, {name}", digits(factor), MEASURED)
    return table


def work_table(plan: Plan) -> Table:
    """Return the calls, tokens, FLOPs and time of each stage. Consecutive equal iterations are one block."""
    table = _table("", "calls", "read", "written", "at most", "FLOP", "time", title="tokens, FLOPs and time")
    by_iteration = {number: list(stages) for number, stages in groupby(plan.stages, key=lambda stage: stage.iteration)}
    for block in _equal_iterations(by_iteration):
        table.add_row(_block_name(block), style="bold")
        for name, stages in groupby(by_iteration[block[0]], key=lambda stage: stage.name):
            table.add_row(f"  {name}", *_sums(list(stages)))
    table.add_section()
    table.add_row("all", *_sums(plan.stages), style="bold")
    if plan.device.count > 1:
        table.add_row("on one GPU", *[""] * 5, clock(plan.seconds * plan.device.count))
    return table


def _block_name(block: Sequence[int]) -> str:
    first, last = block[0], block[-1]
    if last > first:
        return f"iterations {first} to {last}, each"
    return model_words(first)


def _equal_iterations(by_iteration: Mapping[int, list[Cost]]) -> Iterator[list[int]]:
    """Yield consecutive iterations with equal stages, in blocks."""
    block: list[int] = []
    for number in by_iteration:
        if block and number and _comparable(by_iteration[number]) != _comparable(by_iteration[block[0]]):
            yield block
            block = []
        block.append(number)
    yield block


def _comparable(stages: list[Cost]) -> list[Stage]:
    return [stage.model_copy(update={"iteration": 0, "fingerprint": ""}) for stage in stages]


def _sums(stages: list[Cost]) -> list[str]:
    keys = ("calls", "prompt_tokens", "output_tokens", "max_output_tokens", "flops")
    sums = [sum(getattr(stage, key) for stage in stages) for key in keys]
    return [*map(si, sums), clock(sum(stage.seconds for stage in stages))]


def memory_table(plan: Plan) -> Table:
    """Return the largest memory of generation and of training, by content."""
    count, parts = plan.device.count, list(plan.memory.values())
    title = f"memory at most, on all {count} GPUs together" if count > 1 else "memory at most"
    table = _table("", *plan.memory, title=title)
    for name in dict.fromkeys(name for part in parts for name in part):
        table.add_row(name, *(size(part[name]) if name in part else "-" for part in parts))
    table.add_section()
    table.add_row("all", *(size(sum(part.values())) for part in parts), style="bold")
    if count > 1:
        table.add_row("of each GPU", *(size(sum(part.values()) / count) for part in parts), style="bold")
    return table


def memory_verdict(plan: Plan) -> str:
    """Return a sentence that says whether the devices hold it, and otherwise which devices or settings would."""
    device, usable = plan.device, plan.assumptions[min(plan.assumptions)].usable
    needed = plan.devices_needed
    capacity = f"{size(device.memory)}, of which {digits(100 * usable)}% can be used"
    if needed and needed <= device.count:
        smaller = plan.smaller_setup
        hint = f" With {smaller.settings}, {smaller.num_devices} would hold it." if smaller else ""
        return f"It fits: {_devices(device.name, needed, device.gpu)} of {capacity}.{hint}"
    parts = [f"It does not fit {_devices(device.name, device.count, device.gpu)} of {capacity}"]
    if needed:
        parts[0] += f": needs {_devices(device.name, needed, device.gpu)}"
    elif device.gpu:
        parts[0] += f", nor {DEVICE_COUNTS[-1]} of them"
    if plan.fitting_settings:
        parts.append(f"it fits with {plan.fitting_settings}")
    return f"{'; '.join(parts)}."


def disk_table(plan: Plan) -> Table:
    """Return the bytes on disk, by content."""
    table = _table("", "size", title="disk")
    for name, value in plan.disk.items():
        table.add_row(name, size(value) if value else "none, it is on this machine")
    table.add_section()
    table.add_row("all", size(sum(plan.disk.values())), style="bold")
    return table


def sweep(plans: Mapping[str, Plan]) -> Iterator[Table | Group]:
    """Yield what `isheep plan` prints for a sweep: each setting alone, and what it adds to those before it."""
    columns = ("read", "written", "FLOP", "time", "it adds")
    table = _table("", *columns, title="sweep: results that two settings share are computed once")
    added = added_seconds(plans)
    for name, plan in plans.items():
        sums = _sums(plan.stages)
        table.add_row(Text(name), *sums[1:3], *sums[4:], clock(added[name]))
    table.add_section()
    total = sum(plan.seconds for plan in plans.values())
    table.add_row("all", *[""] * 3, clock(total), clock(sum(added.values())))
    yield _paragraph(_headline(next(iter(plans.values()))))
    yield table
    yield _paragraph("For the assumptions, run isheep plan with one of the recipes. " + LEGEND, style="dim")


# --- words and numbers


def _paragraph(text: str, style: str = "") -> Group:
    """Return text that is wrapped to the width of the terminal; isheep.cli.output does not wrap a Text."""
    return Group(Text(text, style=style))


def _headline(plan: Plan) -> str:
    device = plan.device
    source = "measured just now" if device.measured else "as its maker states it"
    speed = f"{si(device.flops)}FLOPS, {size(device.bandwidth)}/s, {size(device.memory)}, {source}"
    devices = _devices(device.name, device.count, device.gpu)
    return f"{plan.model}: {si(plan.shape.parameters)} parameters on {devices} ({speed})"


def _devices(name: str, count: int | None, gpu: bool) -> str:
    return f"{count} x {name}" if gpu else name


def _table(*columns: str, title: str, left: Sequence[int] = (0,)) -> Table:
    """Return an empty table. The columns at the positions `left` are aligned to the left, all others to the right."""
    aligned = [Column(name, justify="left" if index in left else "right") for index, name in enumerate(columns)]
    return Table(*aligned, title=title, box=SIMPLE_HEAD, pad_edge=False, title_justify="left")


def digits(value: float) -> str:
    """Return two significant digits, without an exponent."""
    return f"{float(f'{value:.2g}'):,.15g}" if value else "0"


def si(value: float) -> str:
    """Return two significant digits and a prefix: 12 k, 3.4 E."""
    rounded, power = float(f"{value:.2g}"), 0
    while rounded >= 1000 and power < len(PREFIXES) - 1:
        rounded, power = rounded / 1000, power + 1
    return f"{digits(rounded)} {PREFIXES[power]}".rstrip()


def size(value: float) -> str:
    """Return a number of bytes: 12 GB, where G is 10^9."""
    return f"{si(value)}B" if value >= 1000 else f"{si(value)} B"


def clock(seconds: float) -> str:
    """Return two significant digits of the unit that suits the duration."""
    unit, name = next((unit, name) for limit, unit, name in TIME_UNITS if seconds < limit)
    return f"{digits(seconds / unit)} {name}"
