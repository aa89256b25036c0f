"""isheep contamination: find generated rows that overlap with benchmarks."""

from typing import Annotated

import typer

from isheep.cli.options import AllowCode, Benchmarks, Data, RunDir
from isheep.cli.output import print_parts


def contamination(
    run_dir: RunDir,
    benchmarks: Benchmarks = None,
    data: Data = None,
    ngram: Annotated[
        int | None,
        typer.Option(min=0, help="Number of common consecutive words; 0 turns it off (default: the recipe's, or 13)."),
    ] = None,
    rouge: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="ROUGE-L threshold; 0 turns it off (default: the recipe's, or 0.7)."),
    ] = None,
    rows: Annotated[bool, typer.Option("--rows", help="Print the overlapping rows with the prompts.")] = False,
    allow_code: AllowCode = False,
) -> None:
    """Find generated rows that overlap with benchmarks.

    Also prints the scores on the overlapping items and on the others.
    """
    from isheep.diagnostics.contamination import contamination_report

    print_parts(contamination_report(run_dir, benchmarks or [], data, ngram, rouge, rows))
