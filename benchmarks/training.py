"""What do the settings of training cost and save? One table, ratios of one run, on one thread.

    OMP_NUM_THREADS=1 python benchmarks/training.py [rows, 96] [width, 128]

A Qwen2 of random weights is trained with LoRA for one epoch, batch 16, on rows whose lengths are spread as those of
answers are (log-normal, median 120 tokens, up to 512). "shuffled" is the order that a trainer has that looks at no
lengths; the others have ours, in which rows of similar length lie side by side. Seconds are of CPU time, weights'
loading left out; the losses say that only "shuffled" has other rows in its steps.
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
from isheep.trainers import rows as data
from isheep.trainers.fit import fit
from isheep.trainers.job import Job

TRAINING = Training(epochs=1, batch=16, held_out=0, keep="last", lora=Lora(dropout=0))
WAYS: dict[str, dict[str, Any]] = {
    "shuffled": {},
    "grouped": {},
    "grouped, 4 rows at once": {"rows": 4},
    "grouped, packing": {"packing": True},
    "grouped, packing, 4 rows at once": {"packing": True, "rows": 4},
    "grouped, gradient checkpointing": {"gradient_checkpointing": True},
}


def shuffled(lengths: list[int], batch: int, epochs: int, seed: int) -> list[int]:
    places = list(range(len(lengths)))
    Random(seed).shuffle(places)
    return places


def main(count: int = 96, width: int = 128) -> None:
    draw, grouped, table = (
        Random(0),
        data.epoch_order,
        Table("way", "padded tokens", "CPU s", "against shuffled", box=None),
    )
    lengths = [min(512, max(16, round(draw.lognormvariate(4.8, 0.8)))) for _ in range(count)]
    rows = [
        data.TokenizedRow(ids, ids) for ids in ([draw.randrange(5, 500) for _ in range(length)] for length in lengths)
    ]
    tokenizer = load_tokenizer("lamb")
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        config = Qwen2Config(
            vocab_size=len(tokenizer), hidden_size=width, intermediate_size=4 * width, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
        )  # fmt: skip
        Qwen2ForCausalLM(config).save_pretrained(Path(folder) / "base")
        tokenizer.save_pretrained(Path(folder) / "base")
        first = 0.0
        for name in ("warm up", *WAYS):
            data.epoch_order = shuffled if name == "shuffled" else grouped  # type: ignore[assignment]
            job = Job(
                model=Model(str(Path(folder) / "base")), train=rows, held_out=[], pad=tokenizer.eos_token,
                training=TRAINING, seed=1, machine=Machine(threads=1, device="cpu", **WAYS.get(name, {})),
                into=Path(folder) / name,
            )  # fmt: skip
            tokenizer.pad_token = job.pad
            started = time.process_time()
            fit(job, tokenizer, lambda steps: None)
            seconds = time.process_time() - started
            if name == "warm up":
                continue
            first = first or seconds
            batches = [[lengths[place] for place in part] for part in chunks(job.places, job.at_once)]
            read = sum(sum(part) if job.machine.packing else len(part) * max(part) for part in batches)
            table.add_row(name, f"{read:,} for {sum(lengths):,}", f"{seconds:.1f}", f"{first / seconds:.2f} times")
    Console().print(table)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
