"""isheep status: show the progress, row counts and scores of a run."""

from typing import Annotated

import typer

from isheep.cli.options import Json, RunDir
from isheep.cli.output import print_json, print_parts


def status(
    run_dir: RunDir,
    full: Annotated[
        bool, typer.Option("--full", help="Print all scores with their tests, diversity, and seconds by stage too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the progress, row counts and scores of a run.

    Prints the headline scores with their change from the base, and what is in progress. Changes nothing, and works
    while the run goes on.
    """
    from isheep.cli.status_tables import status_tables, status_values

    if as_json:
        return print_json(status_values(run_dir))
    print_parts(status_tables(run_dir, full))
