"""What a recipe will cost, before it runs: tokens, FLOPs, time, memory and disk, with all that is assumed.

`work` counts what the stages ask for, `cost` says what that takes of a `shapes.Shape` on a `devices.Device`, under
`assumptions` that a `past` run may tell. No weights are loaded, and nothing is downloaded but a config.json.
"""

from collections.abc import Mapping
from math import ceil
from pathlib import Path

from isheep.errors import UserError
from isheep.plan import cost, devices, past
from isheep.plan.assumptions import Assumptions, assume
from isheep.plan.devices import Device
from isheep.plan.shapes import Shape, shape_of
from isheep.plan.work import Stage, course, unknown_exams
from isheep.recipe.schema import Machine, Recipe
from isheep.records import Record


class Cost(Stage):
    """A stage with what it takes."""

    flops: float
    seconds: float


class Plan(Record):
    """`memory` is of all devices together, `disk` of the machine, both in bytes by what they hold."""

    model: str
    shape: Shape
    device: Device
    enough: int | None  # devices, the fewest that hold it; None where the most of cost.COUNTS do not
    smaller: str  # machine settings with which `device` holds it, "" where it does, or where none do
    fewer: tuple[int, str] | None  # devices that hold it too, and with which machine settings, where it takes several
    stages: list[Cost]
    assumptions: dict[int, Assumptions]  # by iteration; an iteration without its own is like the one before it
    factors: dict[str, float]  # by stage: what a measured run took of what the arithmetic says
    memory: dict[str, dict[str, float]]
    disk: dict[str, float]
    unknown: list[str]  # benchmarks that are not counted
    replicas: int = 1  # engines that generate, each on devices like these

    @property
    def seconds(self) -> float:
        return sum(stage.seconds for stage in self.stages)


def plan(
    recipe: Recipe, device: Device, count: int | None, said: Mapping[str, float], told: past.Past | None = None
) -> Plan:
    """The plan of a recipe on `count` devices; on the fewest that hold it for None.

    `said` are assumptions as given, `told` is a run to take others from, and its stages' speed where `device` is
    measured: the machine that it ran on. Raises UserError where the model, or what the recipe names, is not known.
    """
    shape = shape_of(recipe.model)
    kept: dict[int, Assumptions] = {}

    def known(now: Recipe, t: int) -> Assumptions:
        before = next(reversed(kept), 0)
        if not kept or t in recipe.iteration or before in recipe.iteration:
            found = assume(now, told.means if told else {}, said)
            if not kept or found != kept[before]:
                kept[t] = found
            return found
        return kept[before]

    stages = list(course(recipe, known))
    a = kept[min(kept)]
    memory = {
        "generating": cost.generation_memory(stages, shape, device),
        "training": cost.training_memory(stages, shape, device, recipe.training.lora.rank),
    }
    enough = cost.fewest(list(memory.values()), device, a) if device.gpu else int(_fits(memory, device, a)) or None
    device = device.model_copy(update={"count": count or enough or 1})
    factors = past.factors(told, device, a) if told and device.measured else {}
    batch = recipe.training.batch_size
    costs = [
        Cost(
            **stage.model_dump(),
            flops=cost.flops(stage, shape, device),
            seconds=cost.seconds(stage, shape, device, a, batch) * factors.get(stage.name, 1.0) / busy(recipe, stage),
        )
        for stage in stages
    ]
    return Plan(
        model=recipe.model,
        shape=shape,
        device=device,
        enough=enough,
        smaller="" if _fits(memory, device, a) else smaller(recipe, stages, shape, device, a),
        fewer=fewer(recipe, stages, shape, device, a) if _fits(memory, device, a) else None,
        stages=costs,
        assumptions=kept,
        factors=factors,
        memory=memory,
        disk=cost.disk(stages, shape, recipe, a),
        unknown=unknown_exams(recipe),
        replicas=recipe.machine.replicas,
    )


def busy(recipe: Recipe, stage: Stage) -> int:
    """How many of machine.replicas a stage has work for: one trains, and one writes where batches show earlier ones."""
    alone = stage.learned or stage.name == "instructions" and recipe.at(stage.t).synthesis.generated
    return 1 if alone else min(recipe.machine.replicas, ceil(stage.calls / stage.rows))


def _fits(memory: Mapping[str, Mapping[str, float]], device: Device, a: Assumptions) -> bool:
    return all(cost.fits(one, device, a) for one in memory.values())


def smaller(recipe: Recipe, stages: list[Stage], shape: Shape, device: Device, a: Assumptions) -> str:
    """Return the largest machine.engine_batch_size and machine.rows_per_process that fit, as overrides for the command
    line; "" if none do."""

    def held(batch: int, rows: int) -> bool:
        some = [
            stage.model_copy(update={"rows": min(stage.rows, rows if stage.learned else batch)}) for stage in stages
        ]
        parts = (
            cost.generation_memory(some, shape, device),
            cost.training_memory(some, shape, device, recipe.training.lora.rank),
        )
        return all(cost.fits(part, device, a) for part in parts)

    batch, whole = recipe.machine.engine_batch_size, recipe.training.batch_size
    while batch > 1 and not held(batch, 1):
        batch //= 2
    divisors = [
        rows for rows in range(whole, 0, -1) if whole % rows == 0 and rows <= (recipe.machine.rows_per_process or whole)
    ]
    rows = next((rows for rows in divisors if held(batch, rows)), None)
    return f"machine.engine_batch_size={batch} machine.rows_per_process={rows}" if rows else ""


def fewer(recipe: Recipe, stages: list[Stage], shape: Shape, device: Device, a: Assumptions) -> tuple[int, str] | None:
    """The fewest devices that hold it with smaller settings, and these; None where there are not fewer."""
    for count in cost.COUNTS[: cost.COUNTS.index(device.count)] if device.count in cost.COUNTS else ():
        if words := smaller(recipe, stages, shape, device.model_copy(update={"count": count}), a):
            return count, words
    return None


def device_of(machine: Machine, gpu: str | None, count: int | None) -> Device:
    """A GPU by name, or what this machine has. Raises UserError where either is not there."""
    if gpu is not None:
        return devices.named(gpu)
    found = devices.this_machine(machine.threads, machine.device)
    if count and not found.gpu:
        raise UserError(f"--gpus {count}: {found.name} is no GPU; give --gpu NAME too, such as --gpu H100")
    return found


def past_of(path: Path | None) -> past.Past | None:
    return past.look(path) if path else None


def shared(plans: Mapping[str, Plan]) -> dict[str, float]:
    """Seconds of each plan with what comes out the same in one before it left out, as a sweep makes it once."""
    made, left = set[str](), dict[str, float]()
    for name, one in plans.items():
        left[name] = sum(stage.seconds for stage in one.stages if stage.made_of not in made)
        made |= {stage.made_of for stage in one.stages}
    return left
