"""What a process that trains has to know: all of it goes through one file where the process is another one."""

from math import ceil
from pathlib import Path

from isheep.recipe.schema import Machine, Training
from isheep.records import Model, Settings
from isheep.trainers.rows import TokenizedRow, row_schedule


class Job(Settings):
    """One training: LoRA on `model` with these rows, as sealed checkpoints in the folder `into`. `pad` is the token
    that fills a batch."""

    model: Model
    train: list[TokenizedRow]
    held_out: list[TokenizedRow]
    pad: str
    training: Training
    seed: int
    machine: Machine
    into: Path

    @property
    def places(self) -> list[int]:
        """The places of the rows for the whole training, `training.batch` of them to an optimizer step."""
        return row_schedule([len(row.input_ids) for row in self.train], self.training, self.seed)

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return self.training.max_steps or ceil(len(self.train) * self.training.epochs / self.training.batch)

    @property
    def at_once(self) -> int:
        """Rows that a process reads at once."""
        return self.machine.rows or ceil(self.training.batch / self.machine.processes)

    @property
    def held_out_batch(self) -> int:
        """Rows of a held-out batch, of which the mean loss is taken: the same with any number of processes."""
        return self.machine.rows or self.training.batch

    @property
    def rounds(self) -> int:
        """How often all processes read rows for one optimizer step: gradient accumulation."""
        return ceil(self.training.batch / (self.at_once * self.machine.processes))
