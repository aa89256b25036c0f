"""Compare the throughput of `machine.engine: vllm` and the transformers engine: same prompts, greedy, texts compared.

    python -m benchmarks.vllm_engine [--count 256] [--examples 0 12]

Needs an environment that has vLLM (docs/engines.md). The prompts are lamb's seed tasks; those of one call begin with
the same examples. Seconds are CPU seconds of all processes, which on one thread are the time that an idle machine would
take. The start of an engine is not counted.
"""

from collections.abc import Sequence
from functools import partial

from benchmarks.common import best_time, make_parser, process_seconds, run_script
from isheep.engines import Engine, transformers, vllm
from isheep.lamb import SEEDS
from isheep.models.chat_template import load_chat_template
from isheep.recipe.machine import Machine
from isheep.records import Model, Sampling
from isheep.seeds import load_seed_file


def make_prompts(count: int, num_examples: int) -> list[str]:
    """Return `count` plain prompts that begin with the same examples."""
    seeds = [seed.content for seed in load_seed_file(SEEDS).tasks]
    examples = "".join(f"{n}. {text}\n" for n, text in enumerate(seeds[:num_examples], 1))
    return [f"{examples}{num_examples + 1}. {seeds[n % len(seeds)]} ({n})\n" for n in range(count)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row of the table for each number of examples."""
    parser = make_parser(__doc__)
    parser.add_argument("--model", default="lamb", help="Name the checkpoint.")
    parser.add_argument("--count", type=int, default=256, help="Set the number of prompts.")
    parser.add_argument("--examples", type=int, nargs="+", default=[0, 12], help="Set the number of shared examples.")
    parser.add_argument("--length", type=int, default=48, help="Set the largest number of new tokens.")
    parser.add_argument("--threads", type=int, default=1, help="Set the number of threads.")
    parser.add_argument("--repeats", type=int, default=3, help="Set how often each engine is timed.")
    args = parser.parse_args(arguments)
    machine = Machine(engine="vllm", threads=args.threads)
    engines: list[Engine] = [
        transformers.open_engine(Model(args.model), threads=args.threads),
        vllm.open_engine(Model(args.model), machine, 1, lambda: load_chat_template("tokenizer", args.model)),
    ]
    print("| examples | transformers, tokens per CPU second | vllm | ratio | equal texts |\n|---|---|---|---|---|")
    for num_examples in args.examples:
        prompts, sampling = make_prompts(args.count, num_examples), Sampling(temperature=0, max_tokens=args.length)
        rates, texts = list[float](), list[list[str]]()
        for engine in engines:
            generate = partial(engine.generate, prompts, sampling, 0)
            # The first call loads the weights and warms up.
            generate()
            seconds, completions = best_time(generate, args.repeats, process_seconds)
            rates.append(sum(completion.tokens for completion in completions) / seconds)
            texts.append([completion.text for completion in completions])
        num_equal = sum(text == vllm_text for text, vllm_text in zip(*texts, strict=True))
        columns = f"{rates[0]:.0f} | {rates[1]:.0f} | {rates[1] / rates[0]:.2f}"
        print(f"| {num_examples} | {columns} | {num_equal}/{len(prompts)} |", flush=True)
    for engine in engines:
        engine.close()


if __name__ == "__main__":
    run_script(main)
