"""The verb annotate: a page for a person who rates a run's pairs blind, or chooses between two iterations' answers."""

import contextlib
from pathlib import Path

from rich.console import Console

from isheep.annotation.server import AnnotationServer
from isheep.annotation.session import AnnotationSession, to_compare, to_rate
from isheep.records import Task
from isheep.rundir.folder import open_run
from isheep.seeds import SeedTask, load_seed_tasks


def annotate(
    path: Path,
    by: str,
    iteration: int | None,
    compare: tuple[int, int] | None,
    tasks: Path | None,
    pairs: int,
    port: int,
    console: Console,
) -> None:
    """Serve the page until Ctrl-C. Raises UserError where there is nothing to ask, or the port is taken."""
    if compare:
        known = load_seed_tasks(tasks) if tasks else open_run(path)[1].read("seeds.jsonl", SeedTask)
        plain = [Task.model_validate(seed.model_dump(include={"id", "instruction", "input"})) for seed in known]
        desk = to_compare(path, by, compare, plain, pairs)
    else:
        desk = to_rate(path, by, iteration, pairs)
    serve(desk, port, console)


def serve(desk: AnnotationSession, port: int, console: Console) -> None:
    with AnnotationServer(desk, port) as server:
        if desk.lost:
            console.print(
                f"{desk.file}: lines that can't be read and are left out: {desk.lost}", markup=False, soft_wrap=True
            )
        console.print(f"{desk.done} of {len(desk.questions)} answered; Ctrl-C ends, answers are kept")
        console.print(f"open {server.address}", markup=False, soft_wrap=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    console.print(f"{desk.done} of {len(desk.questions)} answered: {desk.file}", markup=False, soft_wrap=True)
