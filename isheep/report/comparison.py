"""Compare runs and sweeps: a page with the paper's tables and figures, and each of them as files for a paper.

The page has no script and loads nothing: its figures are images in the colours of the light and the dark page.
"""

import base64
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from isheep.errors import UserError, unknown_name
from isheep.recipe.loading import differences
from isheep.report import REPORT_FILE
from isheep.report.figure_files import FORMATS, Format, Scheme, figure_svg, write_figure
from isheep.report.figures import Figure, all_figures
from isheep.report.reference import load_reference
from isheep.report.run_data import RunData, load_run_data
from isheep.report.score_tables import BASE
from isheep.report.settings import Setting, group_settings
from isheep.report.table_formats import PaperTable, to_csv, to_html, to_latex, to_markdown
from isheep.report.tables import quadrant_table, score_table
from isheep.rundir.atomic import write_text
from isheep.rundir.run import find_runs

# Keys of a recipe whose change does not make another setting.
HIDDEN_KEYS = ("machine.", "seed:", "date:")
TABLE_FORMATS = {"html": to_html, "md": to_markdown, "tex": to_latex}


def find_run_dirs(paths: Sequence[Path]) -> list[Path]:
    """Return the run folders that some paths stand for, each once: run folders, and folders of runs such as a sweep's.

    Raises UserError for another path.
    """
    run_dirs = [run_dir for path in paths for run_dir in find_runs(path)]
    return list({run_dir.resolve(): run_dir for run_dir in run_dirs}.values())


def check_formats(names: Sequence[str]) -> list[Format]:
    """Return the formats of figures, each once. Raises UserError for an unknown one."""
    for name in names:
        if name not in FORMATS:
            raise UserError(unknown_name("format", name, FORMATS))
    return [name for name in FORMATS if name in names]


def load_runs(run_dirs: Sequence[Path], reference: Path | None = None, by_model: bool = False) -> list[RunData]:
    """Open run folders for a report, with the reference of the user's choice for Figure 4."""
    runs = [load_run_data(path) for path in run_dirs]
    if reference is None and not by_model:
        return runs
    return [replace(run, reference=load_reference(reference, run.path / "seeds.jsonl", by_model)) for run in runs]


def write_comparison(
    runs: Sequence[RunData],
    out: Path,
    formats: Sequence[Format] = ("svg", "pdf"),
    against: str = BASE,
    score_names: Sequence[str] = (),
) -> list[Path]:
    """Write the page and the files of one run or several into a folder; return the paths, the page first.

    `against` is what scores are compared with, and `score_names` limits them, as in ScoreTable.
    """
    settings = group_settings(runs)
    # A run may have no benchmark, and figures of its data all the same.
    tables = [score_table(settings, against, score_names)] if any(run.benchmarks for run in runs) else []
    if len(runs) == 1 and (table := quadrant_table(runs[0])):
        tables.append(table)
    figures = list(all_figures(runs))
    if not tables and not figures:
        names = ", ".join(setting.name for setting in settings)
        raise UserError(f"{names}: no model is scored and no pair is rated, so there is nothing to show yet")
    page = out / REPORT_FILE
    write_text(page, render_comparison(settings, tables, figures))
    paths = [page]
    for table in tables:
        paths += _write_table(table, out / "tables")
    for figure in figures:
        paths += write_figure(figure, out / "figures", formats)
    return paths


def _write_table(table: PaperTable, folder: Path) -> list[Path]:
    paths = []
    for suffix, render in TABLE_FORMATS.items():
        paths.append(folder / f"{table.name}.{suffix}")
        write_text(paths[-1], render(table))
    paths.append(folder / f"{table.name}.csv")
    write_text(paths[-1], to_csv(table.numbers))
    return paths


def render_comparison(settings: Sequence[Setting], tables: Sequence[PaperTable], figures: Sequence[Figure]) -> str:
    """Return the page as HTML. Everything in it that a recipe or a model wrote is escaped."""
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    import isheep

    folder = Path(__file__).parent
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True)
    names = [setting.name for setting in settings]
    num_runs = sum(len(setting.runs) for setting in settings)
    summary = f"{_count(len(settings), 'setting')}, {_count(num_runs, 'run')}."
    return environment.get_template("comparison.html").render(
        title=names[0] if len(names) == 1 else f"Comparison of {len(names)} settings",
        summary=summary,
        style=Markup((folder / "comparison.css").read_text(encoding="utf-8")),
        tables=[
            {"name": table.name, "title": table.title, "caption": table.caption, "html": Markup(to_html(table, False))}
            for table in tables
        ],
        figures=[_figure_view(figure) for figure in figures],
        settings=[_setting_view(setting, settings[0]) for setting in settings],
        version=isheep.__version__,
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _figure_view(figure: Figure) -> dict[str, Any]:
    return {
        "name": figure.name,
        "title": figure.title,
        "caption": figure.caption,
        "light": _data_uri(figure, "light"),
        "dark": _data_uri(figure, "dark"),
        "columns": list(dict.fromkeys(key for row in figure.rows for key in row)),
        "rows": [{key: _short(value) for key, value in row.items()} for row in figure.rows],
    }


def _data_uri(figure: Figure, scheme: Scheme) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(figure_svg(figure, scheme).encode()).decode()


def _short(value: Any) -> Any:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else value


def _setting_view(setting: Setting, first: Setting) -> dict[str, Any]:
    recipe = setting.runs[0].recipe
    changes = differences(first.runs[0].recipe, recipe)
    return {
        "name": setting.name,
        "model": recipe.model.rstrip("/").rpartition("/")[2],
        "seeds": ", ".join(str(run.recipe.seed) for run in setting.runs),
        "differences": [line for line in changes if not line.startswith(HIDDEN_KEYS)],
    }
