"""What refilling free places saves: many requests in one call of the engine against calls of one batch each.

    OMP_NUM_THREADS=1 python benchmarks/refill.py [--count 256] [--batch 32]

lamb answers questions of its micro-world, and goes on with one list of tasks, at temperature 1. In calls of one batch
each waits for its longest answer; in one call the places of those that have ended go to those that wait. CPU seconds,
the two ways in turns.
"""

import argparse
from random import Random

import torch
from usual import timed

from isheep.batching import chunks
from isheep.engines.transformers import open_engine
from isheep.lamb import SEEDS
from isheep.lamb.pages import content
from isheep.lamb.world import draw_quest
from isheep.models.chat_template import load_chat_template
from isheep.records import Completion, Model, Sampling
from isheep.seeds import load_seed_tasks
from isheep.stages.synthesize import render_synthesis_prompt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=256, help="requests")
    parser.add_argument("--batch", type=int, default=32, help="requests at a time")
    parser.add_argument("--repeats", type=int, default=3, help="turns, of which the best counts on each side")
    args = parser.parse_args()
    torch.set_num_threads(1)
    engine, chat = open_engine(Model("lamb"), 1, batch=args.batch), load_chat_template("tokenizer", "lamb")
    rng, seeds = Random(0), load_seed_tasks(SEEDS)
    work = {
        "answers": ([chat.prompt(content(draw_quest(rng))) for _ in range(args.count)], 48),
        "lists of tasks": ([render_synthesis_prompt(rng.sample(seeds, 5))] * args.count, 96),
    }
    print(
        "| requests | tokens, mean and most | calls of one batch, s | one call, s | ratio |\n|---|---:|---:|---:|---:|"
    )
    for name, (texts, length) in work.items():
        sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=length, stop=(chat.end,))
        engine.generate(texts[:2], sampling, 0)

        def write(size: int, texts=texts, sampling=sampling) -> list[Completion]:
            return [completion for batch in chunks(texts, size) for completion in engine.generate(batch, sampling, 0)]

        turns = [(timed(lambda: write(args.batch))[0], *timed(lambda: write(args.count))) for _ in range(args.repeats)]
        slow, fast = min(turn[0] for turn in turns), min(turn[1] for turn in turns)
        tokens = [completion.tokens for completion in turns[0][2]]
        mean = f"{sum(tokens) / len(tokens):.0f}, {max(tokens)}"
        print(f"| {len(texts)} {name} | {mean} | {slow:.2f} | {fast:.2f} | {slow / fast:.2f} |", flush=True)


if __name__ == "__main__":
    main()
