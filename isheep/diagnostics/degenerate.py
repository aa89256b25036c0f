"""Signs of degenerate learning: functions from the figures of an iteration to findings, or None.

A model that learns from its own text can go on for hours with nothing to learn from. The main loop (algorithm.align)
asks these functions as soon as their figures exist, and `rundir.findings.report_findings` says what they find.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from isheep.errors import UserError, excerpt
from isheep.evaluation.statistics import upper_bound
from isheep.models.chat_template import ChatTemplate
from isheep.recipe.evaluation import FindingName
from isheep.recipe.schema import RATING_SCALE, Recipe
from isheep.records import AssessedPair, Drop, Pair, Task
from isheep.rundir import progress
from isheep.rundir.atomic import write_text
from isheep.rundir.findings import Finding, report_findings
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import load_validation_score
from isheep.rundir.training_file import read_training_file
from isheep.stages.context import StageContext
from isheep.stages.select import ways_to_more_rows
from isheep.trainers.adapter_dir import LOSS_NAMES, TRAINING_RECORD

MIN_COMPARED = 16
"""The number of texts, or of rated pairs, from which on it is a sign that all are the same."""

MAX_SPREAD = 0.5
"""Ratings of a criterion that differ by no more count as the same, because expected scores are seldom equal."""

FEW_ROWS = 16
"""A training on fewer rows is reported: that is less than one batch of 16, and every row is seen in each epoch."""

MAX_RISE = 0.2
"""The rise of the held-out loss over a training, in nats per token, from which on the adapter is much worse than the
model that the training began with: the perplexity has risen by 22%."""

CONFIDENCE = 0.95
"""The confidence with which a score on a validation part is clearly below that of the base."""

LOSS_FILE = "bad_loss.json"
"""The losses that ended a training, in the folder of its checkpoints: it ends again before it begins."""


# --- tasks, answers, ratings


def same_instructions(iteration: int, tasks: Sequence[Task]) -> Finding | None:
    """Return a finding if all instructions, with their inputs, are the same text."""
    advice = "raise the temperature in synthesis.sampling, or set synthesis.novelty"
    return _same_text("same_instructions", iteration, tasks, lambda task: task.content, "instructions", advice)


def same_answers(iteration: int, pairs: Sequence[Pair]) -> Finding | None:
    """Return a finding if all answers are the same text."""
    advice = "take another response.prompt or chat_template, or raise the temperature in response.sampling"
    return _same_text("same_answers", iteration, pairs, lambda pair: pair.output, "answers", advice)


def _same_text(
    name: FindingName, iteration: int, rows: Sequence[Any], text_of: Callable[[Any], str], label: str, advice: str
) -> Finding | None:
    if len(rows) < MIN_COMPARED:
        return None
    texts = map(text_of, rows)
    first = next(texts)
    # Reads no further than the first text that differs.
    if any(text != first for text in texts):
        return None
    return Finding(name, iteration, f"all {len(rows)} {label} are the same text, {excerpt(first)}", advice)


def same_ratings(iteration: int, pairs: Sequence[Pair]) -> Finding | None:
    """Return a finding if each criterion has one value in all ratings that can be read, such as the highest score."""
    ranges: dict[str, tuple[float, float]] = {}
    num_rated = 0
    for pair in pairs:
        grades = pair.grades if isinstance(pair, AssessedPair) else {}
        scores = {criterion: grade.score for criterion, grade in grades.items() if grade.score is not None}
        num_rated += bool(scores)
        for criterion, score in scores.items():
            low, high = ranges.get(criterion, (score, score))
            ranges[criterion] = min(low, score), max(high, score)
            if ranges[criterion][1] - ranges[criterion][0] > MAX_SPREAD:
                return None
    if num_rated < MIN_COMPARED:
        return None
    values = ", ".join(
        f"{criterion} {low:g}" + (f" to {high:g}" if high > low else "") for criterion, (low, high) in ranges.items()
    )
    top = " (the highest score)" if all(high == max(RATING_SCALE) for _, high in ranges.values()) else ""
    return Finding(
        "same_ratings",
        iteration,
        f"all {num_rated} rated pairs have the same ratings: {values}{top}",
        "they choose nothing: take another assessment.prompt or assessment.judge",
    )


# --- the training


def few_rows(context: StageContext, training_file: Path) -> Finding | None:
    """Return a finding if the model is to be trained on fewer than FEW_ROWS rows; None if it is trained already."""
    training = context.recipe.training
    if context.folder.has("adapter"):
        return None
    for key, limit in (("max_rows", training.max_rows), ("num_rows", training.num_rows)):
        if limit and limit < FEW_ROWS:
            return _few_rows(context.iteration, limit, f"for more rows raise training.{key}, in a new run folder")
    num_rows = len(read_training_file(training_file).rows)
    if num_rows >= FEW_ROWS:
        return None
    ways = ways_to_more_rows(context.folder.read("dropped.jsonl", Drop))
    return _few_rows(context.iteration, num_rows, f"for more rows {ways}, in a new run folder")


def _few_rows(iteration: int, num_rows: int, advice: str) -> Finding:
    figure = (
        f"training on {num_rows} rows only, fewer than {FEW_ROWS}: the model will mostly learn these texts by heart"
    )
    return Finding("few_rows", iteration, figure, advice)


def bad_loss(context: StageContext, step: int, losses: Mapping[str, float]) -> Finding | None:
    """Return a finding if a loss of an optimizer step is no number, or above that of uniform guesses, ln(vocabulary).

    `losses` are in nats per token, by the words of LOSS_NAMES.
    """
    for name, value in losses.items():
        figure = f"the {name} at step {step} is {value:.4g}"
        advice = "start again with a lower training.learning_rate, in a new run folder"
        if not math.isfinite(value):
            return Finding("bad_loss", context.iteration, figure, advice, is_final=True)
        # A fake chat template of a caller has no tokenizer.
        if isinstance(context.chat, ChatTemplate) and value > math.log(size := len(context.chat.tokenizer)):
            uniform = f"above {math.log(size):.2f}, that of uniform guesses over {size} tokens"
            advice = "lower training.learning_rate, or take the chat_template that the model was trained with"
            return Finding("bad_loss", context.iteration, f"{figure}, {uniform}", advice)
    return None


@contextlib.contextmanager
def watch_losses(context: StageContext) -> Iterator[None]:
    """Report a bad loss at once, while a model trains inside the block.

    Raises UserError out of the training if it is to end. The losses are kept beside the checkpoints: the next call ends
    before it loads anything.
    """
    path = context.folder.path / "adapter.part" / LOSS_FILE

    def report(iteration: int | None, step: int, losses: Mapping[str, float]) -> None:
        try:
            report_findings(context.run, context.recipe, bad_loss(context, step, losses))
        except UserError:
            write_text(path, json.dumps([step, dict(losses)]))
            raise

    if path.exists():
        # A damaged file counts as none: the loss will be seen again.
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            report(context.iteration, *json.loads(path.read_bytes()))
    with progress.listen_to_losses(report):
        yield


class TrainingFigures(BaseModel):
    """The figures of training.json that are read here. Losses are steps and values; step 0 is before the training."""

    rows: dict[str, int] = {}
    kept_step: int | None = None
    loss: list[tuple[int, float]] = []
    eval_loss: list[tuple[int, float]] = []


def training_findings(context: StageContext, adapter: Path) -> Iterator[Finding | None]:
    """Yield what the record of a finished training shows: few rows, a bad loss, an adapter that is worse than its base.

    The adapter of another trainer may have no record. Raises UserError if the record is damaged.
    """
    path = adapter / TRAINING_RECORD
    if not path.exists():
        return
    try:
        figures = TrainingFigures.model_validate_json(path.read_bytes())
    except ValidationError:
        raise UserError(f"{path} is damaged: delete {adapter}, and everything made with it, to train again") from None
    if figures.rows and (num_rows := figures.rows.get("trained", 0) + figures.rows.get("held_out", 0)) < FEW_ROWS:
        yield _few_rows(context.iteration, num_rows, "raise training.cutoff, which other prompts are too long for")
    for losses, name in ((figures.loss, LOSS_NAMES["loss"]), (figures.eval_loss, LOSS_NAMES["eval_loss"])):
        findings = (bad_loss(context, step, {name: value}) for step, value in losses)
        yield next(filter(None, findings), None)
    yield _worse_loss(context.iteration, figures)


def _worse_loss(iteration: int, figures: TrainingFigures) -> Finding | None:
    """Return a finding if the held-out loss of an adapter is clearly above that of the model before the training."""
    held_out = dict(figures.eval_loss)
    before, after = held_out.get(0), held_out.get(figures.kept_step or 0)
    if before is None or after is None or after - before <= MAX_RISE:
        return None
    return _worse_than_base(iteration, f"the held-out loss is {after:.2f} after the training, {before:.2f} before it")


# --- the next model


def worse_score(recipe: Recipe, run: RunFolder, iteration: int) -> Finding | None:
    """Return a finding if a model's score on the stop rule's validation part is clearly below that of the base."""
    rule = recipe.stop_rule
    base, score = (load_validation_score(recipe, run, number) if rule else None for number in (0, iteration))
    if not (iteration and rule and base and score) or base.mean is None or score.mean is None:
        return None
    if len(base.items) != len(score.items) or upper_bound(base.items, score.items, base.clusters, CONFIDENCE) >= 0:
        return None
    means = f"is {score.mean:.4g} on {rule.benchmark}'s validation part, and the base {base.mean:.4g}"
    return _worse_than_base(iteration, f"the mean score {means}: worse with a confidence of {CONFIDENCE:.0%}")


def _worse_than_base(iteration: int, figure: str) -> Finding:
    advice = "lower training.learning_rate or training.epochs, or look at the training rows (isheep show)"
    return Finding("worse_than_base", iteration, figure, advice)
