"""The peft trainer: a LoRA adapter by TRL's SFTTrainer, resumable, with the same bytes on every run."""

import json
import shutil
from collections.abc import Callable, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from isheep.chat import Chat
from isheep.errors import UserError
from isheep.files import write_text
from isheep.progress import progress
from isheep.recipe import Machine, Training
from isheep.records import Model, Pair
from isheep.trainers import checkpoints, launch
from isheep.trainers import rows as data
from isheep.trainers.adapter import RESULT, WEIGHTS, save_tokenizer, tokenizer_of
from isheep.trainers.job import Job


def train(
    model: Model,
    pairs: Sequence[Pair],
    chat: Chat,
    training: Training,
    seed: int,
    into: Path,
    machine: Machine | None = None,
) -> None:
    """SFT(M, D) (Liang et al. 2024, Algorithm 1, line 8; Appendix E): a LoRA adapter of `model` in the folder `into`.

    Starts from `model.adapter` where there is one, else from a new adapter on all linear layers. At the end `into`
    holds the adapter, the tokenizer with the chat template, and training.json (settings, rows, losses), so that plain
    transformers and peft load it. One process trains here, more are started by accelerate (launch.py). A killed call
    made again goes on at the last sealed checkpoint in `into`, and on CPU with the same number of threads and
    processes it ends with the same bytes.

    Raises UserError where fewer than two rows can be used, where the loss is no longer a number, and where a process
    that was started fails.
    """
    if not (into / RESULT).exists():
        tokenizer = tokenizer_of(model, chat)
        rows = data.choose(pairs, chat, tokenizer, training, seed)
        job = Job(
            model=model,
            train=rows.train,
            held_out=rows.held_out,
            pad=tokenizer.pad_token,
            training=training,
            seed=seed,
            machine=machine or Machine(),
            into=into,
        )
        checkpoints.sweep(into)
        if (newest := checkpoints.newest(into)) < job.steps:
            with progress(f"{into.parent.name}/training", job.steps, newest) as advance:
                _fit(job, tokenizer, advance)
        _finish(model, rows, chat, tokenizer, training, seed, into)
    for checkpoint in checkpoints.all_of(into):
        shutil.rmtree(checkpoint)
    for left in ("README.md", *launch.FILES):  # TRL's model card, and what processes were told and said
        (into / left).unlink(missing_ok=True)


def _fit(job: Job, tokenizer: Any, advance: Callable[[int], None]) -> None:
    from isheep.trainers.fit import fit

    if job.machine.processes > 1:
        launch.launch(job, advance)
    else:
        fit(job, tokenizer, advance)


# --- the adapter folder


def _finish(
    model: Model, rows: data.Rows, chat: Chat, tokenizer: Any, training: Training, seed: int, into: Path
) -> None:
    """The adapter folder from the checkpoints: the best or last one's weights, the tokenizer, training.json last."""
    last = checkpoints.newest(into)
    state = json.loads((into / f"checkpoint-{last}" / "trainer_state.json").read_text(encoding="utf-8"))
    losses = {
        name: [[entry["step"], entry[name]] for entry in state["log_history"] if name in entry]
        for name in ("loss", "eval_loss")
    }
    for name, values in losses.items():
        for step, value in values:
            if not isfinite(value):
                way = "with a new --out, lower training.learning_rate"
                raise UserError(f"training's {name} is {value} at step {step}: {way}")
    best = state["best_global_step"] if training.keep == "best" and losses["eval_loss"] else last
    kept = into / f"checkpoint-{best}"
    shutil.copyfile(kept / WEIGHTS, into / WEIGHTS)
    config = json.loads((kept / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = model.base
    config["target_modules"] = sorted(config["target_modules"])  # peft keeps a set: its order differs from run to run
    write_text(into / "adapter_config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_tokenizer(tokenizer, chat, into)
    result = {
        "base": model.base,
        "chat": chat.name,
        "seed": seed,
        "goes_on": model.adapter is not None,
        "settings": training.model_dump(exclude={"start", "data"}),  # which say only what this training was given
        "rows": {
            "sampled": rows.sampled,
            "prompt_too_long": rows.too_long,
            "trained": len(rows.train),
            "held_out": len(rows.held_out),
        },
        "steps": last,
        "kept_step": best,
        **losses,
    }
    write_text(into / RESULT, json.dumps(result, indent=1) + "\n")
