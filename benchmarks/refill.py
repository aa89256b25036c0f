"""Measure what the refilling of free slots saves: one engine call for many requests, or a call for each batch.

    OMP_NUM_THREADS=1 python -m benchmarks.refill [--count 256] [--batch 32]

lamb answers questions of its micro-world, and continues a list of tasks, at temperature 1. If each batch is a call, the
batch waits for its longest answer. In a single call, waiting requests take the slots of answers that have ended.
Seconds are CPU seconds; the two ways take turns.
"""

from collections.abc import Sequence
from functools import partial
from random import Random

from benchmarks.common import best_time, make_parser, run_script
from isheep.batching import chunks
from isheep.engines.transformers import TransformersEngine, open_engine
from isheep.errors import UserError
from isheep.lamb import SEEDS
from isheep.lamb.pages import task_text
from isheep.lamb.world import draw_quest
from isheep.models.chat_template import load_chat_template
from isheep.records import Completion, Model, Sampling
from isheep.seeds import load_seed_file
from isheep.stages.synthesize import render_synthesis_prompt


def generate(engine: TransformersEngine, texts: Sequence[str], sampling: Sampling, size: int) -> list[Completion]:
    """Return the completions of the texts, sent to the engine in calls of `size`."""
    return [completion for batch in chunks(texts, size) for completion in engine.generate(batch, sampling, 0)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of both ways."""
    parser = make_parser(__doc__)
    parser.add_argument("--count", type=int, default=256, help="Set the number of requests.")
    parser.add_argument("--batch", type=int, default=32, help="Set the number of requests in a batch.")
    parser.add_argument("--repeats", type=int, default=3, help="Set the number of turns; the best one counts.")
    args = parser.parse_args(arguments)
    if args.repeats < 1:
        raise UserError(f"--repeats {args.repeats}: give 1 or more")
    engine, chat = open_engine(Model("lamb"), 1, batch=args.batch), load_chat_template("tokenizer", "lamb")
    rng, seeds = Random(0), load_seed_file(SEEDS).tasks
    requests = {
        "answers": ([chat.prompt(task_text(draw_quest(rng))) for _ in range(args.count)], 48),
        "lists of tasks": ([render_synthesis_prompt(rng.sample(seeds, 5))] * args.count, 96),
    }
    print("| requests | tokens, mean and maximum | calls of one batch, s | one call, s | ratio |")
    print("|---|---:|---:|---:|---:|")
    for name, (texts, max_tokens) in requests.items():
        sampling = Sampling(temperature=1.0, top_p=1.0, max_tokens=max_tokens, stop=(chat.end,))
        engine.generate(texts[:2], sampling, 0)
        batch_seconds, call_seconds, completions = list[float](), list[float](), list[Completion]()
        for _ in range(args.repeats):
            batch_seconds.append(best_time(partial(generate, engine, texts, sampling, args.batch))[0])
            seconds, completions = best_time(partial(generate, engine, texts, sampling, args.count))
            call_seconds.append(seconds)
        batches, call = min(batch_seconds), min(call_seconds)
        tokens = [completion.tokens for completion in completions]
        lengths = f"{sum(tokens) / len(tokens):.0f}, {max(tokens)}"
        print(f"| {len(texts)} {name} | {lengths} | {batches:.2f} | {call:.2f} | {batches / call:.2f} |", flush=True)


if __name__ == "__main__":
    run_script(main)
