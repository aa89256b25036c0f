"""The report of a run: report.html, one self-contained file that opens offline; figures and tables of several runs."""

from pathlib import Path

REPORT_FILE = "report.html"


def write_report(run_dir: Path, out: Path | None = None, is_under_way: bool | None = None) -> Path:
    """Write the page of a run, whole or not at all, and return its path: report.html in its folder, or `out`.

    `is_under_way` of None asks whether a process works on the run. Raises UserError if `run_dir` is no run folder.
    """
    from isheep.report.page import write_page
    from isheep.report.run_data import load_run_data

    return write_page(load_run_data(run_dir, is_under_way), out)
