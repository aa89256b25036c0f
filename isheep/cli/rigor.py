"""isheep rigor: answer the items of a methodological review from run folders."""

from pathlib import Path
from typing import Annotated

import typer

from isheep.cli.options import AllowCode, Json
from isheep.cli.output import print_json, print_line, print_parts


def rigor(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Run folders, or folders of runs such as a sweep's.", show_default=False),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Write the sheet as Markdown to this file.", show_default=False)
    ] = None,
    as_json: Json = False,
    allow_code: AllowCode = False,
) -> None:
    """Answer the items of a review of rigor from run folders.

    An item that they do not answer is "not done". Each has its figures, where to look, and what is missing the command
    that would answer it. Nothing is taken from elsewhere than the run folders, and nothing in them is changed.
    """
    from isheep.errors import UserError
    from isheep.report.rigor import sheet
    from isheep.rundir.atomic import write_text

    if out and (out.is_dir() or any(parent.is_file() for parent in out.parents)):
        raise UserError(f"--out {out} can't be written: give a file, such as rigor.md")
    evidence = sheet.load_evidence(runs)
    rows = sheet.make_sheet(evidence)
    if out:
        write_text(out, sheet.sheet_markdown(evidence, rows))
    if as_json:
        return print_json(sheet.sheet_json(evidence, rows))
    print_parts(sheet.sheet_parts(evidence, rows))
    if out:
        print_line(f"sheet    {out}")
