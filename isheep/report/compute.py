"""What each model of a run has cost: tokens written, seconds, and an estimate of the FLOPs, summed over the stages."""

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import NamedTuple

from isheep.errors import UserError
from isheep.evaluation.compute import model_costs
from isheep.models.checkpoint import load_local_tokenizer
from isheep.plan import cost
from isheep.plan.assumptions import Assumptions, assume, token_counter
from isheep.plan.devices import Device
from isheep.plan.shapes import shape_of
from isheep.plan.work import run_stages
from isheep.recipe.schema import Recipe
from isheep.records import Reply
from isheep.report.run_data import IterationData, RunData

# The judge's replies whose tokens are counted.
NUM_COUNTED_GRADES = 200
# FLOPs do not depend on the speed of a device. A GPU computes activations twice in training, a CPU does not.
CPU = Device(name="", memory=1, bandwidth=1, flops=1, number_bytes=4)
GPU = CPU.model_copy(update={"number_bytes": 2})
EVALUATION = "evaluation"


class ModelCompute(NamedTuple):
    """What it took to make M^iteration from the base: the figures of `ModelCost` that a chart has, and FLOPs.

    `flops` is an estimate by the formulas of `isheep plan` from the lengths that were measured; None if the shape of
    the model is not known.
    """

    iteration: int
    tokens: float | None
    seconds: float | None
    flops: float | None


def model_computes(run: RunData) -> list[ModelCompute]:
    """Return the costs of M^0 (nothing), M^1, ... up to the newest model."""
    flops = iteration_flops(run)
    computes, total = [], 0.0 if flops else None
    for iteration, model_cost in enumerate(model_costs(run.recipe, run.folder)):
        if iteration:
            total = None if total is None or iteration not in flops else total + flops[iteration]
        computes.append(ModelCompute(iteration, model_cost.tokens, model_cost.seconds, total))
    return computes


def iteration_flops(run: RunData) -> dict[int, float]:
    """Return the estimated FLOPs of each iteration without its evaluation; nothing if the model's shape is not known.

    Nothing is looked for on the Hub.
    """
    recipe = run.recipe
    if load_local_tokenizer(recipe.model) is None:
        return {}
    measured = {iteration.number: dict(_measure(iteration)) for iteration in run.iterations}
    device = GPU if any("cuda" in (event.get("peak_memory") or {}) for event in run.events) else CPU

    def assume_iteration(recipe_now: Recipe, number: int) -> Assumptions:
        return assume(recipe_now, measured.get(number, {}), {})

    flops: dict[int, float] = {}
    try:
        shape = shape_of(recipe.model)
        for stage in run_stages(recipe, assume_iteration):
            if stage.name != EVALUATION and stage.calls:
                flops[stage.iteration] = flops.get(stage.iteration, 0.0) + cost.flops(stage, shape, device)
    # The model is of a kind that `isheep plan` does not know, or the recipe names a file that is not there any more.
    except UserError:
        return {}
    return flops


def _measure(iteration: IterationData) -> Iterator[tuple[str, float]]:
    """Yield the means of an iteration that a plan would assume, as far as its files show them."""
    folder, pairs, values = iteration.folder, iteration.pairs, dict[str, float]()
    if folder.has("replies.jsonl") and pairs:
        lengths = [reply.tokens for reply in folder.read("replies.jsonl", Reply)]
        values |= {"reply": fmean(lengths), "tasks": len(pairs) / len(lengths)}
    if pairs:
        values["answer"] = fmean(pair.tokens for pair in pairs)
    if iteration.is_filtered and pairs:
        values["kept"] = len(iteration.kept) / len(pairs)
    if iteration.assessed and iteration.recipe.assessment and iteration.recipe.assessment.writes_text:
        count, _ = token_counter(iteration.recipe.model)
        rated = iteration.assessed[:NUM_COUNTED_GRADES]
        values["grade"] = fmean(count(grade.reply) + 1 for pair in rated for grade in pair.grades.values())
    yield from _positive(values)


def _positive(values: Mapping[str, float]) -> Iterator[tuple[str, float]]:
    """Yield the values above 0: a plan can't be made with a length of 0."""
    for key, value in values.items():
        if value > 0:
            yield key, value
