"""How long the statistics of an evaluation take: IFEval's size, base and three iterations, every test of the tables.

python benchmarks/comparison.py
"""

import time

import numpy as np

from isheep.evaluation.statistics import compare, estimate, holm

PROMPTS, INSTRUCTIONS, MODELS = 541, 834, 4


def main() -> None:
    rng = np.random.default_rng(0)
    clusters = sorted(rng.integers(0, PROMPTS, INSTRUCTIONS).tolist())
    prompts = [(rng.random(PROMPTS) < 0.5).tolist() for _ in range(MODELS)]
    instructions = [(rng.random(INSTRUCTIONS) < 0.6).tolist() for _ in range(MODELS)]
    numbers = [rng.normal(6, 2, PROMPTS).tolist() for _ in range(MODELS)]

    def shares() -> None:
        """The four accuracies: intervals of every model, each iteration against the base, Holm over all."""
        p_values = []
        for _ in ("strict", "loose"):
            for row, values in zip(prompts, instructions, strict=True):
                estimate(row), estimate(values, clusters)
            p_values += [compare(prompts[0], row).p for row in prompts[1:]]
            p_values += [compare(instructions[0], row, clusters).p for row in instructions[1:]]
        holm(p_values)

    def means() -> None:
        """A judge's scores of as many items: bootstrap and sign flips."""
        holm([compare(numbers[0], row).p for row in numbers[1:]])

    for name, work in (("first call, imports included", shares), ("IFEval's shares", shares), ("numbers", means)):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        print(f"{name:<30}{time.perf_counter() - wall:6.2f} s, {time.process_time() - cpu:5.2f} s of CPU")


if __name__ == "__main__":
    main()
