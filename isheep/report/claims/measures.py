"""What claims compare: scores of benchmarks, and other figures of a run."""

from collections.abc import Callable
from typing import NamedTuple

from isheep.evaluation.counts import count_rows
from isheep.evaluation.seed_runs import SeedRun
from isheep.recipe.schema import Recipe
from isheep.records import Pair
from isheep.rundir.artifacts import SEEDS_FILE
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import iteration_dir
from isheep.stages.measure import pair_text

BEST_BY = ("lamb", "right")
"""The benchmark and the score by which the best iteration of a run is chosen."""


class Measure(NamedTuple):
    """A figure of M^t of a run that can be read; `is_share` says that it is a share, and shown in percent.

    `compute` returns None if the run does not have the figure.
    """

    compute: Callable[[SeedRun, int], float | None]
    is_share: bool


def kept_share(run: SeedRun, iteration: int) -> float | None:
    """Return the share of an iteration's pairs that pass the filters (Figure 3)."""
    _, folder = recipe_and_folder(run)
    counts = count_rows(folder, iteration)
    return counts.kept / counts.generated if counts.generated and counts.kept is not None else None


def seed_distance(run: SeedRun, iteration: int) -> float | None:
    """Return 100 times the squared MMD between an iteration's pairs and the seed tasks, by their words (Figure 4).

    That of the base, which has no pairs, is the mean between two halves of the seed tasks: what chance alone gives.
    """
    from isheep.diagnostics.two_sample import WordFeatures, halves_mmd, kernel_width, sample_texts, squared_mmd
    from isheep.report.reference import load_reference

    recipe, run_folder = recipe_and_folder(run)
    folder = iteration_dir(run_folder, iteration)
    if iteration and not folder.has("pairs.jsonl"):
        return None
    reference = sample_texts(load_reference(None, run_folder.path / SEEDS_FILE).texts)
    vectors = WordFeatures(reference, recipe.language)
    reference_vectors = vectors(reference)
    width = kernel_width(reference_vectors)
    if not iteration:
        return 100 * halves_mmd(reference_vectors, width).value
    pairs = sample_texts(folder.read("pairs.jsonl", Pair))
    return 100 * squared_mmd(reference_vectors, vectors([pair_text(pair) for pair in pairs]), width).value


def best_iteration(run: SeedRun, iteration: int) -> float | None:
    """Return the iteration with the highest score among the base and those up to `iteration`; of equal ones the first.

    None if one of them has no score, because it could be the best.
    """
    scores = [run.mean_score(number, *BEST_BY) for number in range(iteration + 1)]
    known_scores = [score for score in scores if score is not None]
    return float(scores.index(max(known_scores))) if len(known_scores) == len(scores) else None


def recipe_and_folder(run: SeedRun) -> tuple[Recipe, RunFolder]:
    """Return the recipe and the folder of a run. Raises ValueError for one that can't be read."""
    if run.opened is None:
        raise ValueError(f"{run.name} can't be read")
    return run.opened


MEASURES = {
    "kept share": Measure(kept_share, is_share=True),
    "distance to the seed tasks": Measure(seed_distance, is_share=False),
    "best iteration": Measure(best_iteration, is_share=False),
}


def is_share(measure: str) -> bool:
    """Return whether a measure is a share; the scores of claims are shares of right answers."""
    return measure not in MEASURES or MEASURES[measure].is_share


def measure_model(run: SeedRun, iteration: int, measure: str) -> float | None:
    """Return a measure of M^iteration of a run: a figure named in MEASURES, or a score named "BENCHMARK SCORE"."""
    if run.opened is None:
        return None
    if measure in MEASURES:
        return MEASURES[measure].compute(run, iteration)
    benchmark, _, name = measure.partition(" ")
    return run.mean_score(iteration, benchmark, name)
