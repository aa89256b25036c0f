"""python -m isheep.trainers.worker JOB: one of the processes that train together, as launch.py starts them.

The process of rank 0 prints a line when an optimizer step is done, and one with each loss; a process that fails prints
the reason in one line.
"""

import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from isheep.rundir import progress

STEP_LINE = "isheep: step\n"
LOSS_PREFIX = "isheep: losses "
ERROR_PREFIX = "isheep: error: "


def main() -> None:
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    try:
        _train(Path(sys.argv[1]))
    except Exception as error:
        traceback.print_exc()
        first_line = (str(error).strip().splitlines() or [""])[0]
        print(f"{ERROR_PREFIX}{type(error).__name__}: {first_line}", flush=True)
        sys.stderr.flush()
        # Not sys.exit: torch's process group, in which the other processes wait, can keep this one from exiting.
        os._exit(1)


def _train(job_file: Path) -> None:
    from isheep.models.checkpoint import load_tokenizer
    from isheep.trainers.fit import fit
    from isheep.trainers.job import Job

    job = Job.model_validate_json(job_file.read_bytes())
    tokenizer = load_tokenizer(job.start_model.base)
    tokenizer.pad_token = job.pad_token
    with progress.listen_to_losses(_print_losses):
        fit(job, tokenizer, _step_reporter())


def _step_reporter() -> Callable[[int], None]:
    """Return the function that reports finished steps: it prints lines in the process of rank 0 only."""
    if int(os.environ.get("RANK", "0")) == 0:
        return lambda steps: print(STEP_LINE * steps, end="", flush=True)
    return lambda steps: None


def _print_losses(iteration: int | None, step: int, losses: Mapping[str, float]) -> None:
    """Print a line with the losses of an optimizer step in the process of rank 0."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"{LOSS_PREFIX}{json.dumps([step, dict(losses)])}", flush=True)


def _exit_with_parent() -> None:
    """Wait for the end of standard input, which comes when the process that started the training is gone; then exit."""
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
