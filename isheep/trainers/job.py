"""The description of one training, complete enough to be handed to another process in a file."""

from math import ceil
from pathlib import Path

from isheep.recipe.machine import Machine
from isheep.recipe.schema import Training
from isheep.records import Model, Settings
from isheep.trainers.rows import TokenizedRow, row_schedule


class Job(Settings):
    """One training: LoRA on `start_model` with the rows `train`; sealed checkpoints are written into `output_dir`.

    `pad_token` fills the shorter rows of a batch. `eval_rows` is the number of held-out rows in a batch if memory was
    too small for the usual one.
    """

    start_model: Model
    train: list[TokenizedRow]
    held_out: list[TokenizedRow]
    pad_token: str
    training: Training
    seed: int
    machine: Machine
    output_dir: Path
    eval_rows: int | None = None

    @property
    def schedule(self) -> list[int]:
        """Return the indices of the rows for the whole training, `training.batch_size` of them per optimizer step."""
        return row_schedule([len(row.input_ids) for row in self.train], self.training, self.seed)

    @property
    def num_steps(self) -> int:
        """Return the number of optimizer steps."""
        return self.training.max_steps or ceil(len(self.train) * self.training.epochs / self.training.batch_size)

    @property
    def device_batch_size(self) -> int:
        """Return the number of rows that a process reads in one forward pass: 1 if every row weighs the same."""
        if self.training.weigh == "rows":
            return 1
        return self.machine.rows_per_process or ceil(self.training.batch_size / self.machine.processes)

    @property
    def eval_batch_size(self) -> int:
        """Return the number of held-out rows in a batch.

        The held-out loss is a mean of batch means, so the size must not depend on the number of processes. Of one row
        each, it is a mean of row means.
        """
        if self.training.weigh == "rows":
            return 1
        return self.eval_rows or self.machine.rows_per_process or self.training.batch_size

    @property
    def accumulation_steps(self) -> int:
        """Return the number of forward passes of all processes for one optimizer step."""
        return ceil(self.training.batch_size / (self.device_batch_size * self.machine.processes))
