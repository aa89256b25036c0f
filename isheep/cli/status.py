"""isheep status: show the progress, row counts and scores of a run."""

from pathlib import Path
from typing import Annotated

import typer

from isheep.cli.options import Json
from isheep.cli.output import print_json, print_parts
from isheep.errors import UserError


def status(
    run_dir: Annotated[
        Path, typer.Argument(metavar="DIR", help="Run folder, or a folder of runs.", show_default=False)
    ],
    full: Annotated[
        bool, typer.Option("--full", help="Print all scores with their tests, diversity, and seconds by stage too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the progress and the scores of a run or a sweep.

    Prints the headline scores with their change from the base, and what is in progress. Changes nothing, and works
    while the run goes on.
    """
    from isheep.cli.status_tables import status_tables, status_values
    from isheep.cli.sweep_status import sweep_status, sweep_values
    from isheep.rundir.run import find_runs

    runs = find_runs(run_dir)
    if runs != [run_dir]:
        if full:
            raise UserError(f"--full is for a single run: give one of those in {run_dir}, such as {runs[0]}")
        return print_json(sweep_values(run_dir, runs)) if as_json else print_parts(sweep_status(run_dir, runs))
    if as_json:
        return print_json(status_values(run_dir))
    print_parts(status_tables(run_dir, full))
