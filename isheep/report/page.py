"""The page of one run: report.html, one file without any other that it would load.

Text of a model is untrusted. The template escapes what it prints; rows of examples are data that the script sets as
text; and the content security policy allows the scripts of this page alone, by their hashes, and no network.
"""

import base64
import hashlib
import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

import isheep
from isheep.report import REPORT_FILE, sections
from isheep.report.examples import make_examples
from isheep.report.figures import Figure, all_figures
from isheep.report.figures.theme import vega_config
from isheep.report.headline import headlines
from isheep.report.run_data import RunData
from isheep.rundir.atomic import write_text

PAGE_DIR = Path(__file__).parent
# The seconds after which the page of a run that is under way reads its file again.
REFRESH_SECONDS = 20
# itables ends its bundle with the names that it exports: export{vh as default,...}
EXPORTS = re.compile(r"export\s*\{[^}]*?(\w+) as default[^}]*\};?\s*")


def write_page(run: RunData, out: Path | None = None) -> Path:
    """Write the page of a run, whole or not at all, and return its path: report.html in the run folder, or `out`."""
    path = out or run.path / REPORT_FILE
    write_text(path, render_page(run))
    return path


def render_page(run: RunData) -> str:
    """Return the report of a run as HTML."""
    figures, examples = list(all_figures([run])), make_examples(run)
    scripts = {"charts": chart_script() if figures else "", "tables": table_script(), "page": page_script()}
    data = {
        "figures": [{"name": figure.name, "spec": _spec(figure), "rows": figure.rows} for figure in figures],
        "config": {"light": vega_config("light"), "dark": vega_config("dark")},
        "underWay": run.is_under_way,
        "refreshSeconds": REFRESH_SECONDS,
        "criteria": list(dict.fromkeys(name for iteration in run.iterations for name in iteration.criteria)),
        "result": run.result.iteration,
        "written": int(time.time()),
    }
    environment = Environment(loader=FileSystemLoader(PAGE_DIR), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("page.html").render(
        run=run,
        sections=sections,
        headlines=list(headlines(run)),
        model=sections.without_paths(run.recipe.model),
        figures=figures,
        examples=examples,
        columns=_columns,
        version=isheep.__version__,
        policy=_policy([*scripts.values()]),
        scripts={name: Markup(text) for name, text in scripts.items()},
        styles=Markup(f"{table_style()}\n{_file('page.css')}"),
        page_data=Markup(inert_json(data)),
        rows=Markup(examples.data),
    )


def _spec(figure: Figure) -> dict[str, Any]:
    """Return the chart for Vega-Lite. The page adds the colours of its scheme."""
    spec: dict[str, Any] = figure.chart.to_dict()
    spec.pop("config", None)
    return spec


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys of rows, in the order in which they appear."""
    return list(dict.fromkeys(key for row in rows for key in row))


def inert_json(value: Any) -> str:
    """Return JSON for a script element of data: nothing in it can end the element."""
    text = json.dumps(_finite(value), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    """Return a value in which numbers that JSON does not have, such as nan, are None."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- scripts and styles


@cache
def chart_script() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script, which sets window.vegaEmbed."""
    import vl_convert

    return _inline(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


@cache
def table_script() -> str:
    """Return DataTables as one script, which sets window.DataTable."""
    text = _itables_file("dt_bundle.js")
    text, number = EXPORTS.subn(lambda match: f"window.DataTable={match[1]};", text)
    assert number == 1, "the bundle of itables exports DataTable once"
    return _inline(text)


@cache
def table_style() -> str:
    return _itables_file("dt_bundle.css")


@cache
def page_script() -> str:
    """Return the page's own script, of which page.js begins the work."""
    return "\n".join(_file(name) for name in ("page_base.js", "page_charts.js", "page_examples.js", "page.js"))


@cache
def _file(name: str) -> str:
    return (PAGE_DIR / name).read_text(encoding="utf-8")


def _inline(text: str) -> str:
    """Return a script that can stand inside an element: no text in it ends the element or begins a comment.

    Both replacements keep the meaning in strings, regular expressions and templates.
    """
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("</script", "<\\/script").replace("<!--", "\\x3c!--")


def _policy(scripts: Sequence[str]) -> str:
    """Return the content security policy: the page's own scripts by hash, no other, and nothing from a network."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts if text)
    sources = " ".join(f"'sha256-{digest}'" for digest in hashes)
    rules = {
        "default-src": "'none'",
        "script-src": sources,
        # The chart and table libraries write style elements.
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _itables_file(name: str) -> str:
    """Return a text of itables. The package is not imported: it would read settings in the current and home folders."""
    return Path(str(metadata.distribution("itables").locate_file(f"itables/html/{name}"))).read_text(encoding="utf-8")
