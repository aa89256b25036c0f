"""One of the processes that train together: python -m isheep.trainers.worker JOB, as launch.py has it started.

The first one says on standard output when a step is done; one that fails says why in a line.
"""

import os
import sys
import threading
import traceback
from pathlib import Path

STEP = "isheep: step\n"
ERROR = "isheep: error: "


def main() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _train(Path(sys.argv[1]))
    except Exception as error:
        traceback.print_exc()
        first = (str(error).strip().splitlines() or [""])[0]
        print(f"{ERROR}{type(error).__name__}: {first}", flush=True)
        sys.stderr.flush()
        os._exit(1)  # a process group that others wait in may keep a failed process from ending


def _train(path: Path) -> None:
    from isheep.models.checkpoint import load_tokenizer
    from isheep.trainers.fit import fit
    from isheep.trainers.job import Job

    job = Job.model_validate_json(path.read_bytes())
    tokenizer = load_tokenizer(job.model.base)
    tokenizer.pad_token = job.pad
    first = int(os.environ.get("RANK", "0")) == 0
    fit(job, tokenizer, lambda steps: print(STEP * steps, end="", flush=True) if first else None)


def _end_with_parent() -> None:
    """Wait for the end of standard input, which comes when the process that asked for the training is gone."""
    while os.read(0, 1024):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
