"""What a recipe will cost before it runs: tokens, FLOPs, time, memory and disk, with everything that is assumed.

`work` counts the calls and tokens of the stages, `cost` computes what these take for a `shapes.Shape` on a
`devices.Device`. The `assumptions` can be measured in a `past` run. No weights are loaded, and nothing but a
config.json is downloaded.
"""

from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import NamedTuple

from isheep.errors import UserError
from isheep.plan import cost, devices, past
from isheep.plan.assumptions import Assumptions, assume
from isheep.plan.devices import Device
from isheep.plan.shapes import Shape, shape_of
from isheep.plan.work import Stage, run_stages, uncounted_benchmarks
from isheep.recipe.machine import Machine
from isheep.recipe.schema import Recipe
from isheep.records import Record

Memory = Mapping[str, Mapping[str, float]]
"""Bytes by activity (generating, training) and content."""


class Cost(Stage):
    """A stage with its FLOPs and seconds."""

    flops: float
    seconds: float


class SmallerSetup(NamedTuple):
    """A smaller number of devices that holds the model as well, and the machine settings that it needs."""

    num_devices: int
    settings: str


class Plan(Record):
    """The cost of a recipe on some devices."""

    model: str
    shape: Shape
    device: Device
    devices_needed: int | None
    """The smallest number of devices that holds it, or None if the largest of cost.DEVICE_COUNTS does not."""
    fitting_settings: str
    """Machine settings with which `device` holds it; empty if it does without, or if there are none."""
    smaller_setup: SmallerSetup | None
    stages: list[Cost]
    assumptions: dict[int, Assumptions]
    """By iteration. An iteration without its own has those of the one before it."""
    time_factors: dict[str, float]
    """By stage: the seconds that it took in a measured run, divided by the computed seconds."""
    memory: dict[str, dict[str, float]]
    """Bytes on all devices together, by activity and content."""
    disk: dict[str, float]
    """Bytes on disk by content."""
    uncounted_benchmarks: list[str]
    replicas: int = 1
    """Number of engines that generate, each on devices like these."""

    @property
    def seconds(self) -> float:
        """The seconds of all stages."""
        return sum(stage.seconds for stage in self.stages)


class Setup(NamedTuple):
    """What memory and time depend on: the recipe, its stages, the model's shape, the devices, and the assumptions."""

    recipe: Recipe
    stages: list[Stage]
    shape: Shape
    device: Device
    assumed: Assumptions

    def with_devices(self, count: int) -> "Setup":
        """Return the same setup on another number of devices."""
        return self._replace(device=self.device.model_copy(update={"count": count}))

    def memory(self) -> dict[str, dict[str, float]]:
        """Return the bytes by activity and content."""
        return {
            "generating": cost.generation_memory(self.stages, self.shape, self.device),
            "training": cost.training_memory(self.stages, self.shape, self.device, self.recipe),
        }

    def fits(self) -> bool:
        """Return whether the devices hold generation and training."""
        return all(cost.fits(memory, self.device, self.assumed) for memory in self.memory().values())

    def fits_with(self, engine_batch_size: int, rows_per_process: int) -> bool:
        """Return whether the devices hold it with these machine settings."""
        stages = []
        for stage in self.stages:
            limit = rows_per_process if stage.trained_tokens else engine_batch_size
            stages.append(stage.model_copy(update={"batch_size": min(stage.batch_size, limit)}))
        return self._replace(stages=stages).fits()


def plan(
    recipe: Recipe,
    device: Device,
    count: int | None,
    given_means: Mapping[str, float],
    past_run: past.PastRun | None = None,
) -> Plan:
    """Return the plan of a recipe on `count` devices, or, with None, on the smallest number that holds it.

    `given` are assumptions that the user gives. Others are measured in `past_run`, and so is the speed of its stages if
    `device` was measured, because then it is the machine of that run. Raises UserError if the model, or what the recipe
    names, is not known.
    """
    shape = shape_of(recipe.model)
    assumptions: dict[int, Assumptions] = {}

    def assume_iteration(recipe_now: Recipe, number: int) -> Assumptions:
        previous = next(reversed(assumptions), 0)
        if assumptions and number not in recipe.iteration and previous not in recipe.iteration:
            return assumptions[previous]
        assumed = assume(recipe_now, past_run.means if past_run else {}, given_means)
        if not assumptions or assumed != assumptions[previous]:
            assumptions[number] = assumed
        return assumed

    stages = list(run_stages(recipe, assume_iteration))
    setup = Setup(recipe, stages, shape, device, assumptions[min(assumptions)])
    memory = setup.memory()
    devices_needed = _devices_needed(setup, memory)
    setup = setup.with_devices(count or devices_needed or 1)
    factors = past.time_factors(past_run, setup.device, setup.assumed) if past_run and device.measured else {}
    fits = setup.fits()
    return Plan(
        model=recipe.model,
        shape=shape,
        device=setup.device,
        devices_needed=devices_needed,
        fitting_settings="" if fits else fitting_settings(setup),
        smaller_setup=smaller_setup(setup) if fits else None,
        stages=[_stage_cost(setup, stage, factors) for stage in stages],
        assumptions=assumptions,
        time_factors=factors,
        memory=memory,
        disk=cost.disk(stages, shape, recipe, setup.assumed),
        uncounted_benchmarks=uncounted_benchmarks(recipe),
        replicas=recipe.machine.replicas,
    )


def _devices_needed(setup: Setup, memory: Memory) -> int | None:
    """Return the smallest number of GPUs that holds it, or None. A CPU can't be multiplied."""
    if setup.device.gpu:
        return cost.fewest_devices(list(memory.values()), setup.device, setup.assumed)
    return 1 if setup.fits() else None


def _stage_cost(setup: Setup, stage: Stage, factors: Mapping[str, float]) -> Cost:
    train_batch = setup.recipe.training.batch_size
    seconds = cost.seconds(stage, setup.shape, setup.device, setup.assumed, train_batch)
    seconds *= factors.get(stage.name, 1.0)
    return Cost(
        **stage.model_dump(),
        flops=cost.flops(stage, setup.shape, setup.device),
        seconds=seconds / busy_replicas(setup.recipe, stage),
    )


def busy_replicas(recipe: Recipe, stage: Stage) -> int:
    """Return the number of machine.replicas that a stage has work for.

    Training uses one, and so does a synthesis whose prompts show tasks of earlier batches.
    """
    if stage.trained_tokens or (stage.name == "instructions" and recipe.at(stage.iteration).synthesis.generated):
        return 1
    return min(recipe.machine.replicas, ceil(stage.calls / stage.batch_size))


def fitting_settings(setup: Setup) -> str:
    """Return the largest machine.engine_batch_size and machine.rows_per_process that fit, as overrides for the command
    line; "" if none do."""
    machine, train_batch = setup.recipe.machine, setup.recipe.training.batch_size
    batch_size = machine.engine_batch_size
    while batch_size > 1 and not setup.fits_with(batch_size, 1):
        batch_size //= 2
    for rows in range(machine.rows_per_process or train_batch, 0, -1):
        if train_batch % rows == 0 and setup.fits_with(batch_size, rows):
            return f"machine.engine_batch_size={batch_size} machine.rows_per_process={rows}"
    return ""


def smaller_setup(setup: Setup) -> SmallerSetup | None:
    """Return the smallest number of devices that holds it with smaller machine settings, if it is smaller."""
    for count in cost.DEVICE_COUNTS:
        if setup.device.count not in cost.DEVICE_COUNTS or count >= setup.device.count:
            return None
        if settings := fitting_settings(setup.with_devices(count)):
            return SmallerSetup(count, settings)
    return None


def device_of(machine: Machine, gpu: str | None, count: int | None) -> Device:
    """Return a GPU by name, or this machine's device. Raises UserError if there is no such device."""
    if gpu is not None:
        return devices.gpu_by_name(gpu)
    device = devices.this_machine(machine.threads, machine.device)
    if count and not device.gpu:
        raise UserError(f"--gpus {count}: {device.name} is no GPU; give --gpu NAME too, such as --gpu H100")
    return device


def past_of(path: Path | None) -> past.PastRun | None:
    """Return what a run folder measured, or None without a folder."""
    return past.read_past_run(path) if path else None


def added_seconds(plans: Mapping[str, Plan]) -> dict[str, float]:
    """Return the seconds that each plan of a sweep adds, without the stages whose files an earlier plan makes."""
    seen, added = set[str](), dict[str, float]()
    for name, recipe_plan in plans.items():
        added[name] = sum(stage.seconds for stage in recipe_plan.stages if stage.fingerprint not in seen)
        seen |= {stage.fingerprint for stage in recipe_plan.stages}
    return added
