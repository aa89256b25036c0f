"""isheep chat: chat with a model of a run."""

from typing import Annotated

import typer

from isheep.cli.options import AllowCode, RunDir


def chat(
    run_dir: RunDir,
    iteration: Annotated[
        int | None,
        typer.Option(help="Iteration; 0 is the base (default: the newest, or the best by the recipe's stop rule)."),
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, help="Sampling temperature; 0 is greedy.")] = 0.0,
    allow_code: AllowCode = False,
) -> None:
    """Chat with a model of a run.

    On a terminal, prompts for each line. Otherwise answers each line of standard input. The lines are the turns of one
    conversation, and the line /new starts another one.
    """
    from isheep.cli.chat_session import chat_with_run

    chat_with_run(run_dir, iteration, temperature)
