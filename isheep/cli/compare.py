"""isheep compare: compare two models, or two settings over random seeds."""

from pathlib import Path
from typing import Annotated

import typer

from isheep.cli.options import Json
from isheep.cli.output import print_json, print_parts


def compare(
    a: Annotated[
        Path,
        typer.Argument(
            metavar="DIR_A", help="Run folder, or a folder of runs with a random seed each.", show_default=False
        ),
    ],
    b: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR_B",
            help="The same (default: DIR_A; base against newest iteration).",
            show_default=False,
        ),
    ] = None,
    iteration: Annotated[
        list[int] | None,
        typer.Option(
            help="Iteration of both sides, or, given twice, of each; 0 is the base (default: the newest, or the best "
            "by the recipe's stop rule).",
            show_default=False,
        ),
    ] = None,
    score: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this score; may be repeated. The p values are corrected for the number of scores printed.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare two models, or two settings over random seeds.

    Two models are compared on the same items. Two folders of runs are compared over the random seeds that both have.
    """
    from isheep.evaluation.compare import compare_models, comparison_table
    from isheep.evaluation.json_views import comparison_json

    comparison = compare_models(a, b, iteration or [], score or [])
    if as_json:
        return print_json(comparison_json(comparison))
    print_parts([comparison_table(comparison)])
