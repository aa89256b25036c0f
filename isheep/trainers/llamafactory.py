"""The llamafactory trainer: LLaMA-Factory, the tool of Appendix E, called as a command with files written for it."""

import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from isheep.errors import Conflicts, UserError
from isheep.models.adapter_files import load_training_tokenizer
from isheep.models.chat_template import ChatTemplate
from isheep.models.checkpoint import find_checkpoint
from isheep.prompts import is_jinja_text
from isheep.recipe.machine import Machine
from isheep.recipe.schema import Recipe, Training
from isheep.records import Model, Pair
from isheep.rundir.atomic import write_json_list, write_text
from isheep.rundir.training_file import TrainingRow, read_training_file
from isheep.trainers import adapter_dir, launch
from isheep.trainers.adapter_dir import TrainingRequest
from isheep.trainers.machine import batch_conflicts, check_gpus
from isheep.trainers.rows import TrainingExamples, select_examples

COMMAND = "llamafactory-cli"
SETTINGS_FILE = "sft.yaml"

SYSTEM = "You are a helpful assistant."
"""The system turn of qwen.jinja (Appendix E)."""

TRAIN_DATASET, HELD_OUT_DATASET = "isheep", "isheep_held_out"

WORK_DIR = "llamafactory"
"""The folder inside the adapter folder in which LLaMA-Factory runs; removed at the end."""

RESULT_DIR = "adapter"
"""The folder inside WORK_DIR into which LLaMA-Factory writes checkpoints and weights."""


def train(
    start_model: Model,
    training_file: Path,
    chat_template: ChatTemplate,
    training: Training,
    seed: int,
    output_dir: Path,
    machine: Machine,
) -> None:
    """Fine-tune as the peft trainer does, on the same rows with the same rows held out.

    The order of the rows and the dropout masks are LLaMA-Factory's, and so are the end tokens: it teaches one after
    every answer, also after one with `finish` "length". A call after a killed one resumes from the last checkpoint.
    Raises UserError if LLaMA-Factory fails, and for the training file as the peft trainer.
    """
    data = read_training_file(training_file)
    request = TrainingRequest(start_model, data, chat_template, training, seed, output_dir)
    adapter_dir.pin_training_file(request)
    if not adapter_dir.is_complete(output_dir):
        _train(request, machine)
    shutil.rmtree(output_dir / WORK_DIR, ignore_errors=True)
    adapter_dir.remove_training_files(output_dir, (launch.LOG_FILE,))


def check(recipe: Recipe) -> None:
    """Raise UserError if this machine can't train as the recipe says."""
    check_gpus(recipe)
    if not shutil.which(COMMAND):
        raise UserError(
            f"machine.trainer llamafactory needs {COMMAND}, which is not installed: set machine.trainer to peft"
        )


def conflicts(recipe: Recipe) -> Conflicts:
    """Yield the settings of the recipe that exclude each other with this trainer, as (key path, message)."""
    machine, batch_size = recipe.machine, recipe.training.batch_size
    yield from batch_conflicts(recipe)
    if is_jinja_text(recipe.chat_template):
        yield (
            ("chat_template",),
            "llamafactory knows templates by name: take trainer peft, or tokenizer",
        )
    unsupported = {"strategy": machine.strategy != "ddp", "nodes": machine.nodes > 1, "packing": machine.packing}
    for key in (key for key, is_set in unsupported.items() if is_set):
        yield ("machine", key), "it is for trainer: peft, and trainer is llamafactory"
    if recipe.training.weigh == "rows":
        yield ("training", "weigh"), "what weighs the same is up to LLaMA-Factory's version: take machine.trainer: peft"
    if batch_size % ((machine.rows_per_process or 1) * machine.gpus):
        product = f"{machine.gpus} times machine.rows_per_process"
        yield ("machine", "gpus"), f"{product} does not divide training.batch_size {batch_size}, as llamafactory needs"


def _train(request: TrainingRequest, machine: Machine) -> None:
    """Write LLaMA-Factory's files, run it, and write the adapter folder from its weights."""
    output_dir, training = request.output_dir, request.training
    work_dir, result_dir = output_dir / WORK_DIR, output_dir / WORK_DIR / RESULT_DIR
    tokenizer = load_training_tokenizer(request.start_model, request.chat_template)
    examples = select_examples(request.data.rows, request.chat_template, tokenizer, training, request.seed)
    _write_work_dir(request, examples, machine)
    _remove_torn_checkpoints(result_dir)
    _run(work_dir, output_dir / launch.LOG_FILE, machine)
    result = adapter_dir.read_result(result_dir / "trainer_state.json", training)
    adapter_dir.write_adapter(request, examples, tokenizer, result, result_dir)


def _write_work_dir(request: TrainingRequest, examples: TrainingExamples, machine: Machine) -> None:
    settings = sft_settings(request.start_model, request.chat_template.name, request.training, request.seed)
    settings |= {
        "overwrite_output_dir": False,
        "eval_dataset": HELD_OUT_DATASET if examples.held_out else None,
        **_machine_settings(request.training, machine),
    }
    datasets = {
        TRAIN_DATASET: [example.row for example in examples.train],
        HELD_OUT_DATASET: [example.row for example in examples.held_out],
    }
    write_input_files(request.output_dir / WORK_DIR, datasets, settings)


def _remove_torn_checkpoints(result_dir: Path) -> None:
    """Remove checkpoints without a trainer_state.json, which is written last."""
    for checkpoint in result_dir.glob("checkpoint-*"):
        if not (checkpoint / "trainer_state.json").exists():
            shutil.rmtree(checkpoint)


def sft_settings(start_model: Model, template: str, training: Training, seed: int) -> dict[str, Any]:
    """Return LLaMA-Factory's settings for a training (defaults: Appendix E); None stands for a key to leave out."""
    base = find_checkpoint(start_model.base)
    # LLaMA-Factory runs in a folder of its own, so paths must be absolute.
    adapter = str(start_model.adapter.resolve()) if start_model.adapter else None
    return {
        "model_name_or_path": str(Path(base).resolve()) if Path(base).is_dir() else base,
        "adapter_name_or_path": adapter,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_target": "all",
        "lora_rank": training.lora.rank,
        "lora_alpha": training.lora.alpha,
        "lora_dropout": training.lora.dropout,
        "dataset_dir": ".",
        "dataset": TRAIN_DATASET,
        # Without a template LLaMA-Factory takes the tokenizer's.
        "template": None if template == "tokenizer" else template,
        "cutoff_len": training.cutoff,
        "learning_rate": training.learning_rate,
        "num_train_epochs": training.epochs,
        "max_steps": training.max_steps,
        "lr_scheduler_type": training.scheduler,
        "warmup_steps": training.warmup_steps,
        "logging_steps": 10,
        "save_steps": training.eval_every,
        "eval_strategy": "steps" if training.held_out else "no",
        "eval_steps": training.eval_every,
        "load_best_model_at_end": training.keep == "best" and bool(training.held_out),
        # numpy takes no larger seed.
        "seed": seed % 2**32,
        "output_dir": RESULT_DIR,
    }


def write_input_files(
    folder: Path, datasets: Mapping[str, Iterable[TrainingRow | Pair]], settings: Mapping[str, Any]
) -> None:
    """Write what `llamafactory-cli train sft.yaml` reads: each dataset as NAME.json, dataset_info.json and sft.yaml.

    Empty datasets and settings that are None are left out.
    """
    system = {}
    # LLaMA-Factory's own "qwen" template has another system turn in some versions.
    if settings["template"] == "qwen":
        system = {"system": SYSTEM}
    columns = {"prompt": "instruction", "query": "input", "response": "output"} | {key: key for key in system}
    info = {}
    for name, rows in datasets.items():
        alpaca_rows = [alpaca_row(row) | system for row in rows]
        if alpaca_rows:
            has_history = any("history" in row for row in alpaca_rows)
            history = {"history": "history"} if has_history else {}
            info[name] = {"file_name": f"{name}.json", "formatting": "alpaca", "columns": columns | history}
            if has_history:
                alpaca_rows = [{**row, "history": row.get("history", [])} for row in alpaca_rows]
                # Else LLaMA-Factory learns the earlier answers, too, which have rows of their own.
                settings = {**settings, "mask_history": True}
            write_json_list(folder / f"{name}.json", alpaca_rows)
    write_text(folder / "dataset_info.json", json.dumps(info, indent=1) + "\n")
    present = {key: value for key, value in settings.items() if value is not None}
    write_text(folder / SETTINGS_FILE, yaml.safe_dump(present, sort_keys=False, allow_unicode=True))


def alpaca_row(row: TrainingRow | Pair) -> dict[str, Any]:
    """Return a row in the form of Stanford Alpaca: instruction, input, output; in a dialogue also `history`.

    `history` is LLaMA-Factory's: a list of [user's turn, answer].
    """
    history = {"history": [list(exchange) for exchange in row.history]} if row.history else {}
    return {"instruction": row.instruction, "input": row.input, "output": row.output, **history}


def _machine_settings(training: Training, machine: Machine) -> dict[str, Any]:
    """Return the settings by which an optimizer step has `training.batch_size` rows, on the GPUs or on the CPU."""
    import torch

    use_cuda = torch.cuda.is_available() and machine.device != "cpu"
    device_batch_size = machine.rows_per_process or training.batch_size // machine.gpus
    checkpointing = use_cuda if machine.gradient_checkpointing is None else machine.gradient_checkpointing
    return {
        "per_device_train_batch_size": device_batch_size,
        "per_device_eval_batch_size": device_batch_size,
        "gradient_accumulation_steps": training.batch_size // (device_batch_size * machine.gpus),
        "disable_gradient_checkpointing": not checkpointing,
        "quantization_bit": 4 if training.quantize else None,
        "bf16": use_cuda,
        "use_cpu": None if use_cuda else True,
        "report_to": "none",
        "save_only_model": False,
    }


def _run(work_dir: Path, log: Path, machine: Machine) -> None:
    # Without NPROC_PER_NODE LLaMA-Factory starts a process for every GPU that it sees.
    environment = {"NPROC_PER_NODE": str(machine.gpus)}
    if machine.gpus > 1:
        environment["FORCE_TORCHRUN"] = "1"
    if machine.threads:
        environment["OMP_NUM_THREADS"] = str(machine.threads)
    if machine.device and ":" in machine.device:
        environment["CUDA_VISIBLE_DEVICES"] = _visible_device(machine.device)
    argv = [sys.executable, "-m", "isheep.sandbox.process_guard", COMMAND, "train", SETTINGS_FILE]
    launch.run_training_command(launch.TrainingCommand(COMMAND, argv, log, environment, work_dir))


def _visible_device(device: str) -> str:
    """Return CUDA_VISIBLE_DEVICES for a device such as cuda:1, an index into the devices that are visible now."""
    index, visible = device.partition(":")[2], os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[int(index)] if visible else index
