"""The pictures and tables of docs/figures.md, from the run folders that the page's commands make.

    python -m benchmarks.paper_figures runs/paper

It reads run folders alone and takes seconds: no model is loaded. Tables are written between the markers of the page.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from benchmarks.common import run_script
from isheep.report.comparison import find_run_dirs, load_runs
from isheep.report.figure_files import figure_svg
from isheep.report.run_data import RunData
from isheep.report.score_tables import IFEVAL_SCORES
from isheep.report.settings import group_settings
from isheep.report.table_formats import PaperTable, to_markdown
from isheep.report.tables import quadrant_table, score_table

PAGE = Path(__file__).parents[1] / "docs" / "figures.md"
# The module of each picture, and the folder of its runs.
FIGURES = {
    "thresholds": "thresholds",
    "data_sizes": "data-sizes",
    "passing_shares": "lamb",
    "projection": "lamb",
    "rating_plane": "lamb",
}
# The folder of the runs, the title, what scores are compared with, and the scores (none: all) of each table.
TABLES: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "table-1": ("lamb", "Iterations on one base model, as in Table 1", "base", ()),
    "table-2": ("table2", "Iterative settings, as in Table 2", "base", ("right", *IFEVAL_SCORES)),
    "table-3": ("table3", "Filters and rating prompts, as in Table 3", "base", IFEVAL_SCORES),
    "table-4": ("table4", "Levels of self-assessment, as in Table 4", "base", IFEVAL_SCORES),
    "table-5": ("lamb", "Iterations against the first one, as in Table 5", "iteration-1", IFEVAL_SCORES),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with the runs lamb, thresholds, data-sizes, table2, ...")
    parser.add_argument("--page", type=Path, default=PAGE, help="page whose tables are replaced (default: %(default)s)")
    args = parser.parse_args(arguments)
    images = args.page.parent / "images"
    images.mkdir(exist_ok=True)
    for name, folder in FIGURES.items():
        if not is_there(args.folder / folder):
            continue
        figure = import_module(f"isheep.report.figures.{name}").draw(read_runs(args.folder / folder))
        if figure is None:
            raise SystemExit(f"{args.folder / folder}: these runs give no figure {name}")
        path = images / f"lamb-{figure.name}.svg"
        path.write_text(figure_svg(figure, "light", "white"), encoding="utf-8")
        print(path)
    text = args.page.read_text(encoding="utf-8")
    for table in paper_tables(args.folder):
        text = replace_table(text, table)
    args.page.write_text(text, encoding="utf-8")
    print(args.page)


def read_runs(folder: Path) -> list[RunData]:
    return load_runs(find_run_dirs([folder]))


def paper_tables(folder: Path) -> Iterator[PaperTable]:
    """Yield those of Tables 1 to 6 whose runs are there, in the paper's shape."""
    for name, (run_folder, title, against, scores) in TABLES.items():
        if is_there(folder / run_folder):
            table = score_table(group_settings(read_runs(folder / run_folder)), against, scores, title)
            yield replace(table, name=name)
    if is_there(folder / "lamb") and (plane := quadrant_table(read_runs(folder / "lamb")[0])):
        yield replace(plane, name="table-6")


def is_there(folder: Path) -> bool:
    """Return whether a folder exists, and say so if it does not."""
    if not folder.is_dir():
        print(f"{folder} is not there: what is made from it stays as it is")
    return folder.is_dir()


def replace_table(text: str, table: PaperTable) -> str:
    """Return a page with a table in place of what stands between its markers."""
    begin, end = f"<!-- {table.name} -->\n", f"<!-- end of {table.name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"the page has no marker {begin.strip()}")
    return pattern.sub(lambda _: f"{begin}{to_markdown(table)}{end}", text)


if __name__ == "__main__":
    run_script(main)
