"""Compare the decoding of two checkouts of this project on the same prompts: CPU seconds, tokens and texts.

    python -m benchmarks.decoding --against OTHER_CHECKOUT --model CHECKPOINT --prompts FILE.jsonl [--shared 300]

The prompts are the field "prompt" of a JSON Lines file, in the model's chat template. With `--shared N` each one begins
with the same N tokens, made of the file's other prompts. Answers are greedy, so that their texts can be compared. Each
turn is a process of its own, the two checkouts take turns, and seconds are those of the `generate` call alone.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.common import make_parser, run_script
from isheep.engines.transformers import open_engine
from isheep.errors import UserError
from isheep.models.chat_template import load_chat_template
from isheep.records import Model, Sampling

CHECKOUT = Path(__file__).parents[1]


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


def measure(args: argparse.Namespace) -> Turn:
    """Generate once, after two tokens that warm up, and return what it took."""
    prompts, end = read_texts(args)
    engine = open_engine(Model(args.model), threads=args.threads, batch=args.batch, dtype=args.dtype)
    sampling = Sampling(temperature=0, max_tokens=args.length, stop=(end,))
    engine.generate(prompts[:2], sampling.model_copy(update={"max_tokens": 2}), 0)
    cpu_start, wall_start = time.process_time(), time.perf_counter()
    completions = engine.generate(prompts, sampling, 0)
    seconds = time.process_time() - cpu_start, time.perf_counter() - wall_start
    return Turn(*seconds, [row.tokens for row in completions], [row.text for row in completions])


def profile(args: argparse.Namespace) -> None:
    """Print the operations that take most of the time of this process's own version."""
    from torch import profiler

    with profiler.profile(activities=[profiler.ProfilerActivity.CPU]) as measured_operations:
        measure(args)
    print(measured_operations.key_averages().table(sort_by="self_cpu_time_total", row_limit=15))


def run_turn(checkout: Path, arguments: Sequence[str], threads: int) -> Turn:
    """Measure a checkout in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, *arguments, "--once"]
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
    parser.add_argument("--against", type=Path, help="Name the other checkout.")
    parser.add_argument("--model", required=True, help="Name the checkpoint.")
    parser.add_argument("--prompts", type=Path, required=True, help="Name the file of prompts.")
    parser.add_argument("--count", type=int, default=64, help="Set the number of prompts.")
    parser.add_argument("--shared", type=int, default=0, help="Set the number of tokens that the prompts share.")
    parser.add_argument("--length", type=int, default=128, help="Set the largest number of new tokens.")
    parser.add_argument("--batch", type=int, default=64, help="Set the number of rows in a batch.")
    parser.add_argument("--threads", type=int, default=2, help="Set the number of threads.")
    parser.add_argument("--dtype", default="float32", help="Set the type of the numbers.")
    parser.add_argument("--repeats", type=int, default=2, help="Set the number of turns; medians count.")
    parser.add_argument("--once", action="store_true", help="Measure the importable isheep once and print it as JSON.")
    parser.add_argument("--profile", action="store_true", help="Print the operations of a single turn instead.")
    args = parser.parse_args(arguments)
    if args.profile:
        profile(args)
        return
    if args.once:
        print(json.dumps(measure(args)))
        return
    if args.against is None or args.repeats < 1:
        raise UserError("give another checkout with --against, and --repeats of 1 or more")
    own_arguments = list(arguments) if arguments is not None else sys.argv[1:]
    other_turns, own_turns = list[Turn](), list[Turn]()
    for _ in range(args.repeats):
        other_turns.append(run_turn(args.against, own_arguments, args.threads))
        own_turns.append(run_turn(CHECKOUT, own_arguments, args.threads))
    print_comparison(other_turns, own_turns)


if __name__ == "__main__":
    run_script(main)
