"""Measure training against TRL as it comes, on the same rows: CPU seconds, peak memory, and the loss at the end.

    python -m benchmarks.trl_training --model DIR [--rows 32] [--epochs 2]

The rows are seed tasks with their answers, four of them in a row, so that they are as long as answers to real tasks.
Each way trains in a process of its own, on one thread, with the same LoRA settings, batch size, learning rate, cutoff:

- "TRL as it comes": SFTTrainer with a conversational dataset of prompts and completions and its own defaults otherwise,
- "isheep": the peft trainer with the defaults of a recipe,
- "isheep, held out": the same with a tenth of the rows held out, as in Appendix E,
- "isheep, whole batch": as "isheep", but with all rows of a batch computed at once instead of 1,024 tokens.

Seconds are those of the training alone, without imports and the loading of weights. The peak includes both.
"""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import make_parser, run_child, run_script
from isheep.models.chat_template import load_chat_template
from isheep.recipe.machine import Machine
from isheep.recipe.packaged import PACKAGED_SEEDS
from isheep.recipe.schema import Lora, Training
from isheep.records import Model
from isheep.rundir.training_file import TrainingRow
from isheep.seeds import load_seed_file
from isheep.trainers.fit import fit
from isheep.trainers.job import Job
from isheep.trainers.machine import rows_on_cpu
from isheep.trainers.rows import select_examples

TASKS_PER_ROW = 4
WAYS = ("TRL as it comes", "isheep", "isheep, held out", "isheep, whole batch")


def make_rows(num_rows: int) -> list[TrainingRow]:
    """Return rows of which each answers several seed tasks."""
    tasks = [task for task in load_seed_file(PACKAGED_SEEDS["isheep"]).tasks if task.output]
    rows = []
    for index in range(num_rows):
        group = [tasks[(TASKS_PER_ROW * index + offset) % len(tasks)] for offset in range(TASKS_PER_ROW)]
        instruction = "\n".join(task.content for task in group)
        output = "\n".join(task.output for task in group)
        rows.append(TrainingRow(instruction=instruction, output=output, finish="stop"))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row of the table for each of WAYS."""
    parser = make_parser(__doc__)
    parser.add_argument("--model", required=True, help="Give a checkpoint.")
    parser.add_argument("--rows", type=int, default=32, help="Set the number of rows.")
    parser.add_argument("--epochs", type=int, default=2, help="Set the number of epochs.")
    parser.add_argument("--way", choices=WAYS, help="Train in one way only, in this process, and print JSON.")
    args = parser.parse_args(arguments)
    if args.way:
        print(json.dumps(train(args.way, args.model, args.rows, args.epochs)))
        return
    print("| trainer | CPU s | times as fast | peak GB | last loss |\n|---|---:|---:|---:|---:|", flush=True)
    slowest = 0.0
    for way in WAYS:
        words = ("--model", args.model, "--rows", str(args.rows), "--epochs", str(args.epochs), "--way", way)
        _, output = run_child([sys.executable, "-m", "benchmarks.trl_training", *words])
        result = json.loads(next(line for line in output.splitlines() if line.startswith('{"seconds"')))
        slowest = slowest or result["seconds"]
        speed = f"{slowest / result['seconds']:.2f}"
        values = (f"{result['seconds']:.1f}", speed, f"{result['peak']:.2f}", f"{result['loss']:.3f}")
        print(f"| {way} | {' | '.join(values)} |", flush=True)


def train(way: str, model: str, num_rows: int, epochs: int) -> dict[str, float]:
    """Return the CPU seconds of a training, the peak memory of this process in GB, and the last logged loss."""
    rows = make_rows(num_rows)
    held_out = 0.1 if way.endswith("held out") else 0
    training = Training(epochs=epochs, held_out=held_out, keep="last", lora=Lora(dropout=0))
    with tempfile.TemporaryDirectory() as folder:
        if way == WAYS[0]:
            seconds, loss = train_with_trl(model, rows, training, folder)
        else:
            whole_batch = way.endswith("whole batch")
            seconds, loss = train_with_isheep(model, rows, training, Path(folder), whole_batch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"seconds": seconds, "peak": peak, "loss": loss}


def train_with_isheep(
    model: str, rows: list[TrainingRow], training: Training, folder: Path, whole_batch: bool
) -> tuple[float, float]:
    """Return the CPU seconds of `fit`, and the last logged loss."""
    chat = load_chat_template("tokenizer", model)
    tokenizer = chat.tokenizer
    examples = select_examples(rows, chat, tokenizer, training, 1)
    longest_row = max(len(example.tokens.input_ids) for example in (*examples.train, *examples.held_out))
    at_once = training.batch_size if whole_batch else rows_on_cpu(training.batch_size, longest_row)
    job = Job(
        start_model=Model(model),
        train=[example.tokens for example in examples.train],
        held_out=[example.tokens for example in examples.held_out],
        pad_token=tokenizer.pad_token,
        training=training,
        seed=1,
        machine=Machine(threads=1, device="cpu", rows_per_process=at_once),
        output_dir=folder / "adapter",
    )
    start = time.process_time()
    fit(job, tokenizer, lambda steps: None)
    seconds = time.process_time() - start
    [state] = (folder / "adapter").glob("checkpoint-*/trainer_state.json")
    losses = [entry["loss"] for entry in json.loads(state.read_text())["log_history"] if "loss" in entry]
    return seconds, losses[-1]


def train_with_trl(model: str, rows: list[TrainingRow], training: Training, folder: str) -> tuple[float, float]:
    """Return the CPU seconds of SFTTrainer.train, and the last logged loss."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(1)
    data = [
        {
            "prompt": [{"role": role, "content": text} for role, text in row.turns],
            "completion": [{"role": "assistant", "content": row.output}],
        }
        for row in rows
    ]
    lora = training.lora
    trainer = SFTTrainer(
        model,
        args=SFTConfig(
            output_dir=folder,
            num_train_epochs=training.epochs,
            per_device_train_batch_size=training.batch_size,
            learning_rate=training.learning_rate,
            max_length=training.cutoff,
            logging_steps=1,
            report_to="none",
            use_cpu=True,
        ),
        train_dataset=Dataset.from_list(data),
        peft_config=LoraConfig(
            task_type="CAUSAL_LM", r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0, target_modules="all-linear"
        ),
    )
    start = time.process_time()
    trainer.train()
    seconds = time.process_time() - start
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return seconds, losses[-1]


if __name__ == "__main__":
    run_script(main)
