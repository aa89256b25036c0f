"""The pictures and tables of docs/figures.md, from the run folders of the laboratory.

    python -m benchmarks.paper_figures runs/reproduce

It reads run folders alone and takes seconds: no model is loaded. Tables are written between the markers of the page.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from benchmarks.common import run_script
from isheep.report.comparison import find_run_dirs, load_runs
from isheep.report.figure_files import figure_svg
from isheep.report.run_data import RunData
from isheep.report.settings import group_settings
from isheep.report.table_formats import PaperTable, to_markdown
from isheep.report.tables import quadrant_table, score_table

PAGE = Path(__file__).parents[1] / "docs" / "figures.md"
ONE_RUN = "plain/seed-42"
"""The run of the figures and of the table that show one run."""
# The module of each picture, and the settings of the laboratory whose runs it shows.
FIGURES = {
    "thresholds": ("threshold-5", "threshold-6", "threshold-7", "plain", "threshold-9"),
    "data_sizes": ("tasks-150", "plain", "tasks-600"),
    "passing_shares": ("plain",),
    "projection": (ONE_RUN,),
    "rating_plane": (ONE_RUN,),
}
LAMB_SCORES = ("lamb right", "lamb content", "lamb prompt strict", "lamb instruction strict")
SETTINGS_BY_SIZE = ("five-iterations-0.4m", "five-iterations-0.6m", "five-iterations", "five-iterations-4.9m")


class TableSource(NamedTuple):
    """What a table is made from: settings of the laboratory, and what their scores are compared with."""

    title: str
    settings: tuple[str, ...]
    against: str = "base"


TABLES = {
    "table-1": TableSource("Iterations on base models of four sizes, as in Table 1", SETTINGS_BY_SIZE),
    "table-2": TableSource(
        "Iterative settings, as in Table 2", ("direct-2", "direct-3", "one-last", "total-base", "plain")
    ),
    "table-3": TableSource(
        "Filters and rating prompts, as in Table 3", ("density", "perplexity", "prompt-simple", "plain", "prompt-icl")
    ),
    "table-4": TableSource(
        "Levels of self-assessment, as in Table 4", ("unassessed", "quality", "following", "prompt-simple")
    ),
    "table-5": TableSource("Iterations against the first one, as in Table 5", ("five-iterations-0.6m",), "iteration-1"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of isheep reproduce")
    parser.add_argument("--page", type=Path, default=PAGE, help="page whose tables are replaced (default: %(default)s)")
    args = parser.parse_args(arguments)
    images = args.page.parent / "images"
    images.mkdir(exist_ok=True)
    for name, settings in FIGURES.items():
        figure = import_module(f"isheep.report.figures.{name}").draw(read_runs(args.folder, settings))
        if figure is None:
            raise SystemExit(f"{args.folder}: the runs of {', '.join(settings)} give no figure {name}")
        path = images / f"lamb-{figure.name}.svg"
        path.write_text(figure_svg(figure, "light", "white"), encoding="utf-8")
        print(path)
    text = args.page.read_text(encoding="utf-8")
    for table in paper_tables(args.folder):
        text = replace_table(text, table)
    args.page.write_text(text, encoding="utf-8")
    print(args.page)


def read_runs(folder: Path, settings: Sequence[str]) -> list[RunData]:
    return load_runs(find_run_dirs([folder / setting for setting in settings]))


def paper_tables(folder: Path) -> Iterator[PaperTable]:
    """Yield Tables 1 to 6 in the paper's shape."""
    for name, source in TABLES.items():
        settings = group_settings(read_runs(folder, source.settings))
        yield replace(score_table(settings, source.against, LAMB_SCORES, source.title), name=name)
    plane = quadrant_table(read_runs(folder, [ONE_RUN])[0])
    if plane is None:
        raise SystemExit(f"{folder}: {ONE_RUN} has no ratings by two criteria, so there is no Table 6")
    yield replace(plane, name="table-6")


def replace_table(text: str, table: PaperTable) -> str:
    """Return a page with a table in place of what stands between its markers."""
    begin, end = f"<!-- {table.name} -->\n", f"<!-- end of {table.name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"the page has no marker {begin.strip()}")
    return pattern.sub(lambda _: f"{begin}{to_markdown(table)}{end}", text)


if __name__ == "__main__":
    run_script(main)
