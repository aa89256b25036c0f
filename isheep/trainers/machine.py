"""What every trainer needs of a recipe and of the machine: batches that come out even, and GPUs that exist."""

import importlib.util

from isheep.errors import Conflicts, UserError
from isheep.recipe.machine import Machine
from isheep.recipe.schema import Recipe

MAX_CPU_TOKENS = 1024
"""The number of tokens that training computes at once on a CPU, unless the recipe gives machine.rows_per_process.

More tokens cost time, because their activations leave the CPU's caches and the memory for them is requested anew in
each step. They cost memory too: on SmolLM2-135M 2,550 tokens at once took 12.8 GB and 69 CPU seconds, in four parts
3.8 GB and 53 CPU seconds.
"""


def batch_conflicts(recipe: Recipe) -> Conflicts:
    """Yield the settings of batches and devices that exclude each other, whichever the trainer is."""
    machine, batch_size = recipe.machine, recipe.training.batch_size
    if machine.rows_per_process and batch_size % machine.rows_per_process:
        message = f"{machine.rows_per_process} does not divide training.batch_size {batch_size}"
        yield ("machine", "rows_per_process"), message
    elif batch_size // (machine.rows_per_process or 1) < machine.processes:
        message = (
            f"{machine.processes} processes are more than a training.batch_size of {batch_size} rows, "
            f"{machine.rows_per_process or 1} at once, has work for"
        )
        yield ("machine", "gpus"), message
    if machine.processes > 1 and machine.device and ":" in machine.device:
        message = f"{machine.device} is one GPU, and machine.gpus and nodes make {machine.processes} processes"
        yield ("machine", "device"), message


def rows_on_cpu(batch_size: int, longest_row: int) -> int:
    """Return how many rows a CPU should compute at once: the largest divisor of `batch_size` with MAX_CPU_TOKENS.

    If a single row is longer than that, it is computed by itself.
    """
    divisors = [rows for rows in range(1, batch_size + 1) if batch_size % rows == 0]
    return max(rows for rows in divisors if rows == 1 or rows * longest_row <= MAX_CPU_TOKENS)


def uses_quantization(recipe: Recipe) -> bool:
    """Return whether an iteration of the recipe trains on a quantized base."""
    return any(variant.training.quantize for variant in recipe.variants)


def check_gpus(recipe: Recipe) -> None:
    """Raise UserError if this machine lacks the GPUs, or the library for quantization, that the recipe asks for.

    Cheap if one process trains without quantization: torch is not imported.
    """
    machine, quantize = recipe.machine, uses_quantization(recipe)
    if machine.processes == 1 and not quantize:
        return
    has_cuda = can_use_cuda(machine)
    if quantize and not (has_cuda and is_installed("bitsandbytes")):
        raise UserError(
            "training.quantize: nf4 needs CUDA and bitsandbytes (pip install bitsandbytes), and this machine has "
            f"{'CUDA without bitsandbytes' if has_cuda else 'no CUDA'}: set training.quantize to null"
        )
    if has_cuda:
        import torch

        num_gpus = torch.cuda.device_count()
        if machine.gpus > num_gpus:
            raise UserError(f"machine.gpus is {machine.gpus}, and this machine has {num_gpus}: lower it")


def can_use_cuda(machine: Machine) -> bool:
    """Return whether training runs on CUDA: it is available, and machine.device does not say cpu."""
    import torch

    return torch.cuda.is_available() and machine.device != "cpu"


def is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
