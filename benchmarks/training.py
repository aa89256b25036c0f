"""What do the settings of training cost and save? One table, ratios within one run, on one thread.

    OMP_NUM_THREADS=1 python benchmarks/training.py [ROWS, 96] [WIDTH, 128]

A Qwen2 of random weights is trained with LoRA for one epoch, batch 16, on rows whose lengths are distributed like those
of answers (log-normal, median 120 tokens, up to 512). "shuffled" is the order of a trainer that ignores lengths; the
others have isheep's order, in which rows of similar length are in one batch. Seconds are CPU time without loading the
weights.
"""

import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import Qwen2Config, Qwen2ForCausalLM

from isheep.batching import chunks
from isheep.models.checkpoint import load_tokenizer
from isheep.recipe.schema import Lora, Machine, Training
from isheep.records import Model
from isheep.trainers import rows as training_rows
from isheep.trainers.fit import fit
from isheep.trainers.job import Job

TRAINING = Training(epochs=1, batch_size=16, held_out=0, keep="last", lora=Lora(dropout=0))
MACHINES: dict[str, dict[str, Any]] = {
    "shuffled": {},
    "grouped": {},
    "grouped, device batch of 4 rows": {"rows_per_process": 4},
    "grouped, packing": {"packing": True},
    "grouped, packing, device batch of 4 rows": {"packing": True, "rows_per_process": 4},
    "grouped, gradient checkpointing": {"gradient_checkpointing": True},
}
ORIGINAL_ORDER = training_rows.epoch_order


def shuffled_order(lengths: list[int], batch_size: int, epochs: int, seed: int) -> list[int]:
    indices = list(range(len(lengths)))
    Random(seed).shuffle(indices)
    return indices


def make_rows(num_rows: int) -> list[training_rows.TokenizedRow]:
    rng = Random(0)
    lengths = [min(512, max(16, round(rng.lognormvariate(4.8, 0.8)))) for _ in range(num_rows)]
    sequences = [[rng.randrange(5, 500) for _ in range(length)] for length in lengths]
    return [training_rows.TokenizedRow(ids, ids) for ids in sequences]


def save_base(folder: Path, tokenizer: Any, width: int) -> Model:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=4 * width, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Model(str(folder))


def num_padded_tokens(job: Job) -> int:
    """Return the number of tokens that the model reads in an epoch, padding included."""
    lengths = [len(job.train[index].input_ids) for index in job.schedule]
    if job.machine.packing:
        return sum(lengths)
    return sum(len(batch) * max(batch) for batch in chunks(lengths, job.device_batch_size))


def cpu_seconds(job: Job, tokenizer: Any) -> float:
    tokenizer.pad_token = job.pad_token
    started = time.process_time()
    fit(job, tokenizer, lambda steps: None)
    return time.process_time() - started


def main(num_rows: int = 96, width: int = 128) -> None:
    table = Table("settings", "padded tokens", "CPU s", "speed against shuffled", box=None)
    rows, tokenizer = make_rows(num_rows), load_tokenizer("lamb")
    num_tokens, shuffled_seconds = sum(len(row.input_ids) for row in rows), 0.0
    with tempfile.TemporaryDirectory() as folder:
        base = save_base(Path(folder) / "base", tokenizer, width)
        for name in ("warm-up", *MACHINES):
            order = shuffled_order if name == "shuffled" else ORIGINAL_ORDER
            training_rows.epoch_order = order  # type: ignore[assignment]
            job = Job(
                start_model=base, train=rows, held_out=[], pad_token=tokenizer.eos_token, training=TRAINING, seed=1,
                machine=Machine(threads=1, device="cpu", **MACHINES.get(name, {})), output_dir=Path(folder) / name,
            )  # fmt: skip
            seconds = cpu_seconds(job, tokenizer)
            if name == "warm-up":
                continue
            shuffled_seconds = shuffled_seconds or seconds
            tokens = f"{num_padded_tokens(job):,} for {num_tokens:,}"
            table.add_row(name, tokens, f"{seconds:.1f}", f"{shuffled_seconds / seconds:.2f} times")
    Console().print(table)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
