"""The llamafactory trainer: Appendix E's own tool, given its files and called where it is installed."""

import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from isheep.models import adapter_files
from isheep.models.chat_template import ChatTemplate
from isheep.models.checkpoint import find_checkpoint
from isheep.recipe.schema import Machine, Training
from isheep.records import Model, Pair
from isheep.rundir.atomic import write_json_list, write_text
from isheep.trainers import adapter, launch
from isheep.trainers.rows import TokenizedRows, select_pairs

SYSTEM = "You are a helpful assistant."  # the system turn of qwen.jinja (Appendix E)
HELD_OUT = "isheep_held_out"
FOLDER = "llamafactory"  # in the adapter folder, while it trains


def train(
    model: Model, pairs: Sequence[Pair], chat: ChatTemplate, training: Training, seed: int, into: Path, machine: Machine
) -> None:
    """As trainers/peft.py's `train`, with the same rows to learn from and to hold out; their order and the masks of
    dropout are LLaMA-Factory's. A killed call made again goes on at its last checkpoint.

    Raises UserError where LLaMA-Factory is not installed, or fails.
    """
    if not (into / adapter.TRAINING_RECORD).exists():
        tokenizer = adapter_files.load_training_tokenizer(model, chat)
        train, held_out, sampled, too_long = select_pairs(pairs, chat, tokenizer, training, seed)
        rows = TokenizedRows([row for _, row in train], [row for _, row in held_out], sampled, too_long)
        folder, out = into / FOLDER, into / FOLDER / "adapter"
        data = {"isheep": [pair for pair, _ in train], HELD_OUT: [pair for pair, _ in held_out]}
        said = {"overwrite_output_dir": False, "eval_dataset": HELD_OUT if held_out else None}
        said |= _steps(training, machine)
        write(model, chat.name, training, seed, folder, data, said)
        for checkpoint in out.glob("checkpoint-*"):
            if not (checkpoint / "trainer_state.json").exists():  # which is written last
                shutil.rmtree(checkpoint)
        _call(folder, into / launch.LOG, machine)
        state = json.loads((out / "trainer_state.json").read_text(encoding="utf-8"))
        losses, last = adapter.read_losses(state), state["global_step"]
        best = state["best_global_step"] if training.keep == "best" and losses["eval_loss"] else last
        result = {
            **adapter.training_record(model, rows, chat, training, seed),
            "steps": last,
            "kept_step": best,
            **losses,
        }
        adapter.write_adapter(into, out, model, chat, tokenizer, result)
    shutil.rmtree(into / FOLDER, ignore_errors=True)
    (into / launch.LOG).unlink(missing_ok=True)


def write(
    start: Model,
    chat: str,
    training: Training,
    seed: int,
    into: Path,
    data: Mapping[str, Sequence[Pair]],
    said: Mapping[str, Any],
) -> None:
    """What LLaMA-Factory trains from: dataset_info.json, pairs as Alpaca by the name of their dataset ("isheep" is the
    one to learn from), and sft.yaml, Appendix E's settings with those that are `said` over them; null takes one out."""
    base = find_checkpoint(start.base)  # as it is named from its folder, where LLaMA-Factory runs
    system = {"system": SYSTEM} if chat == "qwen" else {}  # whichever one its own template has
    columns = {"prompt": "instruction", "query": "input", "response": "output"} | {key: key for key in system}
    settings = {
        "model_name_or_path": str(Path(base).resolve()) if Path(base).is_dir() else base,
        "adapter_name_or_path": start.adapter and str(start.adapter.resolve()),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_target": "all",
        "lora_rank": training.lora.rank,
        "lora_alpha": training.lora.alpha,
        "lora_dropout": training.lora.dropout,
        "dataset_dir": ".",
        "dataset": "isheep",
        "template": None if chat == "tokenizer" else chat,  # without one it takes the tokenizer's
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
        "seed": seed % 2**32,  # numpy takes no longer one
        "output_dir": "adapter",
    }
    settings |= said
    data = {name: pairs for name, pairs in data.items() if pairs}
    info = {name: {"file_name": f"{name}.json", "formatting": "alpaca", "columns": columns} for name in data}
    for name, pairs in data.items():
        write_json_list(into / f"{name}.json", (alpaca(pair) | system for pair in pairs))
    write_text(into / "dataset_info.json", json.dumps(info, indent=1) + "\n")
    kept = {key: value for key, value in settings.items() if value is not None}
    write_text(into / "sft.yaml", yaml.safe_dump(kept, sort_keys=False, allow_unicode=True))


def alpaca(pair: Pair) -> dict[str, Any]:
    """Stanford Alpaca: instruction, input, output."""
    return {"instruction": pair.instruction, "input": pair.input, "output": pair.output}


def _steps(training: Training, machine: Machine) -> dict[str, Any]:
    """`training.batch` rows to an optimizer step on so many GPUs, on CUDA or on the CPU."""
    import torch

    cuda = torch.cuda.is_available() and machine.device != "cpu"
    at_once = machine.rows or training.batch // machine.gpus
    checkpointing = cuda if machine.gradient_checkpointing is None else machine.gradient_checkpointing
    return {
        "per_device_train_batch_size": at_once,
        "per_device_eval_batch_size": at_once,
        "gradient_accumulation_steps": training.batch // (at_once * machine.gpus),
        "disable_gradient_checkpointing": not checkpointing,
        "quantization_bit": 4 if training.quantize else None,
        "bf16": cuda,
        "use_cpu": None if cuda else True,
        "report_to": "none",
        "save_only_model": False,
    }


def _call(folder: Path, log: Path, machine: Machine) -> None:
    more = {"NPROC_PER_NODE": str(machine.gpus)}  # without it a process for each GPU that it sees
    if machine.gpus > 1:
        more["FORCE_TORCHRUN"] = "1"
    if machine.threads:
        more["OMP_NUM_THREADS"] = str(machine.threads)
    if machine.device and ":" in machine.device:
        index, seen = machine.device.partition(":")[2], os.environ.get("CUDA_VISIBLE_DEVICES")
        more["CUDA_VISIBLE_DEVICES"] = seen.split(",")[int(index)] if seen else index
    words = [sys.executable, "-m", "isheep.trainers.guard", launch.LLAMAFACTORY, "train", "sft.yaml"]
    launch.run_training_command(launch.LLAMAFACTORY, words, log, more, folder)
