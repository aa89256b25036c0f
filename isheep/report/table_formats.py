"""Tables for papers and pages as HTML, Markdown and LaTeX (booktabs), and their numbers as CSV.

Everything in a table may come from a recipe or a model, so each format escapes all of its text.
"""

import csv
import html
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from isheep.evaluation.formatting import escape_unprintable

Mark = Literal["", "up", "down"]


@dataclass(frozen=True)
class PaperCell:
    """A cell: its text, whether it is the best (1) or second best (2) of its column, and whether it differs.

    `note` is written small behind the text: an interval or a standard deviation. `mark` says that the score is
    significantly higher ("up") or lower ("down") than what the table compares with.
    """

    text: str
    note: str = ""
    rank: int = 0
    mark: Mark = ""


@dataclass(frozen=True)
class PaperRow:
    """A row: its labels, one for each heading, and its cells. `starts_group` draws a line above it."""

    labels: tuple[str, ...]
    cells: tuple[PaperCell, ...]
    starts_group: bool = False


@dataclass(frozen=True)
class PaperTable:
    """A table in the shape of the paper's: labels at the left, and columns in groups such as benchmarks.

    `columns` are (group, name); columns of the same group stand under one heading. `numbers` are the rows of its CSV,
    with all digits.
    """

    name: str
    title: str
    caption: str
    headings: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    rows: tuple[PaperRow, ...]
    numbers: tuple[dict[str, Any], ...] = ()

    @property
    def groups(self) -> list[tuple[str, int]]:
        """The groups of columns in order, each with its number of columns."""
        return [(group, len(list(members))) for group, members in groupby(self.columns, key=lambda column: column[0])]


# --- HTML


def to_html(table: PaperTable, has_caption: bool = True) -> str:
    """Return a table element, with its title and caption or without."""
    lines = [f'<table class="paper" id="{html.escape(table.name)}">']
    if has_caption:
        lines.append(f"<caption><b>{html.escape(table.title)}.</b> {html.escape(table.caption)}</caption>")
    has_groups = any(group for group, _ in table.groups)
    span = ' rowspan="2"' if has_groups else ""
    labels = "".join(f'<th scope="col"{span}>{html.escape(heading)}</th>' for heading in table.headings)
    names = "".join(f'<th scope="col">{html.escape(name)}</th>' for _, name in table.columns)
    lines.append("<thead>")
    if has_groups:
        groups = "".join(
            f'<th scope="colgroup" colspan="{size}">{html.escape(group)}</th>' for group, size in table.groups
        )
        lines += [f"<tr>{labels}{groups}</tr>", f"<tr>{names}</tr>"]
    else:
        lines.append(f"<tr>{labels}{names}</tr>")
    lines.append("</thead><tbody>")
    for row in table.rows:
        css = ' class="group"' if row.starts_group else ""
        row_labels = "".join(f'<th scope="row">{_html_text(label)}</th>' for label in row.labels)
        lines.append(f"<tr{css}>{row_labels}{''.join(map(_html_cell, row.cells))}</tr>")
    return "\n".join([*lines, "</tbody></table>"]) + "\n"


def _html_cell(cell: PaperCell) -> str:
    text = _html_text(cell.text)
    text = {1: f"<b>{text}</b>", 2: f"<u>{text}</u>"}.get(cell.rank, text)
    arrow = {"up": '<span class="up">↑</span>', "down": '<span class="down">↓</span>', "": ""}[cell.mark]
    note = f" <small>{_html_text(cell.note)}</small>" if cell.note else ""
    return f"<td>{text}{arrow}{note}</td>"


def _html_text(text: str) -> str:
    return html.escape(escape_unprintable(text)).replace("\n", "<br>")


# --- Markdown


def to_markdown(table: PaperTable) -> str:
    """Return a table in GitHub's form, with its title and caption above it."""
    columns = [f"{group}: {name}" if group else name for group, name in table.columns]
    headings = [*table.headings, *columns]
    lines = [f"**{markdown_text(table.title)}.** {markdown_text(table.caption)}", ""]
    lines.append(markdown_line(map(markdown_text, headings)))
    lines.append(markdown_line(["---"] * len(headings)))
    for row in table.rows:
        lines.append(markdown_line([*map(markdown_text, row.labels), *map(_markdown_cell, row.cells)]))
    return "\n".join(lines) + "\n"


def markdown_line(cells: Iterable[str]) -> str:
    """Return a row of a table of cells that are Markdown."""
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: PaperCell) -> str:
    text = markdown_text(cell.text)
    # GitHub's pages show <ins> underlined, and no <u>.
    text = {1: f"**{text}**", 2: f"<ins>{text}</ins>"}.get(cell.rank, text)
    arrow = {"up": "↑", "down": "↓", "": ""}[cell.mark]
    note = f" {cell.note}" if cell.note else ""
    return f"{text}{arrow}{note}"


def markdown_text(text: str) -> str:
    """Return a text in one line that Markdown shows as it is."""
    line = " ".join(escape_unprintable(text).split())
    return re.sub(r"([\\`*_\[\]<>|~$#&])", r"\\\1", line)


# --- LaTeX

LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # \textquotedbl is not in LaTeX's default font encoding.
    '"': r"\textquotesingle\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    # After the end of a row, LaTeX reads a bracket or an asterisk as an argument of the line break.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    # A hyphen beside another would become a dash.
    "-": "{-}",
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "…": r"\ldots{}",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "→": r"$\to$",
}


def to_latex(table: PaperTable) -> str:
    """Return a table for the packages booktabs and textcomp (the latter is part of LaTeX since 2020)."""
    num_labels = len(table.headings)
    lines = [
        r"% \usepackage[T1]{fontenc} \usepackage{booktabs}; other scripts than Latin need LuaLaTeX with their fonts",
        r"\begin{table}[t]",
        r"\centering",
        r"\small",
        rf"\begin{{tabular}}{{{'l' * num_labels}{_latex_alignment(table)}}}",
        r"\toprule",
    ]
    if any(group for group, _ in table.groups):
        groups = [rf"\multicolumn{{{size}}}{{c}}{{{latex_text(group)}}}" for group, size in table.groups]
        lines.append(_latex_line([*[""] * num_labels, *groups]))
        lines.append(" ".join(_rules_below_groups(table, num_labels)))
    lines.append(_latex_line(map(latex_text, [*table.headings, *(name for _, name in table.columns)])))
    lines.append(r"\midrule")
    for index, row in enumerate(table.rows):
        if row.starts_group and index:
            lines.append(r"\midrule")
        lines.append(_latex_line([*map(latex_text, row.labels), *map(_latex_cell, row.cells)]))
    label = re.sub(r"[^A-Za-z0-9-]+", "-", table.name)
    lines += [
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{latex_text(table.title)}. {latex_text(table.caption)}}}",
        rf"\label{{tab:{label}}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_alignment(table: PaperTable) -> str:
    """Return the alignment of each column: numbers to the right, texts as paragraphs."""
    widest = [max((len(row.cells[index].text) for row in table.rows), default=0) for index in range(len(table.columns))]
    return "".join(r"p{0.2\linewidth}" if width > LONGEST_NUMBER else "r" for width in widest)


# Cells with more characters are texts and not numbers.
LONGEST_NUMBER = 24


def _rules_below_groups(table: PaperTable, start: int) -> Iterator[str]:
    for group, size in table.groups:
        if group:
            yield rf"\cmidrule(lr){{{start + 1}-{start + size}}}"
        start += size


def _latex_line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_cell(cell: PaperCell) -> str:
    text = latex_text(cell.text)
    text = {1: rf"\textbf{{{text}}}", 2: rf"\underline{{{text}}}"}.get(cell.rank, text)
    arrow = {"up": r"$\uparrow$", "down": r"$\downarrow$", "": ""}[cell.mark]
    note = rf" {{\scriptsize {latex_text(cell.note)}}}" if cell.note else ""
    return f"{text}{arrow}{note}"


def latex_text(text: str) -> str:
    """Return a text in one line that LaTeX sets as it is; a minus before a number becomes a minus sign."""
    line = " ".join(escape_unprintable(text).split())
    escaped = "".join(LATEX.get(character, character) for character in line)
    return re.sub(r"(?<![\w}])\{-\}(?=\d)", "$-$", escaped)


# --- CSV


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV with a header; keys that a row lacks are empty.

    A text that a spreadsheet would read as a formula gets an apostrophe in front.
    """
    names = list(dict.fromkeys(key for row in rows for key in row))
    file = io.StringIO()
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows([{key: _csv_value(value) for key, value in row.items()} for row in rows])
    return file.getvalue()


# The beginnings of a text that a spreadsheet reads as a formula; a negative number is none.
FORMULA = re.compile(r"[=+@\t\r]|-(?!\d)")


def _csv_value(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value
