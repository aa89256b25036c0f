"""What claims compare: scores of benchmarks, and figures of a run's own files."""

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

FileMeasure = Callable[[Recipe, RunFolder, int], float | None]
"""Returns a figure of M^t from the files of a run, None if they do not have it."""


class Measure(NamedTuple):
    """A figure of a run's own files; `is_share` says that it is a share, and shown in percent."""

    compute: FileMeasure
    is_share: bool


def kept_share(recipe: Recipe, run: RunFolder, iteration: int) -> float | None:
    """Return the share of an iteration's pairs that pass the filters (Figure 3)."""
    counts = count_rows(run, iteration)
    return counts.kept / counts.generated if counts.generated and counts.kept is not None else None


def seed_distance(recipe: Recipe, run: RunFolder, iteration: int) -> float | None:
    """Return 100 times the squared MMD between an iteration's pairs and the seed tasks, by their words (Figure 4).

    That of the base, which has no pairs, is the mean between two halves of the seed tasks: what chance alone gives.
    """
    from isheep.diagnostics.two_sample import WordFeatures, halves_mmd, kernel_width, sample_texts, squared_mmd
    from isheep.report.reference import load_reference

    folder = iteration_dir(run, iteration)
    if iteration and not folder.has("pairs.jsonl"):
        return None
    reference = sample_texts(load_reference(None, run.path / SEEDS_FILE).texts)
    vectors = WordFeatures(reference, recipe.language)
    reference_vectors = vectors(reference)
    width = kernel_width(reference_vectors)
    if not iteration:
        return 100 * halves_mmd(reference_vectors, width).value
    pairs = sample_texts(folder.read("pairs.jsonl", Pair))
    return 100 * squared_mmd(reference_vectors, vectors([pair_text(pair) for pair in pairs]), width).value


MEASURES = {
    "kept share": Measure(kept_share, is_share=True),
    "distance to the seed tasks": Measure(seed_distance, is_share=False),
}


def is_share(measure: str) -> bool:
    """Return whether a measure is a share; the scores of claims are shares of right answers."""
    return measure not in MEASURES or MEASURES[measure].is_share


def measure_model(run: SeedRun, iteration: int, measure: str) -> float | None:
    """Return a measure of M^iteration of a run: a figure of its files, or a score named "BENCHMARK SCORE"."""
    if run.opened is None:
        return None
    if measure in MEASURES:
        return MEASURES[measure].compute(*run.opened, iteration)
    benchmark, _, name = measure.partition(" ")
    return run.mean_score(iteration, benchmark, name)
