"""isheep lamb: pretrain or probe a lamb, a base model of the kind that isheep includes."""

import math
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from isheep.cli.output import print_line
from isheep.lamb.shapes import DEFAULT_SIZE, SHAPES

lamb = typer.Typer(no_args_is_help=True, help="Pretrain or probe a lamb, a tiny base model.")


@lamb.command()
def pretrain(
    out: Annotated[
        Path,
        typer.Option(
            help="Folder of the model and of state.pt, from which the same command resumes.", show_default=False
        ),
    ],
    tokens: Annotated[
        float,
        typer.Option(
            min=1, help="Number of tokens to train on in all calls together, such as 40e6.", show_default=False
        ),
    ],
    size: Annotated[str, typer.Option(help=f"{', '.join(SHAPES)}: millions of parameters.")] = DEFAULT_SIZE,
    start_from: Annotated[
        str | None,
        typer.Option(
            help="Lamb to start from, not wider and with no fewer layers: lamb or another packaged one, or a folder"
            " (default: random weights).",
            show_default=False,
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="Highest learning rate of the matrices (default: that of the state in --out, or 0.02).",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Number of processes, with one thread each, or one GPU each.")
    ] = 2,
) -> None:
    """Pretrain a lamb on pages of its micro-world."""
    from isheep.errors import UserError
    from isheep.lamb.pretrain import PretrainSettings, pretrain
    from isheep.models.checkpoint import find_checkpoint

    if not math.isfinite(tokens):
        raise UserError(f"--tokens is {tokens}: give a number such as 40e6")
    start = Path(find_checkpoint(start_from)) if start_from else None
    pretrain(out, PretrainSettings(int(tokens), size, start, workers=workers, learning_rate=learning_rate))


@lamb.command()
def probe(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="DIR", help="Checkpoint, the --out of a pretraining, or a packaged lamb, such as lamb-0.6m."
        ),
    ] = "lamb",
) -> None:
    """Measure what a lamb checkpoint can do before alignment.

    Prints its accuracy on validation tasks, and how well its ratings tell right answers from wrong ones.
    """
    from isheep.lamb.pretraining_state import STATE_FILE, export_state
    from isheep.lamb.probe import probe
    from isheep.models.checkpoint import find_checkpoint

    # The state of a pretraining that is under way is newer than the model beside it.
    if (Path(checkpoint) / STATE_FILE).is_file():
        with tempfile.TemporaryDirectory() as folder:
            by_group = probe(export_state(Path(checkpoint), Path(folder)))
    else:
        by_group = probe(Path(find_checkpoint(checkpoint)))
    for group, values in by_group.items():
        for name, value in values.items():
            print_line(f"{group:<9}{name:<36}{value:.3f}")
