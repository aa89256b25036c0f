"""Simulate stop rules: how often they end a run that still gains, and how long a run goes on that gains nothing.

    python -m benchmarks.stopping [--items 500] [--changed 0.05] [--gain 1.1] [--runs 1000]

Each model answers some items by chance, so that two models of the same quality differ on the share --changed of the
items; a gain turns wrong answers into right ones for good. The rules are applied as in a run
(isheep/evaluation/stopping.py). "result" is how many points better than the base the result of the run truly is: the
newest model, or the best by the validation part.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.common import make_parser, run_script
from isheep.errors import UserError
from isheep.evaluation.stopping import find_gain_test
from isheep.recipe.evaluation import StopRule
from isheep.rundir.validation_scores import ValidationScore

NUM_ITERATIONS = 6
SEED = 0
RULES = {
    "any loss ends it (earlier versions)": StopRule(benchmark="lamb", gain=0, confidence=0.5),
    "the same, patience 2": StopRule(benchmark="lamb", gain=0, confidence=0.5, patience=2),
    "the default": StopRule(benchmark="lamb"),
    "the default, patience 2": StopRule(benchmark="lamb", patience=2),
    "confidence 0.9": StopRule(benchmark="lamb", confidence=0.9),
}


class SimulatedRun(NamedTuple):
    """The validation scores of M^0 to M^T, and how many points better than M^0 each model truly is."""

    scores: list[ValidationScore]
    true_gains: list[float]


class Ending(NamedTuple):
    """The last iteration of a run, and the true gain of its newest model and of its best one."""

    last: int
    newest: float
    best: float


def simulate_run(gains: Sequence[float], num_items: int, changed: float, rng: np.random.Generator) -> SimulatedRun:
    """Return a run whose iterations truly gain these points, one after the other."""
    kind, difficulty = rng.random(num_items), rng.random(num_items)
    # Items that are answered by chance, with a probability of a half, change between two models in half of the cases.
    by_chance = kind < 2 * changed
    share_wrong = (1 - 2 * changed) / 2
    always_right = ~by_chance & (kind < 1 - share_wrong)
    true_gains = [0.0, *np.cumsum(gains).tolist()]
    scores = []
    for gain in true_gains:
        learned = ~by_chance & ~always_right & (difficulty < gain / 100 / share_wrong)
        forgotten = always_right & (difficulty < -gain / 100 / share_wrong)
        right = (always_right & ~forgotten) | learned | (by_chance & (rng.random(num_items) < 0.5))
        scores.append(ValidationScore(right.tolist()))
    return SimulatedRun(scores, true_gains)


def end_run(run: SimulatedRun, stop: StopRule) -> Ending:
    """Return where a rule ends a run."""
    num_iterations = len(run.scores) - 1
    last = next(
        (t for t in range(1, num_iterations) if find_gain_test(run.scores[: t + 1], stop).is_over), num_iterations
    )
    means = [score.mean or 0.0 for score in run.scores[: last + 1]]
    best = max(range(1, last + 1), key=lambda t: (means[t], -t))
    return Ending(last, run.true_gains[last], run.true_gains[best])


def format_row(name: str, endings: Sequence[Ending]) -> str:
    """Return a row of the table: how often the runs end after each iteration, and their results."""
    lasts = [ending.last for ending in endings]
    after = [f"{100 * np.mean([last <= t for last in lasts]):.0f}%" for t in range(1, NUM_ITERATIONS)]
    newest, best = (np.mean([getattr(ending, field) for ending in endings]) for field in ("newest", "best"))
    return f"| {name} | {' | '.join(after)} | {np.mean(lasts):.1f} | {newest:+.2f} | {best:+.2f} |"


def print_table(title: str, gains: Sequence[float], args: Any) -> None:
    """Print the endings of the same simulated runs by each rule."""
    rng = np.random.default_rng(SEED)
    runs = [simulate_run(gains, args.items, args.changed, rng) for _ in range(args.runs)]
    numbers = " | ".join(str(t) for t in range(1, NUM_ITERATIONS))
    print(f"\n{title}: share of {args.runs} runs that have ended after iteration ... of {NUM_ITERATIONS}\n")
    print(f"| rule | {numbers} | mean | result: newest | result: best |")
    print(f"|---|{'---:|' * (NUM_ITERATIONS + 2)}")
    for name, stop in RULES.items():
        print(format_row(name, [end_run(run, stop) for run in runs]), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table for a steady gain, for none, for two gains that end, and for a steady loss."""
    parser = make_parser(__doc__)
    parser.add_argument("--items", type=int, default=500, help="Items of the validation part (lamb's has 500).")
    parser.add_argument("--changed", type=float, default=0.05, help="Share of items that two equal models differ on.")
    parser.add_argument("--gain", type=float, default=1.1, help="True gain of an iteration in points.")
    parser.add_argument("--runs", type=int, default=1000, help="Simulated runs.")
    args = parser.parse_args(arguments)
    if not 0 < args.changed < 0.5 or args.items < 1 or args.runs < 1:
        raise UserError("--changed must be between 0 and 0.5, and --items and --runs 1 or more")
    print(f"{args.items} items; two models of the same quality differ on {args.changed:.0%} of them")
    print_table(f"Every iteration gains {args.gain:g} points", [args.gain] * NUM_ITERATIONS, args)
    print_table("No iteration gains anything", [0.0] * NUM_ITERATIONS, args)
    ending = [2 * args.gain, 2 * args.gain, *[0.0] * (NUM_ITERATIONS - 2)]
    print_table(f"Two iterations gain {2 * args.gain:g} points each, the others nothing", ending, args)
    print_table(f"Every iteration loses {args.gain:g} points", [-args.gain] * NUM_ITERATIONS, args)


if __name__ == "__main__":
    run_script(main)
