"""Throughput of machine.engine: vllm against the transformers engine: same prompts, greedy, texts compared.

Measured in CPU seconds, of all processes: on one thread what the clock says of an idle machine.

Run `python -m benchmarks.vllm_engine` in the repository's root, in an environment that has vLLM (docs/engines.md);
`--help` lists the sizes. Prompts are lamb's seed tasks, a few of them as examples before each. Starting is not counted.
"""

import argparse
from collections.abc import Callable

import psutil

from isheep.engines import Engine, transformers, vllm
from isheep.lamb import CHECKPOINT as LAMB_CHECKPOINT
from isheep.models.chat_template import load_chat_template
from isheep.recipe.schema import Machine
from isheep.records import Completion, Model, Sampling
from isheep.seeds import load_seed_tasks


def prompts(count: int, examples: int) -> list[str]:
    """`count` plain prompts that begin with the same examples."""
    seeds = [seed.content for seed in load_seed_tasks(LAMB_CHECKPOINT.parent / "seed_tasks.jsonl")]
    before = "".join(f"{n}. {text}\n" for n, text in enumerate(seeds[:examples], 1))
    return [f"{before}{examples + 1}. {seeds[n % len(seeds)]} ({n})\n" for n in range(count)]


def cpu() -> float:
    """Seconds that this process and its children have computed: on a busy machine a steadier measure than the clock."""
    me = psutil.Process()
    return sum(sum(entry.cpu_times()[:2]) for entry in (me, *me.children(recursive=True)))


def timed(run: Callable[[], list[Completion]], repeats: int) -> tuple[float, list[Completion]]:
    """The least CPU time of `repeats` in seconds, after one run to warm up, and what was written."""
    written, seconds = run(), []
    for _ in range(repeats):
        start = cpu()
        run()
        seconds.append(cpu() - start)
    return min(seconds), written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="lamb")
    parser.add_argument("--count", type=int, default=256, help="prompts")
    parser.add_argument("--examples", type=int, nargs="+", default=[0, 12], help="that prompts share")
    parser.add_argument("--length", type=int, default=48, help="new tokens at most")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    machine = Machine(engine="vllm", threads=args.threads)
    engines: list[Engine] = [
        transformers.open_engine(Model(args.model), threads=args.threads),
        vllm.open_engine(Model(args.model), machine, 1, lambda: load_chat_template("tokenizer", args.model)),
    ]
    print("| examples | transformers, tokens per CPU second | vllm | ratio | same texts |")
    print("|---|---|---|---|---|")
    for examples in args.examples:
        texts, sampling = prompts(args.count, examples), Sampling(temperature=0, max_tokens=args.length)
        timings = [timed(lambda e=e, t=texts, s=sampling: e.generate(t, s, 0), args.repeats) for e in engines]
        (slow, vllm_completions), (fast, completions) = timings
        num_equal = sum(
            entry.text == vllm_completion.text
            for entry, vllm_completion in zip(completions, vllm_completions, strict=True)
        )
        rates = [sum(entry.tokens for entry in written) / seconds for seconds, written in timings]
        print(
            f"| {examples} | {rates[0]:.0f} | {rates[1]:.0f} | {slow / fast:.2f} | {num_equal}/{len(texts)} |",
            flush=True,
        )
    for engine in engines:
        engine.close()


if __name__ == "__main__":
    main()
