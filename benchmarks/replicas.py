"""Generation by replicas in Ray's actors against one engine in this process: rows a second, ratios of one run.

    python -m benchmarks.replicas [--batches 8] [--repeats 3] [--max-tokens 64] [--model lamb]

Each way in turn continues the same batches of 64 prompts, and the texts are compared; the best of the repeats counts,
the first batches warm up. CPU seconds are of this process and the actors. The load of the machine is printed: replicas
gain nothing where its cores are taken.
"""

import argparse
import os
import time
from collections.abc import Callable
from functools import partial

import psutil

from isheep import backends
from isheep.batching import chunks, derive_seed, ordered_map
from isheep.engines import Engine, actors
from isheep.models.chat_template import load_chat_template
from isheep.recipe.schema import Machine, Recipe
from isheep.records import Completion, Model, Sampling
from isheep.seeds import load_seed_tasks

SIZE = 64
WAYS = {"1 x 1 thread": (1, 1), "1 x 2 threads": (1, 2), "2 x 1 thread": (2, 1)}  # engines, threads of each


def write(engine: Engine, prompts: list[str], sampling: Sampling) -> list[Completion]:
    """As the stages do: batches ahead, as many as keep the engine busy."""

    def made(numbered: tuple[int, list[str]]) -> list[Completion]:
        return engine.generate(numbered[1], sampling, derive_seed("benchmark", numbered[0]))

    parts = ordered_map(made, list(enumerate(chunks(prompts, SIZE))), engine.max_in_flight)
    return [entry for part in parts for entry in part]


def cpu(pids: list[int]) -> float:
    """CPU seconds that processes have used so far."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(entry.user + entry.system for entry in times)


def pids_of(pool: actors.ReplicaPool) -> list[int]:
    return [pool.ray.get(actor.__ray_call__.remote(lambda replica: os.getpid())) for actor in pool.alive]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--model", default="lamb")
    args = parser.parse_args()
    recipe = Recipe(model=args.model, seed_tasks="lamb")
    chat = load_chat_template("tokenizer", args.model)
    texts = [chat.prompt(seed.content) for seed in load_seed_tasks(recipe.seeds)]
    prompts = [texts[n % len(texts)] for n in range(args.batches * SIZE)]
    sampling = Sampling(max_tokens=args.max_tokens, stop=(chat.end,))

    def opened(replicas: int, threads: int) -> Engine:
        machine = Machine(replicas=replicas, threads=threads, device="cpu")
        return backends.open_engine(recipe.model_copy(update={"machine": machine}), Model(args.model))

    engines = {name: opened(*way) for name, way in WAYS.items()}
    two = Machine(replicas=2, threads=1, device="cpu")
    starting = seconds(lambda: actors.pool_of(two))
    first_prompts = prompts[: 2 * SIZE]
    first = {name: seconds(partial(write, engine, first_prompts, sampling)) for name, engine in engines.items()}
    pids = [os.getpid(), *pids_of(actors.pool_of(two))]
    taken, outputs = dict[str, tuple[float, float]](), dict[str, list[str]]()
    for _ in range(args.repeats):
        for name, engine in engines.items():
            if WAYS[name][0] == 1:
                import torch

                torch.set_num_threads(WAYS[name][1])  # the process's, which the engine sets when it loads
            start, before = time.perf_counter(), cpu(pids)
            outputs[name] = [entry.text for entry in write(engine, prompts, sampling)]
            taken[name] = min(taken.get(name, (1e9, 0.0)), (time.perf_counter() - start, cpu(pids) - before))
    load = os.getloadavg()[0]
    print(f"{args.model}, {len(prompts)} prompts, up to {args.max_tokens} tokens, load {load:.1f} at the end\n")
    print(f"{'engines':<16}{'first 2 batches, s':>20}{'rows/s':>10}{'ratio':>8}{'CPU s':>8}  texts")
    for name in WAYS:
        verdict = "same" if outputs[name] == outputs["1 x 1 thread"] else "others"
        wall, used = taken[name]
        ratio = taken["1 x 1 thread"][0] / wall
        print(f"{name:<16}{first[name]:>20.1f}{len(prompts) / wall:>10.1f}{ratio:>8.2f}{used:>8.1f}  {verdict}")
    print(f"\nRay started in {starting:.1f} s; the replicas' first batches hold their start and the loading of torch")


if __name__ == "__main__":
    main()
