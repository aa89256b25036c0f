"""isheep annotate: rate pairs, or compare two models, in the browser."""

from pathlib import Path
from typing import Annotated

import typer

from isheep.cli.options import AllowCode, RunDir
from isheep.cli.output import make_console
from isheep.errors import UserError


def annotate(
    run_dir: RunDir,
    iteration: Annotated[
        int | None, typer.Option(min=1, help="Rate pairs of this iteration only (default: all).")
    ] = None,
    compare: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="A B", help="Choose between the answers of these two iterations; 0 is the base."),
    ] = None,
    tasks: Annotated[
        Path | None, typer.Option(help="With --compare: file of seed tasks to answer (default: the run's).")
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Number of questions.")] = 50,
    name: Annotated[str, typer.Option(help="Name of the annotator; each has answers of their own.")] = "me",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page; 0 takes a free one.")] = 0,
    allow_code: AllowCode = False,
) -> None:
    """Rate pairs, or compare two models, in the browser.

    Serves a page on this machine. The annotator sees neither the model's ratings nor which model wrote an answer. The
    answers are in DIR/annotations; `isheep judge-calibration` uses them.
    """
    from isheep.annotation.annotate import open_session, serve

    if compare and iteration is not None or tasks and not compare:
        raise UserError("--iteration is for rating pairs, and --tasks is for --compare: leave one of them out")
    session = open_session(run_dir, name, pairs, iteration=iteration, compare=compare, tasks=tasks)
    serve(session, port, make_console())
