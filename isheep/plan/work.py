"""The calls and tokens that each stage of a recipe takes. Nothing here depends on the speed of a machine."""

import json
from collections.abc import Callable, Iterator
from hashlib import sha256
from math import ceil
from typing import Any, NamedTuple

from isheep.benchmarks import (
    PlannedAnswers,
    half_name,
    halved,
    load_benchmark,
    reported_benchmarks,
    stop_settings,
    validation_part,
)
from isheep.filters import count_samples, needs
from isheep.plan.assumptions import LABEL_TOKENS, Assumptions
from isheep.prompts.forms import load_topic_guide
from isheep.recipe.evaluation import BenchmarkSettings
from isheep.recipe.schema import Recipe
from isheep.records import Record
from isheep.stages.synthesize import prompt_budget

Assume = Callable[[Recipe, int], Assumptions]
"""A function of the recipe as an iteration has it, and of the iteration, that returns what is assumed for it."""

# The recipe's keys that everything in a run depends on.
GLOBAL_KEYS = ("model", "chat_template", "seed", "seed_tasks", "language")
# Pairs at a time for which the perplexities and embeddings of a filter are computed (isheep.stages.measure).
MEASURE_BATCH = 64


class Stage(Record):
    """A stage of an iteration, in expected numbers of calls and tokens. The calls of a training are rows x epochs."""

    iteration: int
    name: str
    calls: float
    prompt_tokens: float
    """Tokens of all prompts, or of the rows of a training."""
    computed_tokens: float
    """Prompt tokens that pass through the model: a prompt that all rows of a batch share passes once."""
    output_tokens: float
    max_output_tokens: float
    batch_size: int
    decoding_steps: float = 0
    """Forward passes to generate a batch: the tokens of its longest answer."""
    max_row_tokens: float = 0
    """Largest number of tokens of a row in the cache, answer included, without a shared prompt."""
    shares_prompt: bool = False
    """Whether all prompts of a batch are the same text."""
    all_logits: bool = False
    """Whether the logits of every token are computed, not those of the last one only."""
    trained_tokens: float = 0
    """Tokens that a training passes through forwards and backwards. `computed_tokens` pass forwards only."""
    file_tokens: float = 0
    """Tokens of text in the files that the stage writes."""
    file_rows: float = 0
    fingerprint: str = ""
    """A hash of what the result depends on: two recipes' stages with the same hash make the same files."""

    @property
    def length(self) -> float:
        """The number of tokens of a prompt, or of a row of a training."""
        return (self.trained_tokens or self.prompt_tokens) / self.calls


class PlannedIteration(NamedTuple):
    """The number of an iteration, the recipe as it has it, and what is assumed for it."""

    number: int
    recipe: Recipe
    assumed: Assumptions

    @property
    def num_tasks(self) -> float:
        """The number of tasks, limited by the budget of synthesis prompts."""
        settings = self.recipe.synthesis
        return min(float(settings.tasks), prompt_budget(settings) * self.assumed.tasks)

    @property
    def num_pairs(self) -> float:
        """The number of pairs: one for each turn of a dialogue."""
        return self.num_tasks * self.recipe.response.turns

    @property
    def pair_tokens(self) -> float:
        """The mean number of tokens of a pair's texts; in a dialogue the second turn shows the first one, too."""
        return (self.assumed.task + self.assumed.answer) * (self.recipe.response.turns + 1) / 2

    def batch_size(self, stage_size: int) -> int:
        """Return the number of prompts that an engine processes at a time."""
        return min(stage_size, self.recipe.machine.engine_batch_size)


class Requests(NamedTuple):
    """Prompts to generate from: their number, the expected tokens of a prompt and of an output, and max_tokens."""

    calls: float
    prompt: float
    output: float
    max_tokens: int
    batch_size: int


def run_stages(recipe: Recipe, assume: Assume) -> Iterator[Stage]:
    """Yield every stage of a run in order, starting with the evaluation of the base model."""
    model = _digest(recipe.model_dump(mode="json", include={*GLOBAL_KEYS}))
    num_rows = most_rows = 0.0
    yield from evaluation_stages(PlannedIteration(0, recipe, assume(recipe.at(1), 1)), model)
    for number in range(1, recipe.iterations + 1):
        recipe_now = recipe.at(number)
        iteration = PlannedIteration(number, recipe_now, assume(recipe_now, number))
        stages = list(generation_stages(iteration, model))
        kept_share = iteration.assumed.kept
        kept_rows = iteration.num_pairs * kept_share
        adds_rows = recipe_now.training.data == "all"
        num_rows = kept_rows + (num_rows if adds_rows else 0)
        most_rows = recipe_now.synthesis.tasks * recipe_now.response.turns + (most_rows if adds_rows else 0)
        settings = recipe_now.model_dump(mode="json", include={"filters", "training"})
        model = _digest(stages[-1].fingerprint, settings, kept_share)
        yield from stages
        yield training_stage(iteration, num_rows, most_rows, model)
        yield from evaluation_stages(iteration, model)


def generation_stages(iteration: PlannedIteration, model: str) -> Iterator[Stage]:
    """Yield the stages that M^(t-1) runs: instructions, answers, measures for filters, ratings."""
    number, recipe, assumed = iteration
    settings, num_pairs = recipe.model_dump(mode="json"), iteration.num_pairs
    fingerprint = _digest(_digest(model, number), settings["synthesis"])
    if not recipe.synthesis.tasks_of:
        yield instruction_stage(iteration, fingerprint)
    fingerprint = _digest(fingerprint, settings["response"])
    yield answer_stage(iteration, fingerprint)
    pair = iteration.pair_tokens
    if needs(recipe.filters, "perplexities"):
        # The answer after its prompt is read, then the pair as plain text.
        tokens = num_pairs * (assumed.turn + 2 * pair)
        measured = _reading_stage(iteration, 2 * num_pairs, tokens, _digest(fingerprint, "perplexity"))
        yield measured.model_copy(update={"all_logits": True})
    if needs(recipe.filters, "embeddings"):
        yield _reading_stage(iteration, num_pairs, num_pairs * pair, _digest(fingerprint, "vectors"))
    if num_samples := count_samples(recipe.filters):
        yield sample_stage(iteration, num_samples, _digest(fingerprint, "samples", num_samples))
    # A judge at an endpoint computes elsewhere.
    if (rating := recipe.assessment) and not rating.is_at_endpoint:
        fingerprint = _digest(fingerprint, settings["assessment"])
        max_tokens = rating.sampling.max_tokens if rating.writes_text else 0
        calls, batch_size = num_pairs * len(rating.criteria), iteration.batch_size(rating.batch_size)
        requests = Requests(calls, assumed.rating + pair, assumed.grade, max_tokens, batch_size)
        stage = _generation_stage(iteration, "ratings", requests, fingerprint)
        files = {"file_tokens": num_pairs * pair + stage.output_tokens, "file_rows": num_pairs}
        yield stage.model_copy(update=files)


def instruction_stage(iteration: PlannedIteration, fingerprint: str) -> Stage:
    """Return the synthesis: whole batches of prompts, as many as the tasks need or the budget allows.

    The prompts of a batch are the same text, unless examples are drawn for every prompt.
    """
    _, recipe, assumed = iteration
    settings, max_tokens = recipe.synthesis, recipe.synthesis.sampling.max_tokens
    budget = prompt_budget(settings)
    batches = ceil(round(settings.tasks / assumed.tasks / settings.batch_size, 6))
    calls = float(min(budget, batches * settings.batch_size))
    if settings.topics:
        calls += settings.topics.rounds * len(load_topic_guide(settings.topics.file).kinds)
    batch_size = iteration.batch_size(settings.batch_size)
    requests = Requests(calls, assumed.prompt, assumed.reply, max_tokens, batch_size)
    stage = _generation_stage(iteration, "instructions", requests, fingerprint)
    shared = settings.examples_for == "batch"
    changes = {
        "shares_prompt": shared,
        "computed_tokens": (ceil(calls / batch_size) if shared else calls) * assumed.prompt,
        "max_row_tokens": max_tokens + (0.0 if shared else assumed.prompt),
        "max_output_tokens": float(budget * max_tokens),
        # The replies are written as they are, and once more as tasks and rejected candidates.
        "file_tokens": 2 * stage.output_tokens + iteration.num_tasks * assumed.task,
        "file_rows": 2 * calls + iteration.num_tasks,
    }
    return stage.model_copy(update=changes)


def answer_stage(iteration: PlannedIteration, fingerprint: str) -> Stage:
    """Return the answers to all tasks.

    Self-Instruct's form has three prompts per task, for its kind, its input and its output, with examples. A dialogue
    of two turns has three, too.
    """
    _, recipe, assumed = iteration
    settings, max_tokens, num_tasks = recipe.response, recipe.response.sampling.max_tokens, iteration.num_tasks
    batch_size = iteration.batch_size(settings.batch_size)
    changes: dict[str, float] = {
        "file_tokens": num_tasks * (assumed.task + assumed.answer) * (1 + assumed.kept),
        "file_rows": 2 * num_tasks,
    }
    if settings.num_instance_examples:
        prompt = settings.num_instance_examples * (assumed.task + assumed.answer + LABEL_TOKENS) + assumed.task
        output = (assumed.answer + assumed.task + 2) / 3
        requests = Requests(3 * num_tasks, prompt, output, max_tokens, batch_size)
        changes["max_output_tokens"] = num_tasks * (2.0 * max_tokens + 8)
    elif settings.turns == 2:
        # The answer, the follow-up after it, and the answer to that; each prompt holds the texts before it.
        prompt = assumed.turn + assumed.task + (2 * assumed.answer + assumed.task) / 3
        output = (2 * assumed.answer + assumed.task) / 3
        requests = Requests(3 * num_tasks, prompt, output, max_tokens, batch_size)
        # The pairs are written once more, as turns.
        changes = {name: 4 * value for name, value in changes.items()}
        changes["max_row_tokens"] = assumed.turn + assumed.task + 3.0 * max_tokens
    else:
        requests = Requests(num_tasks, assumed.turn + assumed.task, assumed.answer, max_tokens, batch_size)
    return _generation_stage(iteration, "answers", requests, fingerprint).model_copy(update=changes)


def sample_stage(iteration: PlannedIteration, num_samples: int, fingerprint: str) -> Stage:
    """Return the further answers to all tasks that a filter compares."""
    _, recipe, assumed = iteration
    settings, calls = recipe.response, num_samples * iteration.num_pairs
    batch_size = iteration.batch_size(settings.batch_size)
    prompt = assumed.turn + iteration.pair_tokens - assumed.answer
    requests = Requests(calls, prompt, assumed.answer, settings.sampling.max_tokens, batch_size)
    stage = _generation_stage(iteration, "measures for filters", requests, fingerprint)
    return stage.model_copy(update={"file_tokens": calls * (assumed.task + assumed.answer), "file_rows": calls})


def training_stage(iteration: PlannedIteration, num_rows: float, most_rows: float, fingerprint: str) -> Stage:
    """Return the training on the pairs, limited as the recipe says, with the evaluations on held-out rows.

    `num_rows` are expected, `most_rows` come if the filters keep every pair: no batch has more rows than these in all
    epochs, and no row is longer than a long task (as much longer than the mean as answers are) with the longest answer,
    or in a dialogue with the longest turns.
    """
    number, recipe, assumed = iteration
    settings = recipe.training
    num_rows, most_rows = (
        min(rows, settings.max_rows or rows, settings.num_rows or rows) for rows in (num_rows, most_rows)
    )
    held_out = max(1, round(num_rows * settings.held_out)) if settings.held_out else 0
    train_rows = max(num_rows - held_out, 1)
    steps = settings.max_steps or ceil(train_rows * settings.epochs / settings.batch_size)
    rows_seen = steps * settings.batch_size if settings.max_steps else train_rows * settings.epochs
    length = min(settings.cutoff, assumed.turn + iteration.pair_tokens + 1)
    most_seen = steps * settings.batch_size if settings.max_steps else ceil(most_rows * settings.epochs)
    # The model writes every text of a dialogue but the first task.
    most_written = (2 * recipe.response.turns - 1) * recipe.response.sampling.max_tokens
    longest = assumed.turn + assumed.longest * assumed.task + most_written + 1
    rows_at_once = 1 if settings.weigh == "rows" else recipe.machine.rows_per_process or settings.batch_size
    rows_evaluated = ceil(steps / settings.eval_every) * held_out
    return Stage(
        iteration=number,
        name="training",
        calls=rows_seen,
        prompt_tokens=(rows_seen + rows_evaluated) * length,
        computed_tokens=rows_evaluated * length,
        output_tokens=0,
        max_output_tokens=0,
        batch_size=max(1, min(rows_at_once, most_seen)),
        max_row_tokens=min(settings.cutoff, longest),
        trained_tokens=rows_seen * length,
        all_logits=True,
        fingerprint=fingerprint,
    )


def evaluation_stages(iteration: PlannedIteration, model: str) -> Iterator[Stage]:
    """Yield the model's answers to each benchmark whose number of items is known, and to a stopping rule's."""
    number, recipe, assumed = iteration
    sizes = {settings.model_dump_json(): planned_answers(settings) for settings in reported_benchmarks(recipe)}
    if recipe.stop_rule:
        part, settings = validation_part(recipe.stop_rule), stop_settings(recipe)
        sizes["validation"] = planned_answers(settings) if half_name(settings) else part.planned
    for name, size in sizes.items():
        if size is None:
            continue
        batch_size, prompt = iteration.batch_size(size.batch_size), assumed.turn + assumed.task
        requests = Requests(size.num_answers, prompt, assumed.answer, size.max_tokens, batch_size)
        stage = _generation_stage(iteration, "evaluation", requests, _digest(model, number, name))
        yield stage.model_copy(update={"file_tokens": stage.output_tokens, "file_rows": float(size.num_answers)})


def planned_answers(settings: BenchmarkSettings) -> PlannedAnswers | None:
    """Return the size of a benchmark, or of the half or sample of it that is reported; None if it is not known."""
    planned = load_benchmark(settings.name).planned
    if planned and half_name(settings):
        planned = halved(planned)
    if planned and settings.num_items:
        planned = planned._replace(num_answers=min(planned.num_answers, settings.num_items))
    if planned and settings.max_tokens:
        planned = planned._replace(max_tokens=settings.max_tokens)
    return planned


def uncounted_benchmarks(recipe: Recipe) -> list[str]:
    """Return the names of the recipe's benchmarks that a plan can't count, because their size is not known."""
    return [settings.name for settings in recipe.evaluation if load_benchmark(settings.name).planned is None]


def _reading_stage(iteration: PlannedIteration, calls: float, tokens: float, fingerprint: str) -> Stage:
    """Return a stage that reads texts for the filters and generates nothing."""
    return Stage(
        iteration=iteration.number,
        name="measures for filters",
        calls=calls,
        prompt_tokens=tokens,
        computed_tokens=tokens,
        output_tokens=0.0,
        max_output_tokens=0.0,
        batch_size=MEASURE_BATCH,
        max_row_tokens=tokens / calls,
        fingerprint=fingerprint,
    )


def _generation_stage(iteration: PlannedIteration, name: str, requests: Requests, fingerprint: str) -> Stage:
    """Return a stage that generates an output for each prompt."""
    calls, max_tokens = float(requests.calls), requests.max_tokens
    output = min(requests.output, max_tokens)
    prompt_tokens = calls * requests.prompt
    return Stage(
        iteration=iteration.number,
        name=name,
        calls=calls,
        prompt_tokens=prompt_tokens,
        computed_tokens=prompt_tokens,
        output_tokens=calls * output,
        max_output_tokens=calls * max_tokens,
        batch_size=requests.batch_size,
        decoding_steps=min(max_tokens, output * iteration.assumed.longest),
        max_row_tokens=requests.prompt + max_tokens,
        fingerprint=fingerprint,
    )


def _digest(*parts: Any) -> str:
    return sha256(json.dumps(parts).encode()).hexdigest()
