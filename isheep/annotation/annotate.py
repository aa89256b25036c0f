"""Run `isheep annotate`: serve a page on which a person rates pairs blind, or chooses between two models' answers."""

import contextlib
from pathlib import Path

from rich.console import Console

from isheep.annotation.server import AnnotationServer
from isheep.annotation.session import AnnotationSession, comparison_session, rating_session
from isheep.backends import DEFAULT_BACKEND, Backend
from isheep.errors import UserError
from isheep.records import Task
from isheep.rundir.run import open_run
from isheep.seeds import SeedTask, load_seed_file


def open_session(
    run_dir: Path,
    person: str,
    num_questions: int,
    *,
    iteration: int | None = None,
    compare: tuple[int, int] | None = None,
    tasks: Path | None = None,
    backend: Backend = DEFAULT_BACKEND,
) -> AnnotationSession:
    """Return the questions for a person, and the answers that this person has already given.

    With `compare` they show two models' answers to `tasks` (a file of seed tasks; None: the run's), otherwise single
    pairs of `iteration` (None: of all iterations). Raises UserError if there is nothing to ask.
    """
    if not compare:
        return rating_session(run_dir, person, iteration, num_questions)
    recipe, run = open_run(run_dir)
    own_tasks = load_seed_file(tasks, language=recipe.language, name="tasks").tasks if tasks else None
    seed_tasks = own_tasks or run.read("seeds.jsonl", SeedTask)
    # A choice is stored by the id of its task.
    if len({seed.id for seed in seed_tasks}) < len(seed_tasks):
        source = tasks or run.path / "seeds.jsonl"
        raise UserError(f"{source}: several tasks have the same id, so their answers could not be told apart")
    plain = [Task.model_validate(seed.model_dump(include={"id", "instruction", "input"})) for seed in seed_tasks]
    return comparison_session(run_dir, person, compare, plain, num_questions, backend=backend)


def serve(session: AnnotationSession, port: int, console: Console) -> None:
    """Serve the page until Ctrl-C. Raises UserError if the port is in use."""

    def print_line(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    total = len(session.questions)
    with AnnotationServer(session, port) as server:
        if session.num_unreadable:
            print_line(f"{session.file}: {session.num_unreadable} unreadable lines are ignored")
        print_line(f"{session.num_answered} of {total} answered; Ctrl-C stops the server, answers are saved at once")
        print_line(f"open {server.address}")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    print_line(f"{session.num_answered} of {total} answered: {session.file}")
