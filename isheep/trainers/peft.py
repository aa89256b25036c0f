"""The peft trainer: a LoRA adapter by TRL's SFTTrainer, resumable, with the same bytes on every run."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from isheep.errors import UserError
from isheep.models.adapter_files import load_training_tokenizer
from isheep.models.chat_template import ChatTemplate
from isheep.recipe.schema import Machine, Training
from isheep.records import Model, Pair
from isheep.rundir.progress import progress
from isheep.trainers import checkpoints, launch
from isheep.trainers import rows as data
from isheep.trainers.adapter import TRAINING_RECORD, read_losses, training_record, write_adapter
from isheep.trainers.job import Job


def train(
    model: Model,
    pairs: Sequence[Pair],
    chat: ChatTemplate,
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
    if not (into / TRAINING_RECORD).exists():
        tokenizer = load_training_tokenizer(model, chat)
        rows = data.select_rows(pairs, chat, tokenizer, training, seed)
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
        checkpoints.remove_torn_checkpoints(into)
        if (newest := checkpoints.newest_step(into)) < job.steps:
            _check(into / f"checkpoint-{newest}", job.machine)
            with progress(f"{into.parent.name}/training", job.steps, newest) as advance:
                _fit(job, tokenizer, advance)
        _finish(model, rows, chat, tokenizer, training, seed, into)
    for checkpoint in checkpoints.list_checkpoints(into):
        shutil.rmtree(checkpoint)
    for left in ("README.md", *launch.FILES):  # TRL's model card, and what processes were told and said
        (into / left).unlink(missing_ok=True)


def _fit(job: Job, tokenizer: Any, advance: Callable[[int], None]) -> None:
    from isheep.trainers.fit import fit

    if job.machine.processes > 1:
        launch.launch(job, advance)
    else:
        fit(job, tokenizer, advance)


def _check(checkpoint: Path, machine: Machine) -> None:
    """Raises UserError where a checkpoint is there that another strategy wrote, in a form of its own."""
    if checkpoint.exists() and (checkpoint / "optimizer.pt").exists() != (machine.strategy == "ddp"):
        way = "set it back, or remove that folder to train anew"
        raise UserError(
            f"{checkpoint.parent} holds a checkpoint of another machine.strategy than {machine.strategy}: {way}"
        )


def _finish(
    model: Model,
    rows: data.TokenizedRows,
    chat: ChatTemplate,
    tokenizer: Any,
    training: Training,
    seed: int,
    into: Path,
) -> None:
    """The adapter folder from the checkpoints: the best or the last one's weights."""
    last = checkpoints.newest_step(into)
    state = json.loads((into / f"checkpoint-{last}" / "trainer_state.json").read_text(encoding="utf-8"))
    losses = read_losses(state)
    best = state["best_global_step"] if training.keep == "best" and losses["eval_loss"] else last
    result = {**training_record(model, rows, chat, training, seed), "steps": last, "kept_step": best, **losses}
    write_adapter(into, into / f"checkpoint-{best}", model, chat, tokenizer, result)
