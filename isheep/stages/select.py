"""Filtering (Algorithm 1, line 7): the pairs that M^t learns from, and why the others are dropped."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from isheep.errors import UserError
from isheep.filters.base import FilterContext
from isheep.records import AssessedPair, Drop, Pair
from isheep.rundir import progress
from isheep.rundir.iterations import iteration_dir
from isheep.rundir.training_file import (
    TRAINING_FILE,
    TrainingRow,
    read_training_file,
    training_row,
    write_training_file,
)
from isheep.stages.context import StageContext
from isheep.stages.filters import find_drops, has_unreadable_rating, kept_pairs

FEW_ROWS = 16
"""A training on fewer rows is reported: that is less than one batch of 16, and every row is seen in each epoch."""


def select_training_rows(context: StageContext, pairs: Sequence[Pair], measures: FilterContext) -> Path:
    """Write the rows that M^t is trained on and return the path of the training file.

    The rows are D^t, after those of the previous iteration's training file for `training.data: all`. The dropped pairs
    go to dropped.jsonl, with reasons. Raises UserError if fewer than two pairs of D^t remain.
    """
    folder, recipe = context.folder, context.recipe
    if folder.has("dropped.jsonl"):
        drops: Sequence[Drop] = folder.read("dropped.jsonl", Drop)
    else:
        seeded = measures._replace(seed=context.seed())
        filters = [*recipe.filters, *context.filters]
        with folder.stage("dropped.jsonl", len(pairs)):
            drops = find_drops(pairs, filters, recipe.synthesis.rules, context.chat.special, seeded)
        drops = folder.write("dropped.jsonl", Drop, drops)
    data = kept_pairs(pairs, drops)
    progress.set_fact("kept so far", progress.share_text(len(data), len(pairs)))
    if len(data) < 2:
        raise UserError(_too_few_message(context, pairs, drops, len(data)))
    is_new = not folder.has(TRAINING_FILE)
    path = write_training_file(folder, chain(_earlier_rows(context), map(training_row, data)))
    if is_new and len(data) < FEW_ROWS and (num_rows := len(read_training_file(path).rows)) < FEW_ROWS:
        folder.notify(
            f"iteration {context.iteration}: training on {num_rows} rows only, fewer than {FEW_ROWS}: the model will "
            "mostly learn these texts by heart; for more rows raise synthesis.tasks, or lower the filters' thresholds, "
            "in a new run folder"
        )
    return path


def _earlier_rows(context: StageContext) -> Iterator[TrainingRow]:
    """Yield the rows of the previous iteration's training file for `training.data: all`."""
    if context.recipe.training.data == "all" and context.iteration > 1:
        previous = iteration_dir(context.run, context.iteration - 1)
        yield from read_training_file(previous.path / TRAINING_FILE).rows


def _too_few_message(context: StageContext, pairs: Sequence[Pair], drops: Sequence[Drop], num_kept: int) -> str:
    """Return the error message that says which filters dropped how many pairs."""
    num_unreadable = sum(isinstance(pair, AssessedPair) and has_unreadable_rating(pair) for pair in pairs)
    dropped_by = Counter(drop.by for drop in drops).most_common()
    counts = [f"{name} {count}" for name, count in dropped_by]
    if num_unreadable:
        counts.append(f"of these with an unreadable rating {num_unreadable}")
    return (
        f"iteration {context.iteration}: {num_kept} of {len(pairs)} pairs left to train on, and training needs 2 "
        f"(dropped by: {', '.join(counts) or 'nothing'}; the reasons are in {context.folder.path / 'dropped.jsonl'}); "
        "with a new run folder, change the filters or raise synthesis.tasks"
    )
