"""isheep report: the page of a run, and tables and figures of runs and sweeps as files."""

from pathlib import Path
from typing import Annotated

import typer

from isheep.cli.options import AllowCode
from isheep.cli.output import print_line

PAGE_SUFFIX = ".html"
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        help="Format of figures: svg, pdf or png; may be repeated (default: svg and pdf).",
        show_default=False,
    ),
]
Reference = Annotated[
    Path | None,
    typer.Option(
        help="File of tasks with answers for Figure 4, such as Alpaca's JSON (default: the run's seed tasks).",
        show_default=False,
    ),
]


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="DIR...", help="Run folders, or the folder of a sweep.", show_default=False),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for page, tables and figures (default: report/ in the sweep's folder, or in the current one); "
            "for one run also the page's file, NAME.html (default: report.html in DIR).",
            show_default=False,
        ),
    ] = None,
    format_names: Formats = None,
    against: Annotated[
        str, typer.Option(help="Scores are tested against: base, a setting's name, or iteration-N of the same setting.")
    ] = "base",
    score: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this score in the table; may be repeated. The p values are corrected for the scores printed.",
            show_default=False,
        ),
    ] = None,
    reference: Reference = None,
    embed: Annotated[
        bool, typer.Option("--embed", help="Embed the texts of Figure 4 with the base model instead of by their words.")
    ] = False,
    allow_code: AllowCode = False,
) -> None:
    """Write the report of a run: results, figures, examples. Compare runs.

    The page needs no server and no network: open the file in a browser. A run writes it after every stage by itself.
    With several runs, with --out FOLDER, --format, --score or --against, the paper's tables and figures are written as
    files. Runs that differ in their random seed alone are one setting, whose scores are means over the seeds.
    """
    from isheep.errors import UserError
    from isheep.report.comparison import check_formats, find_run_dirs, load_runs, write_comparison

    formats = check_formats(format_names or ["svg", "pdf"])
    run_dirs = find_run_dirs(runs)
    is_one_run = len(runs) == 1 and run_dirs == runs
    wants_files = bool(not is_one_run or format_names or score or against != "base")
    if out and out.suffix == PAGE_SUFFIX and wants_files:
        raise UserError(f"--out {out} is the page of one run: for several runs, tables and figures give a folder")
    file = next((path for path in (out, *out.parents) if path.is_file()), None) if out else None
    if file and (file != out or file.suffix != PAGE_SUFFIX):
        raise UserError(f"--out {out}: {file} is a file; give a folder, or NAME.html for the page of one run")
    loaded = load_runs(run_dirs, reference, embed)
    if not wants_files and (out is None or out.suffix == PAGE_SUFFIX):
        from isheep.report.page import write_page

        return print_line(f"report   {write_page(loaded[0], out)}")
    is_sweep = len(runs) == 1 and not is_one_run
    default = runs[0] / "report" if is_sweep else Path("report")
    for path in write_comparison(loaded, out or default, formats, against, score or []):
        print_line(str(path))
