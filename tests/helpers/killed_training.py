"""Not a test: train with the peft trainer in forked processes that kill themselves, and compare the results.

python killed_training.py CHECKPOINT FOLDER MOMENT...: a moment is the number of an fsync, rename, save or optimizer
step; the process kills itself before it. Prints, as JSON, the number of moments of an undisturbed training, and for
each MOMENT the names of the files that differ from the undisturbed training's after the killed one was resumed.
"""

import filecmp
import itertools
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch

# Imported before the forks, once for all processes.
import trl  # noqa: F401

from isheep.models.chat_template import load_chat_template
from isheep.recipe.machine import Machine
from isheep.recipe.schema import Lora, Training
from isheep.records import Model
from isheep.trainers.peft import train

# The script is started by its path, from outside the folder of the tests.
sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.helpers.training import numbered_rows, save_rows  # noqa: E402

BASE, FOLDER = Path(sys.argv[1]), Path(sys.argv[2])
TRAINING = Training(
    epochs=2,
    batch_size=4,
    eval_every=3,
    learning_rate=5e-3,
    warmup_steps=2,
    lora=Lora(rank=4, dropout=0.2),
    held_out=0.2,
)
TRAINING_FILE = save_rows(FOLDER / "train.json", numbered_rows(20))


def run_forked(work: Callable[[], None]) -> int:
    """Run `work` in a process of its own and return its exit status."""
    process = os.fork()
    if process == 0:
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def training_killed_at(kill_at: int, name: str) -> Callable[[], None]:
    """Return a training into FOLDER / name that kills its process at a moment; 0: never."""
    moments = itertools.count(1)

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if next(moments) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    def work() -> None:
        os.fsync, torch.save = counted(os.fsync), counted(torch.save)
        Path.rename = counted(Path.rename)  # type: ignore[method-assign]
        torch.optim.AdamW.step = counted(torch.optim.AdamW.step)  # type: ignore[method-assign]
        peft.PeftModel.save_pretrained = counted(peft.PeftModel.save_pretrained)
        output_dir = FOLDER / name
        output_dir.mkdir(exist_ok=True)
        chat = load_chat_template("tokenizer", str(BASE))
        train(Model(str(BASE)), TRAINING_FILE, chat, TRAINING, 7, output_dir, Machine(threads=1))
        (FOLDER / f"{name}.moments").write_text(str(next(moments) - 1))

    return work


assert run_forked(training_killed_at(0, "undisturbed")) == 0
report: dict[str, Any] = {"moments": int((FOLDER / "undisturbed.moments").read_text())}
for moment in sys.argv[3:]:
    assert run_forked(training_killed_at(int(moment), moment)) == -signal.SIGKILL
    assert run_forked(training_killed_at(0, moment)) == 0
    names = {path.name for path in [*(FOLDER / "undisturbed").iterdir(), *(FOLDER / moment).iterdir()]}
    report[moment] = sum(filecmp.cmpfiles(FOLDER / "undisturbed", FOLDER / moment, names, shallow=False)[1:], [])
print(json.dumps(report))
