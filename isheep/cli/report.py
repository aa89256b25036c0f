"""isheep report: write the report of a run."""

from pathlib import Path
from typing import Annotated

import typer

from isheep.cli.options import AllowCode, RunDir
from isheep.cli.output import print_line


def report(
    run_dir: RunDir,
    out: Annotated[
        Path | None, typer.Option(help="File to write (default: report.html in DIR).", show_default=False)
    ] = None,
    allow_code: AllowCode = False,
) -> None:
    """Write the report of a run: results, figures, examples.

    The page needs no server and no network: open the file in a browser. A run writes it after every stage by itself.
    """
    from isheep.errors import UserError
    from isheep.report import write_report

    if out and out.is_dir():
        raise UserError(f"{out} is a folder: give a file, such as {out / 'report.html'}")
    print_line(f"report   {write_report(run_dir, out)}")
