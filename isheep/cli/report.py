"""isheep report: the page of a run, or tables and figures that compare runs and sweeps."""

from pathlib import Path
from typing import Annotated

import typer

from isheep.cli.output import print_line


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run folders, or the folder of a sweep.", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for tables and figures (default: report/ in the sweep's folder, or here).", show_default=False
        ),
    ] = None,
    format_names: Annotated[
        list[str] | None,
        typer.Option("--format", help="Format of the figures: svg, pdf, png; may be repeated (default: svg, pdf)."),
    ] = None,
    against: Annotated[
        str,
        typer.Option(help="Scores are tested against: base, a setting's name, or iteration-N of the same setting."),
    ] = "base",
    score: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this score in the table; may be repeated. The p values are corrected for the scores printed.",
            show_default=False,
        ),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="File of tasks with answers for Figure 4, such as Alpaca's JSON (default: the run's seed tasks).",
            show_default=False,
        ),
    ] = None,
    embed: Annotated[
        bool, typer.Option("--embed", help="Embed the texts of Figure 4 with the base model instead of by their words.")
    ] = False,
) -> None:
    """Compare runs and sweeps: the paper's tables and figures as a page and as files.

    Runs that differ in their random seed alone are one setting: its scores are means over the seeds.
    """
    from isheep.report.comparison import check_formats, find_run_dirs, load_runs, write_comparison

    formats = check_formats(format_names or ["svg", "pdf"])
    run_dirs = find_run_dirs(runs)
    is_sweep = len(runs) == 1 and run_dirs != runs
    folder = out or (runs[0] / "report" if is_sweep else Path("report"))
    for path in write_comparison(load_runs(run_dirs, reference, embed), folder, formats, against, score or []):
        print_line(str(path))
