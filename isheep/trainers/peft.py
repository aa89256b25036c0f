"""The peft trainer: a LoRA adapter by TRL's SFTTrainer, resumable, with the same bytes in every run."""

import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from isheep.errors import Conflicts, UserError
from isheep.models.adapter_files import load_training_tokenizer
from isheep.models.chat_template import ChatTemplate
from isheep.recipe.machine import Machine
from isheep.recipe.schema import Recipe, Training
from isheep.records import Model
from isheep.rundir import progress
from isheep.rundir.training_file import read_training_file
from isheep.trainers import adapter_dir, checkpoints, launch
from isheep.trainers.adapter_dir import TrainingRequest
from isheep.trainers.job import Job
from isheep.trainers.machine import batch_conflicts, can_use_cuda, check_gpus, is_installed, rows_on_cpu
from isheep.trainers.memory import fit_within_memory
from isheep.trainers.rows import TrainingExamples, select_examples

TRL_MODEL_CARD = "README.md"


def train(
    start_model: Model,
    training_file: Path,
    chat_template: ChatTemplate,
    training: Training,
    seed: int,
    output_dir: Path,
    machine: Machine | None = None,
) -> None:
    """Fine-tune: M^t <- SFT(M, D^t) (Liang et al. 2024, Algorithm 1, line 8; Appendix E), by LoRA.

    Starts from the adapter of `start_model` if it has one, else from a new adapter on all linear layers. At the end
    `output_dir` holds the adapter, the tokenizer with the chat template, and training.json (settings, rows, losses), so
    that plain transformers and peft load it. One process trains here; several are started by accelerate (launch.py).

    A call after a killed one resumes from the last sealed checkpoint in `output_dir`. On the CPU, with the same number
    of threads and processes, it ends with the same bytes as an undisturbed one.

    Raises UserError if the training file is malformed or has changed since a killed call began, if fewer than two rows
    can be used, if a loss is not finite, and if a process that was started fails.
    """
    data = read_training_file(training_file)
    request = TrainingRequest(start_model, data, chat_template, training, seed, output_dir)
    adapter_dir.pin_training_file(request)
    if not adapter_dir.is_complete(output_dir):
        _train(request, machine or Machine())
    for checkpoint in checkpoints.list_checkpoints(output_dir):
        shutil.rmtree(checkpoint)
    adapter_dir.remove_training_files(output_dir, (TRL_MODEL_CARD, launch.JOB_FILE, launch.LOG_FILE))


def check(recipe: Recipe) -> None:
    """Raise UserError if this machine can't train as the recipe says. Imports no torch if one process trains."""
    machine = recipe.machine
    check_gpus(recipe)
    if machine.strategy != "ddp" and not can_use_cuda(machine):
        raise UserError(f"machine.strategy {machine.strategy} needs CUDA, which this machine lacks: set it to ddp")
    if machine.strategy == "zero3" and not is_installed("deepspeed"):
        raise UserError("machine.strategy zero3 needs DeepSpeed: pip install deepspeed, or set it to fsdp")
    if machine.nodes > 1 and not (shutil.which("srun") and "SLURM_JOB_ID" in os.environ):
        raise UserError(
            f"machine.nodes is {machine.nodes}: more than one node needs srun in a Slurm allocation (docs/scale.md), "
            "and this process is in none: start it with sbatch or salloc, or set machine.nodes to 1"
        )


def conflicts(recipe: Recipe) -> Conflicts:
    """Yield the settings of the recipe that exclude each other with this trainer, as (key path, message)."""
    machine, path = recipe.machine, ("machine", "strategy")
    yield from batch_conflicts(recipe)
    if recipe.training.weigh == "rows":
        for key, is_set in (("packing", machine.packing), ("rows_per_process", (machine.rows_per_process or 1) > 1)):
            if is_set:
                yield ("machine", key), "training.weigh: rows computes one row at a time: leave it out"
    if machine.strategy == "ddp":
        return
    if machine.processes == 1:
        yield path, f"{machine.strategy} is for more than one GPU: set machine.gpus, or set strategy to ddp"
    if machine.device == "cpu":
        yield path, f"{machine.strategy} needs GPUs, and machine.device is cpu: set strategy to ddp"
    if recipe.training.quantize:
        way_out = "set strategy to ddp, or training.quantize to null"
        yield path, f"{machine.strategy} can't shard a base in 4 bits: {way_out}"


def _train(request: TrainingRequest, machine: Machine) -> None:
    """Train to the last step and write the adapter folder from the checkpoint that is kept."""
    output_dir, training = request.output_dir, request.training
    tokenizer = load_training_tokenizer(request.start_model, request.chat_template)
    examples = select_examples(request.data.rows, request.chat_template, tokenizer, training, request.seed)
    job = _make_job(request, examples, tokenizer.pad_token, machine)
    checkpoints.remove_torn_checkpoints(output_dir)
    first_step = checkpoints.newest_step(output_dir)
    if first_step < job.num_steps:
        _check_strategy(checkpoints.checkpoint_dir(output_dir, first_step), machine)
        fit_within_memory(job, partial(_fit, tokenizer=tokenizer))
    _finish(request, examples, tokenizer)


def _make_job(request: TrainingRequest, examples: TrainingExamples, pad_token: str, machine: Machine) -> Job:
    train, held_out = ([example.tokens for example in part] for part in (examples.train, examples.held_out))
    if not machine.rows_per_process and machine.processes == 1 and not can_use_cuda(machine):
        longest_row = max(len(row.input_ids) for row in (*train, *held_out))
        rows = rows_on_cpu(request.training.batch_size, longest_row)
        machine = machine.model_copy(update={"rows_per_process": rows})
    return Job(
        start_model=request.start_model,
        train=train,
        held_out=held_out,
        pad_token=pad_token,
        training=request.training,
        seed=request.seed,
        machine=machine,
        output_dir=request.output_dir,
    )


def _fit(job: Job, tokenizer: Any) -> None:
    """Train from the newest checkpoint to the last step, in this process or in several."""
    from isheep.trainers.fit import fit

    checkpoints.remove_torn_checkpoints(job.output_dir)
    first_step = checkpoints.newest_step(job.output_dir)
    with progress.stage(f"{job.output_dir.parent.name}/adapter", job.num_steps, first_step, "steps") as advance:
        if job.machine.processes > 1:
            launch.launch(job, advance)
        else:
            fit(job, tokenizer, advance)


def _check_strategy(checkpoint: Path, machine: Machine) -> None:
    """Raise UserError if the checkpoint to resume from was written by another strategy, in a format of its own."""
    if checkpoint.exists() and (checkpoint / "optimizer.pt").exists() != (machine.strategy == "ddp"):
        raise UserError(
            f"{checkpoint.parent} holds a checkpoint of another machine.strategy than {machine.strategy}: "
            "set it back, or delete that folder to train from the start"
        )


def _finish(request: TrainingRequest, examples: TrainingExamples, tokenizer: Any) -> None:
    """Write the adapter folder with the weights of the best or the last checkpoint."""
    output_dir = request.output_dir
    last_checkpoint = checkpoints.checkpoint_dir(output_dir, checkpoints.newest_step(output_dir))
    result = adapter_dir.read_result(last_checkpoint / "trainer_state.json", request.training)
    weights_dir = checkpoints.checkpoint_dir(output_dir, result.kept_step)
    adapter_dir.write_adapter(request, examples, tokenizer, result, weights_dir)
