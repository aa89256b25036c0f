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
from isheep.stages.filters import CHARACTERS, TURNS, find_drops, has_unreadable_rating, kept_pairs
from isheep.stages.rating_advice import unreadable_advice, were_constrained

# What helps against each reason for which pairs are dropped.
ADVICE = {
    "low score": "lower the threshold of the score filter, or take a share of the best pairs: {kind: score, best: 0.3}",
    "not among the best": "raise best of the score filter, or synthesis.tasks",
    "cut off": "raise response.sampling.max_tokens, because answers are cut off before they begin",
    "answer": "take another response.prompt, because the model ends its thoughts without an answer",
    "rules": "look at the answers (isheep show --dropped): another chat_template or response.prompt may help",
    "characters": "look at the answers (isheep show --dropped): the model writes control characters",
    "contamination": "take other seed tasks, or a contamination filter that drops less",
    "perplexity": "raise at_most of the perplexity filter",
    "density": "raise clusters or keep of the density filter, or synthesis.tasks",
    "random": "keep more pairs in the random filter, or raise synthesis.tasks",
    "nothing": "raise synthesis.tasks or synthesis.budget",
}
# The same for a training on few rows, for which any reason counts that can be changed by one key.
WAYS_TO_MORE_ROWS = {
    "low score": "lower the threshold of the score filter",
    "not among the best": "raise best of the score filter",
}


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
    return write_training_file(folder, chain(_earlier_rows(context), map(training_row, data)))


def _earlier_rows(context: StageContext) -> Iterator[TrainingRow]:
    """Yield the rows of the previous iteration's training file for `training.data: all`."""
    if context.recipe.training.data == "all" and context.iteration > 1:
        previous = iteration_dir(context.run, context.iteration - 1)
        yield from read_training_file(previous.path / TRAINING_FILE).rows


def _too_few_message(context: StageContext, pairs: Sequence[Pair], drops: Sequence[Drop], num_kept: int) -> str:
    """Return the error message that says which filters dropped how many pairs, and what helps against it."""
    num_unreadable = sum(isinstance(pair, AssessedPair) and has_unreadable_rating(pair) for pair in pairs)
    dropped_by = Counter(drop.by for drop in drops).most_common()
    counts = [f"{name} {count}" for name, count in dropped_by]
    if num_unreadable:
        counts.append(f"of these with an unreadable rating {num_unreadable}")
    advice = _advice(context, pairs, drops)
    return (
        f"iteration {context.iteration}: {num_kept} of {len(pairs)} pairs left to train on, and training needs 2 "
        f"(dropped by: {', '.join(counts) or 'nothing'}; the reasons are in {context.folder.path / 'dropped.jsonl'}); "
        f"with a new run folder, {advice}"
    )


def _advice(context: StageContext, pairs: Sequence[Pair], drops: Sequence[Drop]) -> str:
    """Return what helps against the most frequent reason for which pairs were dropped."""
    causes = Counter(_cause(drop) for drop in drops if drop.by != TURNS)
    (cause, _), *_ = causes.most_common(1) or [("nothing", 0)]
    settings = context.recipe.assessment
    if cause == "unreadable" and settings:
        rated = (pair for pair in pairs if isinstance(pair, AssessedPair))
        # The engine of another judge is that of transformers or vLLM, which give probabilities.
        engine = context.engine if isinstance(settings.judge, str) else None
        return unreadable_advice(settings, engine, were_constrained(settings, rated))
    return ADVICE.get(cause) or f"change the filter {cause}, or raise synthesis.tasks"


def ways_to_more_rows(drops: Sequence[Drop]) -> str:
    """Return what gives a training more rows: more tasks, and filters that drop less, of those that dropped pairs."""
    causes = Counter(map(_cause, drops))
    ways = [WAYS_TO_MORE_ROWS[cause] for cause in causes if cause in WAYS_TO_MORE_ROWS]
    other_filters = sorted({drop.by for drop in drops} - {"score", "rules", "answer", CHARACTERS, TURNS})
    if other_filters:
        ways.append(f"let the filters drop less ({', '.join(other_filters)})")
    return ", or ".join(["raise synthesis.tasks", *ways])


def _cause(drop: Drop) -> str:
    """Return the key of ADVICE for a dropped pair, or the name of the filter."""
    if drop.by == "score":
        if drop.why.endswith("unreadable"):
            return "unreadable"
        return "not among the best" if drop.why.endswith("are kept") else "low score"
    return "cut off" if drop.why.endswith("(cut off)") else drop.by
