"""Measure how near generation and LoRA training come to a device's limits: shapes of real models with random weights.

    python -m benchmarks.gpu [SHAPE...]      # the default is Qwen2.5-0.5B, 1.5B and 7B

Speed does not need trained weights. Each shape of isheep/plan/shapes.yaml is built on the device. The engine of a run
generates `--rows` answers of `--write` tokens after prompts of about `--read` tokens, of which `--shared` are the same.
Then the trainer of a run trains on rows of `--cutoff` tokens (Appendix E's LoRA, batch size 16).

The device's limits are measured first: a product of large matrices and a copy. "of the limit" is the least time that
these allow for the work (a roofline: products, or bytes of weights, keys and values) as a share of the time that it
took. MFU counts the products alone (Chowdhery et al. 2022), in training without those that gradient checkpointing
repeats.

Without CUDA and without a SHAPE it measures nothing, and prints what the limits of an H100 allow. `tiny` is a shape for
a try on a CPU.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.common import make_parser, run_script
from isheep.engines.transformers import open_engine
from isheep.errors import UserError, unknown_name
from isheep.models.checkpoint import load_tokenizer
from isheep.plan import cost, devices, shapes
from isheep.plan.assumptions import Assumptions
from isheep.plan.devices import Device
from isheep.plan.work import Stage
from isheep.recipe.machine import Machine
from isheep.recipe.schema import Lora, Training
from isheep.records import Model, Sampling
from isheep.trainers.fit import fit
from isheep.trainers.job import Job
from isheep.trainers.rows import TokenizedRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHAPES = ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-7B")
TINY: dict[str, Any] = {
    "model_type": "qwen2", "num_hidden_layers": 4, "hidden_size": 128, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 512, "vocab_size": 8192, "tie_word_embeddings": True,
    "max_position_embeddings": 4096,
}  # fmt: skip
LIMITS = Assumptions(
    characters=4, prompt=1, reply=1, tasks=1, task=1, turn=0, answer=1, rating=0, grade=0, kept=1, reading=1, writing=1,
    training=1, layer_ms=0,
)  # fmt: skip
"""A roofline: the whole speed of the device is used. The lengths are not read here."""

# Rows of an optimizer step.
BATCH_SIZE = 16


class Speed(NamedTuple):
    """What was measured: tokens per second, and the shares of the limit, of FLOPs and of the bandwidth."""

    work: str
    tokens_per_second: float
    limit: float
    flops: float
    bandwidth: float | None
    """None if it was not computed."""


def config_of(name: str) -> dict[str, Any]:
    """Return the configuration of a shape. Raises UserError if there is none of this name."""
    if name == "tiny":
        return TINY
    configs = shapes.known_configs()
    if name not in configs:
        raise UserError(unknown_name("shape", name, ["tiny", *configs]))
    return configs[name]


def generation_stage(args: argparse.Namespace) -> Stage:
    """Return the work of the generation."""
    computed = args.shared + args.rows * (args.read - args.shared)
    return Stage(
        iteration=1, name="generation", calls=args.rows, prompt_tokens=args.rows * args.read,
        computed_tokens=computed, output_tokens=args.rows * args.write, max_output_tokens=0, batch_size=args.rows,
        decoding_steps=args.write,
    )  # fmt: skip


def training_stage(args: argparse.Namespace) -> Stage:
    """Return the work of the training."""
    tokens = args.steps * BATCH_SIZE * args.cutoff
    return Stage(
        iteration=1, name="training", calls=args.steps * BATCH_SIZE, prompt_tokens=tokens, computed_tokens=0,
        output_tokens=0, max_output_tokens=0, batch_size=args.rows_per_process, trained_tokens=tokens,
    )  # fmt: skip


def make_model(name: str, folder: Path, cuda: bool) -> str:
    """Write a checkpoint of a shape with random weights and lamb's tokenizer into a folder; return its path."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    # transformers does not annotate it.
    from_config: Any = AutoModelForCausalLM.from_config
    with torch.device("cuda" if cuda else "cpu"):
        model = from_config(Qwen2Config(**config_of(name)), dtype=torch.bfloat16 if cuda else torch.float32)
    # Without an end token every answer has the full length.
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    load_tokenizer("lamb").save_pretrained(folder)
    return str(folder)


def make_prompts(tokenizer: "PreTrainedTokenizerBase", args: argparse.Namespace) -> list[str]:
    """Return prompts of about `--read` tokens that begin with the same `--shared` tokens."""

    def random_text(rng: Random, count: int) -> str:
        (text,) = tokenizer.batch_decode([[rng.randrange(300, 1500) for _ in range(count)]])
        (cut,) = tokenizer.batch_decode([tokenizer(text).input_ids[:count]])
        return cut

    head = random_text(Random(0), args.shared)
    return [head + random_text(Random(n), args.read - args.shared) for n in range(1, args.rows + 1)]


def time_generation(path: str, args: argparse.Namespace) -> tuple[float, int]:
    """Return the seconds of all answers, and the number of generated tokens."""
    engine = open_engine(Model(path), device=args.device, batch=args.rows)
    prompts = make_prompts(engine.loaded.tokenizer, args)
    sampling = Sampling(temperature=0, max_tokens=args.write)
    # The first call loads and compiles.
    engine.generate(prompts[:2], sampling.model_copy(update={"max_tokens": 4}), 0)
    start = time.perf_counter()
    completions = engine.generate(prompts, sampling, 0)
    seconds = time.perf_counter() - start
    engine.close()
    return seconds, sum(completion.tokens for completion in completions)


def time_training(path: str, vocabulary: int, args: argparse.Namespace) -> float:
    """Return the seconds of `--steps` optimizer steps, without a first one that warms up."""
    rng, steps = Random(0), int(args.steps)
    rows = [[rng.randrange(vocabulary) for _ in range(args.cutoff)] for _ in range(BATCH_SIZE * (steps + 1))]
    tokenizer = load_tokenizer("lamb")
    tokenizer.pad_token = tokenizer.eos_token
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            start_model=Model(path), train=[TokenizedRow(ids, ids) for ids in rows], held_out=[],
            pad_token=tokenizer.eos_token, seed=0,
            training=Training(epochs=1, batch_size=BATCH_SIZE, held_out=0, keep="last", lora=Lora(), eval_every=10**6),
            machine=Machine(device=args.device, rows_per_process=args.rows_per_process), output_dir=Path(folder),
        )  # fmt: skip
        fit(job, tokenizer, lambda step: times.append(time.perf_counter()))
    return times[-1] - times[-1 - steps]


def measure(name: str, device: Device, args: argparse.Namespace) -> Iterator[Speed]:
    """Yield the speed of generation and of training for a shape."""
    shape = shapes.from_config(config_of(name), name)
    with tempfile.TemporaryDirectory() as folder:
        path = make_model(name, Path(folder), device.gpu)
        seconds, num_tokens = time_generation(path, args)
        stage = generation_stage(args).model_copy(update={"output_tokens": num_tokens})
        least = cost.seconds(stage, shape, device, LIMITS, BATCH_SIZE)
        flops = cost.reading_flops(stage, shape) + cost.generation_flops(stage, shape)
        # Only the bytes count if products take no time and no prompt is read.
        without_prompts = stage.model_copy(update={"computed_tokens": 0})
        only_bytes = device.model_copy(update={"flops": 1e30})
        moving = cost.seconds(without_prompts, shape, only_bytes, LIMITS, BATCH_SIZE)
        speed = num_tokens / seconds
        yield Speed("generation", speed, least / seconds, flops / seconds / device.flops, moving / seconds)
        seconds, stage = time_training(path, shape.vocabulary, args), training_stage(args)
        flops = cost.training_flops(stage, shape, recompute=False)
        least = cost.training_flops(stage, shape, recompute=device.gpu) / device.flops
        speed = stage.trained_tokens / seconds
        yield Speed("training", speed, least / seconds, flops / seconds / device.flops, None)


def limits_table(device: Device, args: argparse.Namespace) -> Table:
    """Return the tokens per second that the limits of a device allow."""
    table = Table("shape", "generation", "training", box=None)
    for name in SHAPES:
        shape, generation, training = shapes.shape_of(name), generation_stage(args), training_stage(args)
        least = cost.training_flops(training, shape, recompute=True) / device.flops
        speed = generation.output_tokens / cost.seconds(generation, shape, device, LIMITS, BATCH_SIZE)
        table.add_row(name, f"{speed:,.0f}", f"{training.trained_tokens / least:,.0f}")
    return table


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.add_argument("shapes", nargs="*", metavar="SHAPE", help="Name shapes of isheep/plan/shapes.yaml, or tiny.")
    parser.add_argument("--device", help="Name the device, such as cuda:1 or cpu; the default is CUDA if there is any.")
    parser.add_argument("--rows", type=int, default=128, help="Set the number of answers that are generated at once.")
    parser.add_argument("--read", type=int, default=600, help="Set the number of tokens of a prompt.")
    parser.add_argument("--shared", type=int, default=500, help="Set how many of these are the same in all prompts.")
    parser.add_argument("--write", type=int, default=256, help="Set the number of tokens of an answer.")
    parser.add_argument("--cutoff", type=int, default=1024, help="Set the number of tokens of a training row.")
    parser.add_argument("--rows-per-process", type=int, default=4, help="Set the number of rows of a forward pass.")
    parser.add_argument("--steps", type=int, default=5, help="Set the number of optimizer steps that are timed.")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of the shapes."""
    args = parse_arguments(arguments)
    for name in args.shapes:
        config_of(name)
    import torch

    console = Console(width=100)
    if not args.shapes and not torch.cuda.is_available():
        console.print("There is no CUDA, so nothing is measured. Tokens per second that the limits of an H100 allow:")
        console.print(limits_table(devices.gpu_by_name("H100"), args))
        return
    device = devices.this_machine(None, args.device)
    console.print(f"{device.name}: {device.flops / 1e12:.2f} TFLOPS, {device.bandwidth / 1e9:.0f} GB/s, both measured")
    table = Table("shape", "work", "tokens/s", "of the limit", "MFU", "of the bandwidth", box=None)
    for name in args.shapes or SHAPES:
        for speed in measure(name, device, args):
            bandwidth = "" if speed.bandwidth is None else f"{speed.bandwidth:.0%}"
            rate, limit, flops = f"{speed.tokens_per_second:,.0f}", f"{speed.limit:.0%}", f"{speed.flops:.1%}"
            table.add_row(name, speed.work, rate, limit, flops, bandwidth)
    console.print(table)


if __name__ == "__main__":
    run_script(main)
