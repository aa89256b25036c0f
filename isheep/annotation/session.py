"""What a person is asked about a run and what they have answered: questions in a fixed order, answers kept at once."""

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from isheep.annotation import CHOICES, NOBODY, RATINGS, Choice, Rating, append, read
from isheep.backends import open_engine
from isheep.batching import derive_seed
from isheep.errors import UserError
from isheep.models.chat_template import load_chat_template
from isheep.recipe.schema import Recipe
from isheep.records import Model, Pair, Task
from isheep.rundir.folder import RunFolder, lock_run, open_run
from isheep.rundir.iterations import iteration_dir, model_of_iteration
from isheep.stages.respond import respond

CRITERIA = {"quality": "Is the answer right, clear and free of padding?", "following": "Does it do what it was asked?"}
OVERALL = "How good is the answer?"


class Question(NamedTuple):
    """A task with one answer to rate, or with two to choose between (as they are shown: left, right)."""

    task: Task
    answers: tuple[str, ...]
    sides: tuple[int, ...] = ()  # the iterations behind the two


class AnnotationSession:
    """Questions for one person. `criteria` says what is rated, and what the page says about it; none for choices.

    `of` is a digest of the tasks that choices are about. `lost` lines of the file can't be read.
    """

    def __init__(
        self, file: Path, by: str, questions: Sequence[Question], criteria: Mapping[str, str], of: str = ""
    ) -> None:
        self.file, self.by, self.questions, self.criteria, self.of = file, by, questions, criteria, of
        self._lock = threading.Lock()
        self._given: dict[str, Rating | Choice] = {}
        if criteria:
            ratings, self.lost = read(file, Rating)
            self._given |= {row.row: row for row in ratings if row.by == by}
        else:
            choices, self.lost = read(file, Choice)
            sides = {frozenset(question.sides) for question in questions}
            ours = (row for row in choices if (row.by, row.of) == (by, of) and {row.left, row.right} in sides)
            self._given |= {row.task: row for row in ours}

    def given(self, at: int) -> Rating | Choice | None:
        """What was answered to a question."""
        return self._given.get(self.questions[at].task.id)

    @property
    def done(self) -> int:
        return sum(question.task.id in self._given for question in self.questions)

    def next(self) -> int | None:
        """The first question without an answer; None where all have one."""
        return next((at for at in range(len(self.questions)) if self.given(at) is None), None)

    def answer(self, at: int, fields: Mapping[str, str]) -> None:
        """Write down an answer: a score for each criterion, or "chosen", or "skip". Raises ValueError otherwise."""
        question = self.questions[at]
        row: Rating | Choice
        if self.criteria:
            scores = None if "skip" in fields else {name: int(fields.get(name, "")) for name in self.criteria}
            row = Rating(row=question.task.id, by=self.by, scores=scores)
        else:
            left, right = question.sides
            fixed = {"task": question.task.id, "of": self.of, "by": self.by, "left": left, "right": right}
            row = Choice.model_validate({**fixed, "chosen": None if "skip" in fields else fields.get("chosen", "")})
        with self._lock:
            append(self.file, row)
            self._given[question.task.id] = row


# --- what is asked


def to_rate(path: Path, by: str, iteration: int | None, pairs: int) -> AnnotationSession:
    """Pairs of one iteration, or of all of them mixed, drawn by the run's seed; more of them hold fewer.

    Raises UserError where there are none.
    """
    recipe, run = open_run(path)
    wanted = range(1, recipe.iterations + 1) if iteration is None else [iteration]
    written = [
        pair
        for t in wanted
        if iteration_dir(run, t).has("pairs.jsonl")
        for pair in iteration_dir(run, t).read("pairs.jsonl", Pair)
    ]
    if not written:
        raise UserError(f"{path} has no pairs{_of(iteration)} yet: see isheep status {path}")
    drawn = sorted(written, key=lambda pair: derive_seed(recipe.seed, "annotation", pair.id))[:pairs]
    rated = recipe.assessment.criteria if recipe.assessment else tuple(CRITERIA)
    criteria = {name: CRITERIA.get(name, OVERALL) for name in rated}
    return AnnotationSession(run.path / RATINGS, by, [Question(pair, (pair.output,)) for pair in drawn], criteria)


def to_compare(path: Path, by: str, models: tuple[int, int], tasks: Sequence[Task], pairs: int) -> AnnotationSession:
    """Two models' answers to the same tasks, by chance left or right; answers that are the same text are ties at once.

    The answers are those of the run's own response stage, kept in annotations/answers/. Raises UserError where a model
    is not there.
    """
    recipe, run = open_run(path)
    if models[0] == models[1]:
        raise UserError(f"--compare {models[0]} {models[1]}: give two different models; 0 is the base")
    models = (min(models), max(models))
    found = [model_of_iteration(recipe, run, t) for t in models]
    drawn = sorted(tasks, key=lambda task: derive_seed(recipe.seed, "annotation", task.id))[:pairs]
    of = hashlib.sha256(json.dumps([task.model_dump() for task in drawn]).encode()).hexdigest()[:12]
    both = [answers(recipe, run, t, model, drawn, of) for t, model in zip(models, found, strict=True)]
    file, questions = run.path / CHOICES, []
    known = {(row.task, row.of, row.left, row.right) for row in read(file, Choice)[0] if row.by == NOBODY}
    for task, one, other in zip(drawn, *both, strict=True):
        if one.output != other.output:
            turned = derive_seed(recipe.seed, "annotation", *models, task.id) % 2
            texts = (one.output, other.output)
            questions.append(Question(task, texts[:: -1 if turned else 1], models[:: -1 if turned else 1]))
        elif (task.id, of, *models) not in known:
            append(file, Choice(task=task.id, of=of, by=NOBODY, left=models[0], right=models[1], chosen="tie"))
    return AnnotationSession(file, by, questions, {}, of)


def answers(recipe: Recipe, run: RunFolder, t: int, model: Model, tasks: Sequence[Task], of: str) -> Sequence[Pair]:
    """M^t's answers to tasks, made where they are not there yet."""
    name, folder = f"{of}-{t}.jsonl", run / "annotations" / "answers"
    if folder.has(name):
        return folder.read(name, Pair)
    chat = load_chat_template(recipe.chat, recipe.model)
    with lock_run(run.path), closing(open_engine(recipe, model)) as engine:
        owed = respond(engine, tasks, chat, recipe.response, t, derive_seed(recipe.seed, "annotation"))
        return folder.records(name, Pair, owed, recipe.response.size, len(tasks))


def _of(iteration: int | None) -> str:
    return "" if iteration is None else f" of iteration {iteration}"
