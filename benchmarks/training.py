"""Measure what the settings of training cost and save: ratios within one run, on one thread.

    OMP_NUM_THREADS=1 python -m benchmarks.training [--rows 96] [--width 128]

A Qwen2 of random weights is trained with LoRA for one epoch with batch size 16. The lengths of the rows are distributed
like those of answers (log-normal, median 120 tokens, up to 512). "shuffled" is the order of a trainer that ignores
lengths (`training.order: random`); in the default order a batch has rows of similar length. Seconds are CPU seconds,
without the loading of the weights.
"""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from benchmarks.common import best_time, make_parser, run_script
from isheep.batching import chunks
from isheep.models.checkpoint import load_tokenizer
from isheep.recipe.machine import Machine
from isheep.recipe.schema import Lora, Training
from isheep.records import Model
from isheep.trainers import rows as training_rows
from isheep.trainers.fit import fit
from isheep.trainers.job import Job

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRAINING = Training(epochs=1, batch_size=16, held_out=0, keep="last", lora=Lora(dropout=0))
WARM_UP, SHUFFLED = "warm-up", "shuffled"
MACHINES: dict[str, dict[str, Any]] = {
    WARM_UP: {},
    SHUFFLED: {},
    "grouped": {},
    "grouped, device batch of 4 rows": {"rows_per_process": 4},
    "grouped, packing": {"packing": True},
    "grouped, packing, device batch of 4 rows": {"packing": True, "rows_per_process": 4},
    "grouped, gradient checkpointing": {"gradient_checkpointing": True},
}
"""The settings of `machine` by name. The first of them loads libraries and is not in the table."""


def make_rows(num_rows: int) -> list[training_rows.TokenizedRow]:
    """Return rows of random tokens."""
    rng = Random(0)
    lengths = [min(512, max(16, round(rng.lognormvariate(4.8, 0.8)))) for _ in range(num_rows)]
    sequences = [[rng.randrange(5, 500) for _ in range(length)] for length in lengths]
    return [training_rows.TokenizedRow(ids, ids) for ids in sequences]


def save_base(folder: Path, tokenizer: "PreTrainedTokenizerBase", width: int) -> Model:
    """Write a checkpoint of random weights."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

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


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row of the table for each of MACHINES."""
    parser = make_parser(__doc__)
    parser.add_argument("--rows", type=int, default=96, help="Set the number of rows.")
    parser.add_argument("--width", type=int, default=128, help="Set the width of the model.")
    args = parser.parse_args(arguments)
    table = Table("settings", "padded tokens", "CPU s", "speed against shuffled", box=None)
    rows, tokenizer = make_rows(args.rows), load_tokenizer("lamb")
    tokenizer.pad_token = tokenizer.eos_token
    num_tokens, shuffled_seconds = sum(len(row.input_ids) for row in rows), 0.0
    with tempfile.TemporaryDirectory() as folder:
        base = save_base(Path(folder) / "base", tokenizer, args.width)
        for name, machine in MACHINES.items():
            training = TRAINING.model_copy(update={"order": "random"}) if name == SHUFFLED else TRAINING
            job = Job(
                start_model=base, train=rows, held_out=[], pad_token=tokenizer.eos_token, training=training, seed=1,
                machine=Machine(threads=1, device="cpu", **machine), output_dir=Path(folder) / name,
            )  # fmt: skip
            seconds, _ = best_time(partial(fit, job, tokenizer, lambda steps: None))
            num_padded = num_padded_tokens(job)
            if name == WARM_UP:
                continue
            shuffled_seconds = shuffled_seconds or seconds
            tokens, speed = f"{num_padded:,} for {num_tokens:,}", f"{shuffled_seconds / seconds:.2f} times"
            table.add_row(name, tokens, f"{seconds:.1f}", speed)
    Console().print(table)


if __name__ == "__main__":
    run_script(main)
