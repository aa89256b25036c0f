"""What a recipe asks of its models, stage by stage, in calls and tokens; nothing here depends on a machine's speed."""

import json
from collections.abc import Callable, Iterator
from hashlib import sha256
from math import ceil
from typing import Any

from isheep.benchmarks import load_benchmark
from isheep.filters import needs
from isheep.plan.assumptions import LABELS, Assumptions
from isheep.prompts.forms import load_topic_guide
from isheep.recipe.schema import Recipe
from isheep.records import Record
from isheep.stages.synthesize import prompt_budget

Assume = Callable[[Recipe, int], Assumptions]  # of what iteration t does

WHOLE = ("model", "chat_template", "seed", "seed_tasks", "language")  # of the recipe, in everything that it makes


class Stage(Record):
    """A stage of iteration `t`, in expected numbers. A training's calls are its rows, epochs times."""

    t: int
    name: str
    calls: float
    read: float  # tokens of all prompts, or of rows
    computed: float  # of these, those that go through the model: what all prompts of a batch share goes once
    written: float
    most: float  # tokens written at most
    rows: int  # calls at once
    steps: float = 0  # tokens of the longest answer in a batch: passes of the model
    room: float = 0  # tokens of a row in the cache at most, with what it may write; the shared prompt aside
    shared: bool = False  # the prompts of a batch are one text
    every: bool = False  # logits of every token, not of the last one only
    learned: float = 0  # tokens that a training goes through forwards and backwards; the rest of `computed` forwards
    text: float = 0  # tokens in the files that it leaves, and their rows
    lines: float = 0
    made_of: str = ""  # the same only where another recipe's stage gives the same files

    @property
    def length(self) -> float:
        """Tokens of a prompt, or of a training's row."""
        return (self.learned or self.read) / self.calls


def course(recipe: Recipe, assume: Assume) -> Iterator[Stage]:
    """Every stage of a run, the base's evaluation first."""
    model = _digest(recipe.model_dump(mode="json", include={*WHOLE}))
    rows = 0.0
    yield from exams(recipe, assume(recipe.at(1), 1), 0, model)
    for t in range(1, recipe.iterations + 1):
        now = recipe.at(t)
        a = assume(now, t)
        stages = list(asked(now, a, t, model))
        kept = _tasks(now, a) * a.kept
        rows = rows + kept if now.training.data == "all" else kept
        data = _digest(stages[-1].made_of, now.model_dump(mode="json", include={"filters", "training"}), a.kept)
        yield from stages
        yield training(now, a, t, rows, data)
        model = data
        yield from exams(now, a, t, model)


def asked(now: Recipe, a: Assumptions, t: int, model: str) -> Iterator[Stage]:
    """What M^(t-1) is asked: for instructions, answers, measures for filters, ratings."""
    tasks, whole = _tasks(now, a), now.model_dump(mode="json")
    model = _digest(model, t)
    made = _digest(model, whole["synthesis"])
    if not now.synthesis.tasks_of:
        yield instructions(now, a, t, made)
    made = _digest(made, whole["response"])
    yield answers(now, a, t, tasks, made)
    pair = a.task + a.answer
    if needs(now.filters, "perplexities"):  # the answer after its prompt, then the pair as plain text
        read = tasks * (a.turn + 2 * pair)
        yield _stage(t, "measures for filters", 2 * tasks, read, 64, _digest(made, "perplexity"), every=True)
    if needs(now.filters, "embeddings"):
        yield _stage(t, "measures for filters", tasks, tasks * pair, 64, _digest(made, "vectors"))
    if rating := now.assessment:
        calls, prompt, at_once = tasks * len(rating.criteria), a.rating + pair, _at_once(now, rating.batch_size)
        made = _digest(made, whole["assessment"])
        limit = rating.sampling.max_tokens if rating.read == "generate" else 0
        found = _written(t, "ratings", calls, prompt, a.grade, limit, at_once, made, a)
        yield found.model_copy(update={"text": tasks * pair + found.written, "lines": tasks})


def instructions(now: Recipe, a: Assumptions, t: int, made: str) -> Stage:
    """Prompts in whole batches, as many as the tasks need or the budget allows. A batch's prompts are the same text."""
    settings, limit = now.synthesis, now.synthesis.sampling.max_tokens
    budget = prompt_budget(settings)
    calls = float(min(budget, ceil(round(settings.tasks / a.tasks / settings.batch_size, 6)) * settings.batch_size))
    if settings.topics:
        calls += settings.topics.rounds * len(load_topic_guide(settings.topics.file).kinds)
    at_once = _at_once(now, settings.batch_size)
    found = _written(t, "instructions", calls, a.prompt, a.reply, limit, at_once, made, a)
    tasks = _tasks(now, a)
    once = {"shared": True, "computed": ceil(calls / at_once) * a.prompt, "room": float(limit)}
    text = {"text": 2 * found.written + tasks * a.task, "lines": 2 * calls + tasks}  # replies; tasks and what is none
    return found.model_copy(update={**once, **text, "most": float(budget * limit)})


def answers(now: Recipe, a: Assumptions, t: int, tasks: float, made: str) -> Stage:
    """An answer to each task; in Self-Instruct's own way its kind, its input and its output, after examples."""
    settings, limit = now.response, now.response.sampling.max_tokens
    at_once = _at_once(now, settings.batch_size)
    text = {"text": tasks * (a.task + a.answer) * (1 + a.kept), "lines": 2 * tasks}
    if not settings.shown:
        found = _written(t, "answers", tasks, a.turn + a.task, a.answer, limit, at_once, made, a)
        return found.model_copy(update=text)
    prompt = settings.shown * (a.task + a.answer + LABELS) + a.task
    found = _written(t, "answers", 3 * tasks, prompt, (a.answer + a.task + 2) / 3, limit, at_once, made, a)
    return found.model_copy(update={**text, "most": tasks * (2.0 * limit + 8)})


def training(now: Recipe, a: Assumptions, t: int, rows: float, made: str) -> Stage:
    """SFT on `rows` pairs, fewer where the recipe says so, and the loss of those held out now and then."""
    settings = now.training
    rows = min(rows, settings.max_rows or rows, settings.num_rows or rows)
    aside = max(1, round(rows * settings.held_out)) if settings.held_out else 0
    steps = settings.max_steps or ceil(max(rows - aside, 1) * settings.epochs / settings.batch_size)
    seen = steps * settings.batch_size if settings.max_steps else max(rows - aside, 1) * settings.epochs
    length = min(settings.cutoff, a.turn + a.task + a.answer + 1)
    looks = ceil(steps / settings.eval_every) * aside
    return Stage(
        t=t, name="training", calls=seen, read=(seen + looks) * length, computed=looks * length, written=0, most=0,
        rows=now.machine.rows_per_process or settings.batch_size, room=settings.cutoff, learned=seen * length,
        every=True, made_of=made,
    )  # fmt: skip


def exams(now: Recipe, a: Assumptions, t: int, model: str) -> Iterator[Stage]:
    """Answers of M^t to the benchmarks whose number of items is known, and to what a stop rule judges by."""
    planned = {settings.model_dump_json(): load_benchmark(settings.name).planned for settings in now.evaluation}
    if now.stop:
        part = load_benchmark(now.stop.benchmark).validation
        planned["validation"] = part.planned if part else None
    for name, size in planned.items():
        if size is None:
            continue
        at_once, made = _at_once(now, size.batch_size), _digest(model, t, name)
        found = _written(
            t, "evaluation", size.num_answers, a.turn + a.task, a.answer, size.max_tokens, at_once, made, a
        )
        yield found.model_copy(update={"text": found.written, "lines": float(size.num_answers)})


def unknown_exams(recipe: Recipe) -> list[str]:
    """The recipe's benchmarks that a plan can't count."""
    return [settings.name for settings in recipe.evaluation if load_benchmark(settings.name).planned is None]


def _tasks(now: Recipe, a: Assumptions) -> float:
    settings = now.synthesis
    return min(float(settings.tasks), prompt_budget(settings) * a.tasks)


def _at_once(now: Recipe, size: int) -> int:
    return min(size, now.machine.engine_batch_size)


def _stage(t: int, name: str, calls: float, read: float, rows: int, made: str, **more: Any) -> Stage:
    shown = {"room": read / calls, "written": 0.0, "most": 0.0, **more}
    return Stage(t=t, name=name, calls=calls, read=read, rows=rows, made_of=made, **{"computed": read, **shown})


def _written(
    t: int, name: str, calls: float, prompt: float, answer: float, limit: int, at_once: int, made: str, a: Assumptions
) -> Stage:
    answer, calls = min(answer, limit), float(calls)
    more = {"written": calls * answer, "most": calls * limit, "steps": min(limit, answer * a.longest)}
    return _stage(t, name, calls, calls * prompt, at_once, made, room=prompt + limit, **more)


def _digest(*parts: Any) -> str:
    return sha256(json.dumps(parts).encode()).hexdigest()
