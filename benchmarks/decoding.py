"""Compare the decoding of this version with another engine or version on the same prompts: seconds, tokens and texts.

    python -m benchmarks.decoding --against vllm --model CHECKPOINT --prompts FILE.jsonl [--shared 300]

`--against` takes `generate` (transformers' own, on padded batches), `vllm` (in an environment that has it, see
docs/engines.md) or the folder of another checkout of this project. The prompts are the field "prompt" of a JSON Lines
file, in the model's chat template. With `--shared N` each one begins with the same N tokens, made of the file's other
prompts. Answers are greedy, so that their texts can be compared. Each turn is a process of its own, the two sides take
turns, and seconds are those of the `generate` call alone. With `--floor` the script also times this CPU's matrix
products of the layers and the head alone, as many as the answers need.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple, Protocol

from benchmarks.common import best_time, make_parser, process_seconds, run_script
from benchmarks.engine import generate_padded
from isheep.engines import vllm
from isheep.engines.transformers import open_engine
from isheep.errors import UserError
from isheep.models.chat_template import load_chat_template
from isheep.models.checkpoint import load_model, load_tokenizer
from isheep.recipe.machine import Machine
from isheep.records import Completion, Model, Sampling

CHECKOUT = Path(__file__).parents[1]
# A turn takes this script from this checkout, and isheep from the one that PYTHONPATH names.
TURN = """import sys
sys.path.insert(0, sys.argv.pop(1))
import benchmarks
sys.path.pop(0)
from benchmarks import decoding
decoding.run_script(decoding.main)
"""


class Turn(NamedTuple):
    """What one `generate` call took and returned."""

    cpu_seconds: float
    wall_seconds: float
    tokens: list[int]
    texts: list[str]


def read_texts(args: argparse.Namespace) -> tuple[list[str], str]:
    """Return the prompts, and the text that ends an answer."""
    with args.prompts.open(encoding="utf-8") as lines:
        texts = [json.loads(line)["prompt"] for line in lines]
    chat = load_chat_template("tokenizer", args.model)
    prompts = [chat.prompt(text) for text in texts[: args.count]]
    if args.shared:
        ids = chat.tokenizer(" ".join(texts[args.count :])).input_ids
        if len(ids) < args.shared:
            raise UserError(f"--shared {args.shared}: the other prompts of {args.prompts} have {len(ids)} tokens")
        start = chat.tokenizer.decode(ids[: args.shared])
        prompts = [start + prompt for prompt in prompts]
    return prompts, chat.end


class PaddedGenerate:
    """transformers' own `generate` on batches padded to their longest prompt."""

    def __init__(self, args: argparse.Namespace) -> None:
        import torch

        torch.set_num_threads(args.threads)
        self.batch = args.batch
        self.model = load_model(Model(args.model), args.dtype).eval()
        self.tokenizer = load_tokenizer(args.model)
        self.tokenizer.padding_side = "left"

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        """Return greedy answers, whatever `sampling` and `seed` ask for."""
        rows = generate_padded(self.model, self.tokenizer, prompts, sampling.max_tokens, self.batch)
        texts = self.tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [Completion(text, len(row), "stop") for text, row in zip(texts, rows, strict=True)]

    def close(self) -> None:
        """Do nothing: the process ends after a turn."""


class Generator(Protocol):
    """What a turn needs of an engine."""

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]: ...

    def close(self) -> None: ...


def open_isheep(args: argparse.Namespace) -> Generator:
    return open_engine(Model(args.model), threads=args.threads, batch=args.batch, dtype=args.dtype)


def open_vllm(args: argparse.Namespace) -> Generator:
    machine = Machine(engine="vllm", threads=args.threads, dtype=args.dtype)
    return vllm.open_engine(Model(args.model), machine, 1, lambda: load_chat_template("tokenizer", args.model))


ENGINES: dict[str, Callable[[argparse.Namespace], Generator]] = {
    "isheep": open_isheep,
    "vllm": open_vllm,
    "generate": PaddedGenerate,
}


def measure(args: argparse.Namespace) -> Turn:
    """Generate once, after two tokens that warm up, and return what it took."""
    prompts, end = read_texts(args)
    engine = ENGINES[args.engine](args)
    sampling = Sampling(temperature=0, max_tokens=args.length, stop=(end,))
    engine.generate(prompts[:2], sampling.model_copy(update={"max_tokens": 2}), 0)
    cpu_start, wall_start = process_seconds(), time.perf_counter()
    completions = engine.generate(prompts, sampling, 0)
    seconds = process_seconds() - cpu_start, time.perf_counter() - wall_start
    engine.close()
    return Turn(*seconds, [row.tokens for row in completions], [row.text for row in completions])


def floor_seconds(args: argparse.Namespace, tokens: Sequence[int]) -> float:
    """Return the wall seconds of the matrix products that answers of `tokens` tokens need, without anything else.

    The products of the layers and of the head are timed with the rows of a full batch and with 512 tokens of prompts.
    Every decoding step counts as the share of a full batch that it fills, and shared tokens are read once.
    """
    import torch

    torch.set_num_threads(args.threads)
    prompts, _ = read_texts(args)
    model = load_model(Model(args.model), args.dtype)
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    head = model.get_output_embeddings()

    def seconds_of(modules: Sequence[torch.nn.Linear], rows: int) -> float:
        inputs = {module: torch.randn(rows, module.weight.shape[1], dtype=model.dtype) for module in modules}
        work = partial(lambda: [module(inputs[module]) for module in modules])
        with torch.inference_mode():
            return best_time(work, 5, time.perf_counter)[0]

    tokenizer = load_chat_template("tokenizer", args.model).tokenizer
    num_read = sum(len(ids) - args.shared for ids in tokenizer(prompts).input_ids) + args.shared
    rows = min(args.batch, len(prompts))
    reading = num_read / 512 * seconds_of([module for module in linears if module is not head], 512)
    return float(reading + sum(tokens) / rows * seconds_of(linears, rows))


def profile(args: argparse.Namespace) -> None:
    """Print the operations that take most of the time of this process's own version."""
    from torch import profiler

    with profiler.profile(activities=[profiler.ProfilerActivity.CPU]) as measured_operations:
        measure(args)
    print(measured_operations.key_averages().table(sort_by="self_cpu_time_total", row_limit=15))


def run_turn(checkout: Path, engine: str, arguments: Sequence[str], threads: int) -> Turn:
    """Measure an engine of a checkout in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-P", "-c", TURN, str(CHECKOUT), *arguments, "--once", "--engine", engine]
    process = subprocess.run(command, capture_output=True, text=True, env=environment)
    if process.returncode:
        raise UserError(f"{' '.join(command)}\n{process.stderr}")
    return Turn(*json.loads(process.stdout.splitlines()[-1]))


def print_comparison(other_turns: Sequence[Turn], own_turns: Sequence[Turn]) -> None:
    """Print a row of the table."""
    pairs = list(zip(other_turns, own_turns, strict=True))
    cpu_ratio = median(first.cpu_seconds / second.cpu_seconds for first, second in pairs)
    wall_ratio = median(first.wall_seconds / second.wall_seconds for first, second in pairs)
    num_equal = sum(first == second for first, second in zip(other_turns[0].texts, own_turns[0].texts, strict=True))
    repeatable = all(turn[2:] == turns[0][2:] for turns in (other_turns, own_turns) for turn in turns)
    num_tokens = sum(own_turns[0].tokens)
    print("| tokens | other, CPU s | this, CPU s | ratio, CPU | ratio, wall | tokens/s | equal texts | repeatable |")
    print("|---:|---:|---:|---:|---:|---:|---:|---|")
    seconds = [median(turn.cpu_seconds for turn in turns) for turns in (other_turns, own_turns)]
    speed = num_tokens / median(turn.wall_seconds for turn in own_turns)
    print(f"| {num_tokens} | {seconds[0]:.1f} | {seconds[1]:.1f} | {cpu_ratio:.2f}", end=" | ")
    print(f"{wall_ratio:.2f} | {speed:.0f} | {num_equal}/{len(own_turns[0].texts)} | {repeatable} |")


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare the checkouts, or measure this process once."""
    parser = make_parser(__doc__)
    parser.add_argument("--against", help="Name another engine, or the folder of another checkout.")
    parser.add_argument("--model", required=True, help="Name the checkpoint.")
    parser.add_argument("--prompts", type=Path, required=True, help="Name the file of prompts.")
    parser.add_argument("--count", type=int, default=64, help="Set the number of prompts.")
    parser.add_argument("--shared", type=int, default=0, help="Set the number of tokens that the prompts share.")
    parser.add_argument("--length", type=int, default=128, help="Set the largest number of new tokens.")
    parser.add_argument("--batch", type=int, default=64, help="Set the number of rows in a batch.")
    parser.add_argument("--threads", type=int, default=2, help="Set the number of threads.")
    parser.add_argument("--dtype", default="float32", help="Set the type of the numbers.")
    parser.add_argument("--repeats", type=int, default=2, help="Set the number of turns; medians count.")
    parser.add_argument("--floor", action="store_true", help="Time the matrix products alone as well.")
    parser.add_argument("--once", action="store_true", help="Measure the importable isheep once and print it as JSON.")
    parser.add_argument("--engine", choices=sorted(ENGINES), default="isheep", help="Name the engine of --once.")
    parser.add_argument("--profile", action="store_true", help="Print the operations of a single turn instead.")
    args = parser.parse_args(arguments)
    if args.profile:
        profile(args)
        return
    if args.once:
        print(json.dumps(measure(args)))
        return
    if args.against is None or args.repeats < 1:
        raise UserError("give an engine or another checkout with --against, and --repeats of 1 or more")
    own_arguments = list(arguments) if arguments is not None else sys.argv[1:]
    other_turns, own_turns = list[Turn](), list[Turn]()
    for _ in range(args.repeats):
        if args.against in ENGINES:
            other_turns.append(run_turn(CHECKOUT, args.against, own_arguments, args.threads))
        else:
            other_turns.append(run_turn(Path(args.against), "isheep", own_arguments, args.threads))
        own_turns.append(run_turn(CHECKOUT, "isheep", own_arguments, args.threads))
    print_comparison(other_turns, own_turns)
    if args.floor:
        seconds = floor_seconds(args, own_turns[0].tokens)
        share = seconds / median(turn.wall_seconds for turn in own_turns)
        print(f"matrix products alone: {seconds:.1f} s, {share:.0%} of this version's time")


if __name__ == "__main__":
    run_script(main)
