"""isheep scores: print the scores of an existing judgment file."""

from pathlib import Path
from typing import Annotated

import typer

from isheep.cli.options import Json
from isheep.cli.output import print_json, print_parts


def scores(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="File of judgments: model_judgment of MT-Bench, or annotations.json of AlpacaEval.",
            show_default=False,
        ),
    ],
    data: Annotated[Path | None, typer.Option(help="MT-Bench's files, for its categories; or AlpacaEval's.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="Only this model of the file; may be repeated.")] = None,
    as_json: Json = False,
) -> None:
    """Print the scores of an existing judgment file.

    Computes them as FastChat or AlpacaEval do, and adds the intervals and counts that these leave out.
    """
    from isheep.evaluation import judgment_files

    if as_json:
        return print_json(judgment_files.scores_json(file, data, model or []))
    print_parts(judgment_files.score_tables(file, data, model or []))
