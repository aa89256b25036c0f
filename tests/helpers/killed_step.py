"""Not a test: a run with a function as its engine, which kills its own process before the second optimizer step.

python killed_step.py RUN_DIR
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

import isheep

# The script is started by its path, from outside the folder of the tests.
sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.helpers.function_model import SMALL, write_texts  # noqa: E402

make_step = torch.optim.AdamW.step
num_steps = 0


def step_or_die(*arguments: Any, **keywords: Any) -> Any:
    global num_steps
    num_steps += 1
    if num_steps == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return make_step(*arguments, **keywords)


torch.optim.AdamW.step = step_or_die  # type: ignore[method-assign]
isheep.align(isheep.load_recipe("lamb", SMALL), sys.argv[1], engine=write_texts).run()
