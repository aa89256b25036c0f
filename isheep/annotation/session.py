"""The questions that a person is asked about a run, in a fixed order, and the answers, which are written at once."""

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from isheep.annotation import CHOICES, NOBODY, RATINGS, Choice, Rating, append_annotation, read_annotations
from isheep.backends import DEFAULT_BACKEND, Backend
from isheep.batching import derive_seed
from isheep.errors import UserError, excerpt, shell_word
from isheep.recipe.schema import Recipe
from isheep.records import DialogueTask, History, Pair, Task
from isheep.rundir.folder import RunFolder
from isheep.rundir.iterations import iteration_dir, model_of_iteration
from isheep.rundir.run import lock_run, open_run
from isheep.stages.context import StageContext
from isheep.stages.respond import answer_tasks

# Digits of a number in a request.
MAX_DIGITS = 9
CRITERIA = {"quality": "Is the answer right, clear and free of padding?", "following": "Does it do what it was asked?"}
# The question for a criterion of the user's own rating prompts.
OVERALL = "How good is the answer?"


class Question(NamedTuple):
    """A task with one answer to rate, or with two answers to choose between, in the order in which they are shown.

    `iterations` are the models behind the two answers, empty for a rating.
    """

    task: Task
    answers: tuple[str, ...]
    iterations: tuple[int, ...] = ()

    @property
    def history(self) -> History:
        """The turns of a dialogue before the task."""
        return self.task.history if isinstance(self.task, DialogueTask) else ()


class AnnotationSession:
    """The questions for one person, and this person's answers, in `file`.

    `criteria` maps each rated criterion to the question that the page shows; it is empty for choices. `of` is the
    fingerprint of the tasks of choices. `num_unreadable` counts unreadable lines of the file.
    """

    def __init__(
        self, file: Path, person: str, questions: Sequence[Question], criteria: Mapping[str, str], of: str = ""
    ) -> None:
        self.file, self.person, self.questions, self.criteria, self.of = file, person, questions, criteria, of
        self._lock = threading.Lock()
        self._answers: dict[str, Rating | Choice] = {}
        if criteria:
            ratings, self.num_unreadable = read_annotations(file, Rating)
            self._answers |= {row.row: row for row in ratings if row.by == person}
        else:
            choices, self.num_unreadable = read_annotations(file, Choice)
            models = {frozenset(question.iterations) for question in questions}
            for row in choices:
                if (row.by, row.of) == (person, of) and {row.left, row.right} in models:
                    self._answers[row.task] = row

    def answer_to(self, index: int) -> Rating | Choice | None:
        """Return the answer to a question, or None if it has none yet."""
        return self._answers.get(self.questions[index].task.id)

    @property
    def num_answered(self) -> int:
        return sum(question.task.id in self._answers for question in self.questions)

    def next_index(self) -> int | None:
        """Return the index of the first question without an answer, or None if all have one."""
        return next((index for index in range(len(self.questions)) if self.answer_to(index) is None), None)

    def answer(self, index: int, fields: Mapping[str, str]) -> None:
        """Write an answer: a score for each criterion, or "chosen", or "skip". Raises ValueError for anything else."""
        question = self.questions[index]
        row: Rating | Choice
        if self.criteria:
            scores = None if "skip" in fields else {name: _parse_score(fields.get(name, "")) for name in self.criteria}
            row = Rating(row=question.task.id, by=self.person, scores=scores)
        else:
            left, right = question.iterations
            chosen = None if "skip" in fields else fields.get("chosen", "")
            values = {"task": question.task.id, "of": self.of, "by": self.person, "left": left, "right": right}
            row = Choice.model_validate({**values, "chosen": chosen})
        with self._lock:
            append_annotation(self.file, row)
            self._answers[question.task.id] = row


def _parse_score(text: str) -> int:
    """Return a score in ASCII digits. Raises ValueError for anything else, such as 1_0, +8 or other digits."""
    score = parse_number(text)
    if score is None:
        raise ValueError(excerpt(text))
    return score


def parse_number(text: str) -> int | None:
    """Return a whole number of a few ASCII digits, or None: Python reads other forms, and refuses thousands of them."""
    is_number = text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS
    return int(text) if is_number else None


# --- rating


def rating_session(run_dir: Path, person: str, iteration: int | None, num_questions: int) -> AnnotationSession:
    """Return pairs of one iteration, or for None of all iterations, in an order drawn by the run's seed.

    A session with more questions contains the questions of a smaller one. Raises UserError if there are no pairs.
    """
    recipe, run = open_run(run_dir)
    iterations = range(1, recipe.iterations + 1) if iteration is None else [iteration]
    folders = [iteration_dir(run, index) for index in iterations]
    pairs = [pair for folder in folders if folder.has("pairs.jsonl") for pair in folder.read("pairs.jsonl", Pair)]
    if not pairs:
        of_iteration = "" if iteration is None else f" of iteration {iteration}"
        raise UserError(f"{run_dir} has no pairs{of_iteration} yet: see isheep status {shell_word(run_dir)}")
    sample = sorted(pairs, key=lambda pair: derive_seed(recipe.seed, "annotation", pair.id))[:num_questions]
    # An iteration may have criteria of its own.
    assessments = [settings for index in iterations if (settings := recipe.at(index).assessment)]
    names = dict.fromkeys(name for settings in assessments for name in settings.criteria) or CRITERIA
    criteria = {name: CRITERIA.get(name, OVERALL) for name in names}
    return AnnotationSession(run.path / RATINGS, person, [Question(pair, (pair.output,)) for pair in sample], criteria)


# --- comparison


def comparison_session(
    run_dir: Path,
    person: str,
    models: tuple[int, int],
    tasks: Sequence[Task],
    num_questions: int,
    *,
    backend: Backend = DEFAULT_BACKEND,
) -> AnnotationSession:
    """Return two models' answers to the same tasks, left or right at random.

    Answers that are the same text become a tie without a question. The answers are made by the run's response stage,
    with models that `backend` opens, and kept in annotations/answers/. Raises UserError if a model does not exist.
    """
    recipe, run = open_run(run_dir)
    if models[0] == models[1]:
        raise UserError(f"--compare {models[0]} {models[1]}: give two different models; 0 is the base")
    backend.check_code(recipe)
    earlier, later = sorted(models)
    for iteration in (earlier, later):
        model_of_iteration(recipe, run, iteration)
    sample = sorted(tasks, key=lambda task: derive_seed(recipe.seed, "annotation", task.id))[:num_questions]
    of = hashlib.sha256(json.dumps([task.model_dump() for task in sample]).encode()).hexdigest()[:12]
    answers = [answer_tasks_with(recipe, run, iteration, sample, of, backend) for iteration in (earlier, later)]
    file, questions = run.path / CHOICES, []
    ties = {row.task for row in read_annotations(file, Choice)[0] if _is_tie_of(row, of, (earlier, later))}
    for task, first, second in zip(sample, *answers, strict=True):
        if first.output != second.output:
            questions.append(_question(recipe, task, {earlier: first.output, later: second.output}))
        elif task.id not in ties:
            tie = Choice(task=task.id, of=of, by=NOBODY, left=earlier, right=later, chosen="tie")
            append_annotation(file, tie)
    return AnnotationSession(file, person, questions, {}, of)


def answer_tasks_with(
    recipe: Recipe,
    run: RunFolder,
    iteration: int,
    tasks: Sequence[Task],
    fingerprint: str,
    backend: Backend = DEFAULT_BACKEND,
) -> Sequence[Pair]:
    """Return the answers of M^iteration to tasks, from annotations/answers/ or newly made."""
    name, folder = f"{fingerprint}-{iteration}.jsonl", run / "annotations" / "answers"
    if folder.has(name):
        return folder.read(name, Pair)
    model = model_of_iteration(recipe, run, iteration)
    chat = backend.load_chat_template(*recipe.chat_arguments)
    seeded = recipe.model_copy(update={"seed": derive_seed(recipe.seed, "annotation")})
    with lock_run(run.path), closing(backend.open_engine(recipe, model)) as engine:
        context = StageContext(seeded, engine, chat, run, iteration, output_dir=folder)
        return answer_tasks(context, tasks, name)


def _question(recipe: Recipe, task: Task, outputs: Mapping[int, str]) -> Question:
    """Return the question about two models' outputs; the run's seed decides which one is on the left."""
    iterations = tuple(outputs)
    if derive_seed(recipe.seed, "annotation", *iterations, task.id) % 2:
        iterations = iterations[::-1]
    return Question(task, tuple(outputs[iteration] for iteration in iterations), iterations)


def _is_tie_of(row: Choice, of: str, models: tuple[int, int]) -> bool:
    return row.by == NOBODY and row.of == of and (row.left, row.right) == models
