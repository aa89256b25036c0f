"""isheep status: show the progress, row counts and scores of a run."""

from isheep.cli.options import RunDir
from isheep.cli.output import print_parts


def status(run_dir: RunDir) -> None:
    """Show the progress, row counts and scores of a run.

    Also prints the seconds of each stage, and what is in progress. Changes nothing, and works while the run goes on.
    """
    from isheep.cli.status_tables import status_tables

    print_parts(status_tables(run_dir))
