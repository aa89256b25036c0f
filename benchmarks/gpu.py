"""How near to a device's limits do generation and LoRA training come? Shapes of real models with random weights.

    python benchmarks/gpu.py [SHAPE...]      # without one: Qwen2.5-0.5B, 1.5B and 7B

Speed does not need trained weights. Each shape of isheep/plan/shapes.yaml is made on the device, read by the engine
and the trainer of a run, and asked for `--rows` answers of `--write` tokens after prompts of about `--read` tokens, of
which `--shared` are the same; then trained on rows of `--cutoff` tokens (Appendix E's LoRA, batch 16). The device's
limits are measured first: a product of large matrices and a copy. "of the limit" is the least time that these leave for
the work (a roofline: products, or bytes of weights, keys and values) as a share of the time that it took; MFU is the
products alone (Chowdhery et al. 2022), in training without what gradient checkpointing computes again.

Without CUDA and without a SHAPE it prints what the limits of an H100 would leave, and measures nothing. `tiny` is a
shape for trying the script on a CPU.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, Qwen2Config

from isheep.engines.transformers import open_engine
from isheep.models.checkpoint import load_tokenizer
from isheep.plan import cost, devices, shapes
from isheep.plan.assumptions import Assumptions
from isheep.plan.devices import Device
from isheep.plan.work import Stage
from isheep.recipe.schema import Lora, Machine, Training
from isheep.records import Model, Sampling
from isheep.trainers.fit import fit
from isheep.trainers.job import Job
from isheep.trainers.rows import TokenizedRow

SHAPES = ("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-7B")
TINY = {
    "model_type": "qwen2", "num_hidden_layers": 4, "hidden_size": 128, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 512, "vocab_size": 8192, "tie_word_embeddings": True,
    "max_position_embeddings": 4096,
}  # fmt: skip
UNUSED = {"characters": 4, "prompt": 1, "reply": 1, "tasks": 1, "task": 1, "turn": 0, "answer": 1, "rating": 0}
LIMITS = Assumptions(**UNUSED, grade=0, kept=1, reading=1, writing=1, training=1, layer_ms=0)  # a roofline's: all of it
BATCH = 16  # rows of an optimizer step


def generation(args: argparse.Namespace) -> Stage:
    computed = args.shared + args.rows * (args.read - args.shared)
    return Stage(
        iteration=1, name="generation", calls=args.rows, prompt_tokens=args.rows * args.read,
        computed_tokens=computed, output_tokens=args.rows * args.write, max_output_tokens=0, batch_size=args.rows,
        decoding_steps=args.write,
    )  # fmt: skip


def training(args: argparse.Namespace, steps: int) -> Stage:
    tokens = steps * BATCH * args.cutoff
    return Stage(
        iteration=1, name="training", calls=steps * BATCH, prompt_tokens=tokens, computed_tokens=0, output_tokens=0,
        max_output_tokens=0, batch_size=args.at_once, trained_tokens=tokens,
    )  # fmt: skip


def made(name: str, folder: Path, cuda: bool) -> str:
    """A checkpoint of that shape with random weights and lamb's tokenizer, in the folder."""
    config = Qwen2Config(**(TINY if name == "tiny" else shapes.known_configs()[name]))
    with torch.device("cuda" if cuda else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if cuda else torch.float32)
    model.generation_config.eos_token_id = None  # every answer is as long as it may be
    model.save_pretrained(folder)
    load_tokenizer("lamb").save_pretrained(folder)
    return str(folder)


def texts(tokenizer, args: argparse.Namespace) -> list[str]:
    """Prompts of `read` tokens, nearly, of which all share the first ones."""

    def words(rng: Random, count: int) -> str:
        ids = [rng.randrange(300, 1500) for _ in range(count)]
        return tokenizer.decode(tokenizer(tokenizer.decode(ids)).input_ids[:count])

    head = words(Random(0), args.shared)
    return [head + words(Random(n), args.read - args.shared) for n in range(1, args.rows + 1)]


def generated(path: str, args: argparse.Namespace) -> tuple[float, float]:
    """Seconds for all answers, and tokens written."""
    engine = open_engine(Model(path), device=args.device, batch=args.rows)
    prompts, sampling = texts(engine.loaded.tokenizer, args), Sampling(temperature=0, max_tokens=args.write)
    engine.generate(prompts[:2], sampling.model_copy(update={"max_tokens": 4}), 0)  # what first use loads and compiles
    begun = time.perf_counter()
    answers = engine.generate(prompts, sampling, 0)
    seconds = time.perf_counter() - begun
    engine.close()
    return seconds, sum(answer.tokens for answer in answers)


def trained(path: str, vocabulary: int, args: argparse.Namespace) -> float:
    """Seconds for `steps` optimizer steps, the first one not counted."""
    rng, ends = Random(0), list[float]()
    rows = [[rng.randrange(vocabulary) for _ in range(args.cutoff)] for _ in range(BATCH * (args.steps + 1))]
    tokenizer = load_tokenizer("lamb")
    tokenizer.pad_token = tokenizer.eos_token
    with tempfile.TemporaryDirectory() as into:
        job = Job(
            start_model=Model(path), train=[TokenizedRow(ids, ids) for ids in rows], held_out=[],
            pad_token=tokenizer.eos_token, seed=0,
            training=Training(epochs=1, batch_size=BATCH, held_out=0, keep="last", lora=Lora(), eval_every=10**6),
            machine=Machine(device=args.device, rows_per_process=args.at_once), output_dir=Path(into),
        )  # fmt: skip
        fit(job, tokenizer, lambda steps: ends.append(time.perf_counter()))
    return ends[-1] - ends[-1 - args.steps]


def measured(name: str, device: Device, args: argparse.Namespace) -> Iterator[tuple[str, float, float, float, float]]:
    """What was done, tokens a second, and the shares: of the limit, of FLOPs, of bandwidth (0: not told)."""
    shape = shapes.from_config(TINY if name == "tiny" else shapes.known_configs()[name], name)
    with tempfile.TemporaryDirectory() as folder:
        path = made(name, Path(folder), device.gpu)
        seconds, written = generated(path, args)
        generation_stage = generation(args).model_copy(update={"output_tokens": written})
        least = cost.seconds(generation_stage, shape, device, LIMITS, BATCH)
        products = cost.reading_flops(generation_stage, shape) + cost.generation_flops(generation_stage, shape)
        bare = generation_stage.model_copy(update={"computed_tokens": 0})
        slow = device.model_copy(update={"flops": 1e30})
        moved = cost.seconds(bare, shape, slow, LIMITS, BATCH)
        yield "generation", written / seconds, least / seconds, products / seconds / device.flops, moved / seconds
        seconds, learned = trained(path, shape.vocabulary, args), training(args, args.steps)
        products = cost.training_flops(learned, shape, recompute=False)
        least = cost.training_flops(learned, shape, recompute=device.gpu) / device.flops
        yield "training", learned.trained_tokens / seconds, least / seconds, products / seconds / device.flops, 0


def main(args: argparse.Namespace) -> None:
    console = Console(width=100)
    if not args.shapes and not torch.cuda.is_available():
        device = devices.gpu_by_name("H100")
        console.print("No CUDA here, so nothing is measured. Tokens a second that the limits of an H100 leave:")
        table = Table("shape", "generation", "training", box=None)
        for name in SHAPES:
            shape, generation_stage, learned = shapes.shape_of(name), generation(args), training(args, args.steps)
            least = cost.training_flops(learned, shape, recompute=True) / device.flops
            written = generation_stage.written / cost.seconds(generation_stage, shape, device, LIMITS, BATCH)
            table.add_row(name, f"{written:,.0f}", f"{learned.trained_tokens / least:,.0f}")
        return console.print(table)
    device = devices.this_machine(None, args.device)
    console.print(f"{device.name}: {device.flops / 1e12:.2f} TFLOPS, {device.bandwidth / 1e9:.0f} GB/s, both measured")
    table = Table("shape", "what", "tokens/s", "of the limit", "MFU", "of the bandwidth", box=None)
    for name in args.shapes or SHAPES:
        for label, speed, limit, share, moved in measured(name, device, args):
            shares = (f"{100 * limit:.0f}%", f"{100 * share:.1f}%", f"{100 * moved:.0f}%" if moved else "")
            table.add_row(name, label, f"{speed:,.0f}", *shares)
    console.print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Generation and LoRA training against a device's limits.")
    parser.add_argument("shapes", nargs="*", choices=[[], "tiny", *shapes.known_configs()], metavar="SHAPE")
    parser.add_argument("--device", help="such as cuda:1 or cpu; CUDA where it is not given")
    parser.add_argument("--rows", type=int, default=128, help="answers that are written at once")
    parser.add_argument("--read", type=int, default=600, help="tokens of a prompt")
    parser.add_argument("--shared", type=int, default=500, help="of these, the same in all prompts")
    parser.add_argument("--write", type=int, default=256, help="tokens of an answer")
    parser.add_argument("--cutoff", type=int, default=1024, help="tokens of a training's row")
    parser.add_argument("--at-once", type=int, default=4, help="rows that are read at once in training")
    parser.add_argument("--steps", type=int, default=5, help="optimizer steps that are timed")
    main(parser.parse_args())
