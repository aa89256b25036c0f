"""Compare replicas in Ray's actors with one engine in this process: rows per second, ratios of one run.

    python -m benchmarks.replicas [--batches 8] [--repeats 3] [--max-tokens 64] [--model lamb]

Each way in turn continues the same batches of 64 prompts, and the texts are compared. The best of the repeats counts,
and the first batches warm up. CPU seconds are those of this process and the actors. The load of the machine is printed,
because replicas gain nothing if its cores are busy.
"""

import os
import time
from collections.abc import Callable, Sequence
from functools import partial

import psutil

from benchmarks.common import make_parser, run_script
from isheep import backends
from isheep.batching import chunks, derive_seed, ordered_map
from isheep.engines import Engine, actors
from isheep.models.chat_template import load_chat_template
from isheep.recipe.machine import Machine
from isheep.recipe.schema import Recipe
from isheep.records import Completion, Model, Sampling
from isheep.seeds import load_seed_file

BATCH_SIZE = 64
ONE = "1 x 1 thread"
WAYS = {ONE: (1, 1), "1 x 2 threads": (1, 2), "2 x 1 thread": (2, 1)}
"""The number of engines and the threads of each, by name."""


def generate(engine: Engine, prompts: Sequence[str], sampling: Sampling) -> list[Completion]:
    """Return the completions, generated as the stages do: as many batches at a time as keep the engine busy."""

    def generate_batch(numbered: tuple[int, Sequence[str]]) -> list[Completion]:
        number, batch = numbered
        return engine.generate(batch, sampling, derive_seed("benchmark", number))

    batches = ordered_map(generate_batch, enumerate(chunks(prompts, BATCH_SIZE)), engine.max_in_flight)
    return [completion for batch in batches for completion in batch]


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return the CPU seconds that processes have used so far."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(float(process.user) + float(process.system) for process in times)


def actor_pids(pool: actors.ReplicaPool) -> list[int]:
    """Return the process ids of the replicas."""
    return [pool.ray.get(actor.__ray_call__.remote(lambda replica: os.getpid())) for actor in pool.alive]


def wall_seconds(work: Callable[[], object]) -> float:
    """Return the seconds that a call takes by the clock."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def open_engines(recipe: Recipe) -> dict[str, Engine]:
    """Return an engine for each of WAYS."""
    engines = {}
    for name, (replicas, threads) in WAYS.items():
        machine = Machine(replicas=replicas, threads=threads, device="cpu")
        engines[name] = backends.open_engine(recipe.model_copy(update={"machine": machine}), Model(recipe.model))
    return engines


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of all ways."""
    parser = make_parser(__doc__)
    parser.add_argument("--batches", type=int, default=8, help="Set the number of batches.")
    parser.add_argument("--repeats", type=int, default=3, help="Set how often each way is timed.")
    parser.add_argument("--max-tokens", type=int, default=64, help="Set the largest number of new tokens.")
    parser.add_argument("--model", default="lamb", help="Name the checkpoint.")
    args = parser.parse_args(arguments)
    import torch

    recipe = Recipe(model=args.model, seed_tasks="lamb")
    chat = load_chat_template("tokenizer", args.model)
    texts = [chat.prompt(seed.content) for seed in load_seed_file(recipe.seeds).tasks]
    prompts = [texts[n % len(texts)] for n in range(args.batches * BATCH_SIZE)]
    sampling = Sampling(max_tokens=args.max_tokens, stop=(chat.end,))
    engines = open_engines(recipe)
    replicas = Machine(replicas=2, threads=1, device="cpu")
    start_seconds = wall_seconds(lambda: actors.pool_of(replicas))
    first_prompts = prompts[: 2 * BATCH_SIZE]
    first = {name: wall_seconds(partial(generate, engine, first_prompts, sampling)) for name, engine in engines.items()}
    pids = [os.getpid(), *actor_pids(actors.pool_of(replicas))]
    best, outputs = dict[str, tuple[float, float]](), dict[str, list[str]]()
    for _ in range(args.repeats):
        for name, engine in engines.items():
            num_engines, threads = WAYS[name]
            # The number of threads belongs to the process, and the engine sets it only when it loads.
            if num_engines == 1:
                torch.set_num_threads(threads)
            start, before = time.perf_counter(), cpu_seconds(pids)
            outputs[name] = [completion.text for completion in generate(engine, prompts, sampling)]
            seconds = (time.perf_counter() - start, cpu_seconds(pids) - before)
            best[name] = min(best.get(name, seconds), seconds)
    load = os.getloadavg()[0]
    print(f"{args.model}, {len(prompts)} prompts, up to {args.max_tokens} tokens, load {load:.1f} at the end\n")
    print(f"{'engines':<16}{'first 2 batches, s':>20}{'rows/s':>10}{'ratio':>8}{'CPU s':>8}  texts")
    for name, (wall, cpu) in best.items():
        verdict = "equal" if outputs[name] == outputs[ONE] else "different"
        rate, ratio = len(prompts) / wall, best[ONE][0] / wall
        print(f"{name:<16}{first[name]:>20.1f}{rate:>10.1f}{ratio:>8.2f}{cpu:>8.1f}  {verdict}")
    print(f"\nRay started in {start_seconds:.1f} s; the replicas' first batches include their start and torch's import")


if __name__ == "__main__":
    run_script(main)
