"""Too little memory for the rows that train at once: fewer are computed at a time, and the training goes on.

An optimizer step still has `training.batch_size` rows: they are computed in more passes (gradient accumulation).
Imports no torch.
"""

from collections.abc import Callable

from isheep.engines.memory import free_memory
from isheep.errors import UserError, describe_exception, is_out_of_memory
from isheep.rundir.progress import console
from isheep.trainers.job import Job

IN_EVALUATION = "EvaluationMemoryError"
"""The name of the class below, by which the message of another process is recognized."""


class EvaluationMemoryError(MemoryError):
    """Memory was too small for the held-out rows that are computed at once."""


class TrainingMemoryError(UserError):
    """Memory was too small in a process that trains. The message quotes its reason."""


def fit_within_memory(job: Job, fit: Callable[[Job], None]) -> None:
    """Call `fit` with the job; if memory is too small, with one of fewer rows at once, and so on.

    `fit` resumes from the newest checkpoint. Raises UserError if a single row does not fit.
    """
    while True:
        try:
            return fit(job)
        except Exception as error:
            if not is_out_of_memory(error) and not isinstance(error, TrainingMemoryError):
                raise
            reason, in_evaluation = describe_exception(error), IN_EVALUATION in f"{type(error).__name__}: {error}"
        # Not in the handler, whose error holds on to the model.
        free_memory()
        job = smaller_job(job, in_evaluation, reason)


def smaller_job(job: Job, in_evaluation: bool, reason: str) -> Job:
    """Return a job with fewer rows at once, and tell the user. Raises UserError if it computes a single row already.

    If the training rows were too many, the held-out rows stay as many, so that their losses can still be compared.
    """
    num_rows = job.eval_batch_size if in_evaluation else job.device_batch_size
    if num_rows == 1:
        longest = max(len(row.input_ids) for row in (job.held_out if in_evaluation else job.train))
        raise UserError(
            f"not enough memory to train on a single row of up to {longest} tokens ({reason}); the same command "
            "resumes from the last checkpoint where more memory is free: lower training.cutoff, set "
            "machine.gradient_checkpointing to true, training.quantize to nf4 (CUDA), or take a smaller model"
        )
    if in_evaluation:
        smaller = num_rows // 2
        new_job = job.model_copy(update={"eval_rows": smaller})
    else:
        divisors = (rows for rows in range(1, num_rows // 2 + 1) if job.training.batch_size % rows == 0)
        smaller = max(divisors)
        machine = job.machine.model_copy(update={"rows_per_process": smaller})
        new_job = job.model_copy(update={"machine": machine, "eval_rows": job.eval_batch_size})
    label = "held-out rows" if in_evaluation else "training rows"
    console.print(
        f"not enough memory for {num_rows} {label} at once, going on with {smaller} from the last checkpoint; a step "
        f"still has {job.training.batch_size} rows (machine.rows_per_process; {reason})",
        markup=False,
        soft_wrap=True,
    )
    return new_job
