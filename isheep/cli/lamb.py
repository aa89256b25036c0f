"""isheep lamb: pretrain or probe lamb, the built-in base model."""

from pathlib import Path
from typing import Annotated

import typer

from isheep.cli.output import print_line

lamb = typer.Typer(no_args_is_help=True, help="Pretrain or probe lamb, the built-in base model.")


@lamb.command()
def pretrain(
    out: Annotated[
        Path, typer.Option(help="Output directory; resumes from an existing checkpoint.", show_default=False)
    ],
    tokens: Annotated[
        float, typer.Option(min=1, help="Number of tokens to train on, such as 40e6.", show_default=False)
    ],
    size: Annotated[str, typer.Option(help="1.3m, 2.8m or 4.9m: millions of parameters.")] = "1.3m",
    start_from: Annotated[
        str | None,
        typer.Option(
            help="Lamb to start from: lamb, or the folder of one that is not larger (default: random weights).",
            show_default=False,
        ),
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="Highest learning rate of the matrices.")] = 0.02,
    workers: Annotated[int, typer.Option(min=1, help="Number of processes, with one thread each.")] = 2,
) -> None:
    """Pretrain a lamb on pages of its micro-world, from scratch or from another lamb."""
    from isheep.lamb.pretrain import PretrainSettings, pretrain
    from isheep.models.checkpoint import find_checkpoint

    start = Path(find_checkpoint(start_from)) if start_from else None
    pretrain(out, PretrainSettings(int(tokens), size, start, workers=workers, learning_rate=learning_rate))


@lamb.command()
def probe(
    checkpoint: Annotated[
        str, typer.Argument(metavar="DIR", help="Checkpoint, or lamb for the built-in one.")
    ] = "lamb",
) -> None:
    """Measure what a lamb checkpoint can do before alignment.

    Prints its accuracy on validation tasks, and how well its ratings tell right answers from wrong ones.
    """
    from isheep.lamb.probe import probe
    from isheep.models.checkpoint import find_checkpoint

    by_group = probe(Path(find_checkpoint(checkpoint)))
    for group, values in by_group.items():
        for name, value in values.items():
            print_line(f"{group:<9}{name:<36}{value:.3f}")
