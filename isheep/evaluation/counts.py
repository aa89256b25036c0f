"""The number of rows that each iteration generated, kept and learned from, and the accuracy of its pairs."""

from typing import NamedTuple

from isheep.benchmarks import is_readable, load_benchmark
from isheep.recipe.schema import Recipe
from isheep.records import AssessedPair, Drop, Pair, Rejected, TaskKind
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import iteration_dir
from isheep.stages.filters import has_unreadable_rating, kept_pairs


class RowCounts(NamedTuple):
    """The number of rows of an iteration; None for a stage that is not finished.

    - `generated`: pairs that M^(t-1) wrote
    - `kept`: pairs that passed the filters, D^t
    - `unreadable`: pairs with a rating that can't be parsed
    - `trained`: rows that M^t learned from, without the held-out rows
    - `unanswered`: pairs whose answer can't be read; None if the model writes no thoughts first, and all were read
    """

    generated: int | None
    kept: int | None
    unreadable: int | None
    trained: int | None
    unanswered: int | None = None


def count_rows(run: RunFolder, iteration: int) -> RowCounts:
    """Count the rows of an iteration in its finished files."""
    folder = iteration_dir(run, iteration)
    pairs = folder.read("pairs.jsonl", Pair) if folder.has("pairs.jsonl") else None
    graded = folder.read("assessed.jsonl", AssessedPair) if folder.has("assessed.jsonl") else None
    drops = folder.read("dropped.jsonl", Drop) if folder.has("dropped.jsonl") else None
    unanswered = None if pairs is None else sum(pair.unanswered for pair in pairs)
    training = folder.json("adapter/training.json", dict) if folder.has("adapter/training.json") else {}
    return RowCounts(
        generated=None if pairs is None else len(pairs),
        kept=None if pairs is None or drops is None else len(pairs) - len(drops),
        unreadable=None if graded is None else sum(map(has_unreadable_rating, graded)),
        trained=training.get("rows", {}).get("trained"),
        unanswered=unanswered if unanswered or (pairs and pairs[0].thoughts is not None) else None,
    )


class InstanceCounts(NamedTuple):
    """The outcome of an iteration's tasks with response.prompt: instances; None for a stage that is not finished.

    - `classification`: tasks that the model calls classification
    - `unreadable`: tasks whose kind can't be parsed
    - `failed`: tasks whose instance is no pair
    """

    classification: int | None
    unreadable: int | None
    failed: int | None


def count_instances(run: RunFolder, iteration: int) -> InstanceCounts:
    """Count the kinds and instances of an iteration in its finished files."""
    folder = iteration_dir(run, iteration)
    kinds = (
        [row.classification for row in folder.read("task_kinds.jsonl", TaskKind)]
        if folder.has("task_kinds.jsonl")
        else None
    )
    failed = folder.read("unanswered.jsonl", Rejected) if folder.has("unanswered.jsonl") else None
    return InstanceCounts(
        classification=None if kinds is None else kinds.count(True),
        unreadable=None if kinds is None else kinds.count(None),
        failed=None if failed is None else len(failed),
    )


class DialogueCounts(NamedTuple):
    """The second turns of an iteration, and the texts that are no second turn; None before they are written."""

    second_turns: int | None
    failed: int | None


def count_dialogues(run: RunFolder, iteration: int) -> DialogueCounts:
    """Count the second turns of an iteration in its finished files."""
    folder = iteration_dir(run, iteration)
    answered = folder.read("second_turns.jsonl", Pair) if folder.has("second_turns.jsonl") else None
    failed = folder.read("unanswered.jsonl", Rejected) if folder.has("unanswered.jsonl") else None
    return DialogueCounts(
        second_turns=None if answered is None else len(answered), failed=None if failed is None else len(failed)
    )


class PairAccuracy(NamedTuple):
    """Which pairs of an iteration are right: all generated pairs, and the kept ones. Empty before the filters ran."""

    generated: list[bool]
    kept: list[bool]


def pair_accuracy(recipe: Recipe, run: RunFolder, iteration: int) -> PairAccuracy | None:
    """Check the pairs of an iteration by the first benchmark of the recipe that knows the truth, None without one."""
    # Results of code that is not allowed can be read, but the code is not loaded for them.
    readable = (settings for settings in recipe.evaluation if is_readable(settings.name))
    checks = (load_benchmark(settings.name).is_right for settings in readable)
    is_right = next((check for check in checks if check), None)
    if is_right is None:
        return None
    folder = iteration_dir(run, iteration)
    if not folder.has("pairs.jsonl") or not folder.has("dropped.jsonl"):
        return PairAccuracy([], [])
    pairs = folder.read("pairs.jsonl", Pair)
    kept = kept_pairs(pairs, folder.read("dropped.jsonl", Drop))
    return PairAccuracy([is_right(pair) for pair in pairs], [is_right(pair) for pair in kept])
