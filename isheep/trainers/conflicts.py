"""Settings of machine and training that no trainer, or not this one, can work with."""

from isheep.errors import Conflicts
from isheep.recipe.schema import Recipe


def conflicts(recipe: Recipe) -> Conflicts:
    """Yield the settings that exclude each other in training."""
    machine, training = recipe.machine, recipe.training
    if machine.rows and training.batch % machine.rows:
        yield ("machine", "rows"), f"{machine.rows} does not divide training.batch {training.batch}"
    elif training.batch // (machine.rows or 1) < machine.processes:
        rows = f"of {training.batch} rows, {machine.rows or 1} at once"
        yield ("machine", "gpus"), f"{machine.processes} processes are more than a training.batch {rows} has work for"
    if machine.trainer == "llamafactory":
        yield from _llamafactory(recipe)
    if machine.processes == 1 and machine.strategy != "ddp":
        yield ("machine", "strategy"), f"{machine.strategy} is for more than one GPU: set machine.gpus, or take ddp"
    if machine.processes > 1 and machine.device and ":" in machine.device:
        yield ("machine", "device"), f"{machine.device} is one GPU, and machine.gpus and nodes make {machine.processes}"
    if machine.strategy != "ddp" and machine.device == "cpu":
        yield ("machine", "strategy"), f"{machine.strategy} needs GPUs, and machine.device is cpu: take ddp"
    if training.quantize and machine.strategy != "ddp":
        yield ("machine", "strategy"), f"{machine.strategy} can't share out a base in 4 bits: take ddp, or no quantize"


def _llamafactory(recipe: Recipe) -> Conflicts:
    machine, batch = recipe.machine, recipe.training.batch
    for key, ours in (
        ("strategy", machine.strategy != "ddp"),
        ("nodes", machine.nodes > 1),
        ("packing", machine.packing),
    ):
        if ours:
            yield ("machine", key), "it is for trainer: peft, and trainer is llamafactory"
    if batch % ((machine.rows or 1) * machine.gpus):
        wrong = f"{machine.gpus} times machine.rows does not divide training.batch {batch}, as llamafactory needs"
        yield ("machine", "gpus"), wrong
