"""Not a test: trains with the peft trainer in forked processes that kill themselves, and compares what is left.

python killed_training.py CHECKPOINT FOLDER MOMENT...: a moment is the number of an fsync, rename, save or optimizer
step that is not reached. Prints, as JSON, the number of moments of a whole training, and for each MOMENT the names of
the files that differ from an undisturbed training's after the killed one was made again.
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
import trl  # noqa: F401  loaded before the forks, once for all of them

from isheep.models.chat_template import load_chat_template
from isheep.recipe.schema import Lora, Machine, Training
from isheep.records import Model, Pair
from isheep.trainers.peft import train

BASE, FOLDER = Path(sys.argv[1]), Path(sys.argv[2])
TRAINING = Training(
    epochs=2, batch=4, eval_every=3, learning_rate=5e-3, warmup_steps=2, lora=Lora(rank=4, dropout=0.2), held_out=0.2
)
PAIRS = [
    Pair(id=str(n), instruction=f"Say {n}", output=f"It is {n}." * (1 + n % 3), finish="stop", tokens=4, seed=n)
    for n in range(20)
]


def forked(work: Callable[[], None]) -> int:
    """Run `work` in a process of its own; its exit status."""
    process = os.fork()
    if process == 0:
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def trained(name: str, kill_at: int) -> Callable[[], None]:
    moments = itertools.count(1)

    def killed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            if next(moments) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*given, **named)

        return call

    def work() -> None:
        os.fsync, torch.save = killed(os.fsync), killed(torch.save)
        Path.rename = killed(Path.rename)  # type: ignore[method-assign]
        torch.optim.AdamW.step = killed(torch.optim.AdamW.step)  # type: ignore[method-assign]
        peft.PeftModel.save_pretrained = killed(peft.PeftModel.save_pretrained)
        folder = FOLDER / name
        folder.mkdir(exist_ok=True)
        train(
            Model(str(BASE)), PAIRS, load_chat_template("tokenizer", str(BASE)), TRAINING, 7, folder, Machine(threads=1)
        )
        (FOLDER / f"{name}.moments").write_text(str(next(moments) - 1))

    return work


assert forked(trained("whole", 0)) == 0
found: dict[str, Any] = {"moments": int((FOLDER / "whole.moments").read_text())}
for moment in sys.argv[3:]:
    assert forked(trained(moment, int(moment))) == -signal.SIGKILL
    assert forked(trained(moment, 0)) == 0
    names = {path.name for path in [*(FOLDER / "whole").iterdir(), *(FOLDER / moment).iterdir()]}
    found[moment] = sum(filecmp.cmpfiles(FOLDER / "whole", FOLDER / moment, names, shallow=False)[1:], [])
print(json.dumps(found))
