"""Time the statistics of an evaluation of IFEval's size: a base and three iterations, every test of the tables.

    python -m benchmarks.comparison [--prompts 541] [--instructions 834] [--models 4]

The verdicts are random. The first row of the output includes the imports.
"""

import time
from collections.abc import Sequence

import numpy as np

from benchmarks.common import make_parser, run_script
from isheep.evaluation.statistics import compare, estimate, holm


def main(arguments: Sequence[str] | None = None) -> None:
    """Print wall and CPU seconds of the shares' and of the means' statistics."""
    parser = make_parser(__doc__)
    parser.add_argument("--prompts", type=int, default=541, help="Set the number of prompts.")
    parser.add_argument("--instructions", type=int, default=834, help="Set the number of instructions in them.")
    parser.add_argument("--models", type=int, default=4, help="Set the number of models, the base included.")
    args = parser.parse_args(arguments)
    rng = np.random.default_rng(0)
    models = range(args.models)
    clusters = sorted(rng.integers(0, args.prompts, args.instructions).tolist())
    prompts = [(rng.random(args.prompts) < 0.5).tolist() for _ in models]
    instructions = [(rng.random(args.instructions) < 0.6).tolist() for _ in models]
    numbers = [rng.normal(6, 2, args.prompts).tolist() for _ in models]

    def shares() -> None:
        """Compute four accuracies: intervals of every model, each iteration against the base, Holm over all."""
        p_values = []
        for _ in ("strict", "loose"):
            for row, values in zip(prompts, instructions, strict=True):
                estimate(row), estimate(values, clusters)
            p_values += [compare(prompts[0], row).p for row in prompts[1:]]
            p_values += [compare(instructions[0], row, clusters).p for row in instructions[1:]]
        holm(p_values)

    def means() -> None:
        """Compare a judge's scores of as many prompts, by bootstrap and sign flips."""
        holm([compare(numbers[0], row).p for row in numbers[1:]])

    for name, work in (("first call, imports included", shares), ("IFEval's shares", shares), ("numbers", means)):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        print(f"{name:<30}{time.perf_counter() - wall:6.2f} s, {time.process_time() - cpu:5.2f} s of CPU")


if __name__ == "__main__":
    run_script(main)
