"""Too little memory for the rows of a batch: fewer are computed at a time, and the call goes on.

Imports no torch, so that the engine's module stays quick to import.
"""

import gc
import sys
from collections.abc import Callable
from typing import TypeVar

from isheep.errors import UserError, describe_exception, is_out_of_memory
from isheep.rundir.progress import console

T = TypeVar("T")


def compute_within_memory(
    compute: Callable[[int], T], num_rows: int, num_given: Callable[[], int], remember: Callable[[int], None]
) -> T:
    """Return `compute(num_rows)`, which computes at most so many rows at a time; of fewer if memory is too small.

    If it is, half as many are tried, or half of `num_given()`, the rows that the last attempt had to compute, if these
    are fewer, and so on. `remember` is called with each smaller number, for later calls. Raises UserError if a single
    row does not fit.
    """
    while True:
        try:
            return compute(num_rows)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = describe_exception(error)
        # Not in the handler, whose error holds on to the tensors of the batch.
        free_memory()
        num_rows = min(num_rows, num_given())
        if num_rows <= 1:
            raise UserError(
                f"not enough memory for a single prompt ({reason}); everything finished so far is saved: run the same "
                "command where more memory is free, with shorter prompts and answers (synthesis.examples, max_tokens), "
                "machine.dtype: bfloat16 or a smaller model"
            )
        console.print(
            f"not enough memory for {num_rows} prompts at once, going on with {num_rows // 2} "
            f"(machine.engine_batch_size; {reason})",
            markup=False,
            soft_wrap=True,
        )
        num_rows //= 2
        remember(num_rows)


def free_memory() -> None:
    """Free what is no longer used, on the GPU too."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
