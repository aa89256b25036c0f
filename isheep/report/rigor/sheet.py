"""The rigor sheet as a table of the terminal, as Markdown and as JSON."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Column, Table
from rich.text import Text

from isheep.evaluation.formatting import escape_unprintable
from isheep.report.comparison import find_run_dirs, load_runs
from isheep.report.rigor.evidence import Evidence, RigorAnswer, count
from isheep.report.rigor.items import RigorRow, answer_items
from isheep.report.table_formats import markdown_line, markdown_text

STYLES = {"answered": "green", "partly": "yellow", "not done": "red"}


def load_evidence(paths: Sequence[Path]) -> Evidence:
    """Open the run folders that some paths stand for. Raises UserError for another path."""
    return Evidence(load_runs(find_run_dirs(paths)))


def make_sheet(evidence: Evidence) -> Sequence[RigorRow]:
    """Return the rows of the sheet."""
    return answer_items(evidence)


def sheet_parts(evidence: Evidence, rows: Sequence[RigorRow]) -> Iterator[RenderableType]:
    """Yield the table for a terminal, and below it the commands that would answer what is missing."""
    yield Text(escape_unprintable(_summary(evidence, rows)), "bold")
    columns = (
        Column("item", max_width=14),
        Column("answer", overflow="fold"),
        Column("where to look", max_width=20, overflow="fold"),
    )
    table = Table(*columns, box=SIMPLE_HEAD, padding=(0, 2, 1, 0), pad_edge=False)
    for item, answer in rows:
        advice = ": run the command below" if answer.command and answer.verdict == "not done" else ""
        text = Text(f"{answer.verdict}{advice}\n", STYLES[answer.verdict])
        text.append("\n".join(map(escape_unprintable, answer.lines)), "default")
        table.add_row(Text(item.name), text, Text(escape_unprintable(answer.look)))
    yield table
    if commands := [(item.name, answer.command) for item, answer in rows if answer.command]:
        yield Text("What would answer the rest", "bold")
        yield from (Text(f"{name}: {escape_unprintable(command)}") for name, command in commands)


def sheet_markdown(evidence: Evidence, rows: Sequence[RigorRow]) -> str:
    """Return the sheet as a Markdown file."""
    lines = ["# Rigor", "", markdown_text(_summary(evidence, rows)), ""]
    lines += [markdown_line(("item", "answer", "where to look")), markdown_line(["---"] * 3)]
    for item, answer in rows:
        lines.append(markdown_line((item.name, _markdown_answer(answer), markdown_text(answer.look))))
    return "\n".join(lines) + "\n"


def _markdown_answer(answer: RigorAnswer) -> str:
    texts = [f"**{answer.verdict}**", *map(markdown_text, answer.lines)]
    if answer.command:
        texts.append(f"Run {markdown_text(answer.command)}")
    return "<br>".join(texts)


def sheet_json(evidence: Evidence, rows: Sequence[RigorRow]) -> dict[str, Any]:
    """Return the sheet: {"runs": [...], "settings": [...], "counts": {...}, "items": [...]}."""
    return {
        "runs": [str(run.path) for run in evidence.runs],
        "settings": [
            {"name": setting.name, "seeds": [run.recipe.seed for run in setting.runs]} for setting in evidence.settings
        ],
        "counts": _counts(rows),
        "items": [
            {
                "item": item.name,
                "review": list(item.review),
                "verdict": answer.verdict,
                "answer": list(answer.lines),
                "look": answer.look,
                "command": answer.command,
            }
            for item, answer in rows
        ],
    }


def _counts(rows: Sequence[RigorRow]) -> dict[str, int]:
    counts: Counter[str] = Counter(answer.verdict for _, answer in rows)
    return {verdict: counts[verdict] for verdict in STYLES}


def _summary(evidence: Evidence, rows: Sequence[RigorRow]) -> str:
    names = ", ".join(setting.name for setting in evidence.settings)
    counts = ", ".join(f"{number} {verdict}" for verdict, number in _counts(rows).items())
    return f"{count(len(evidence.runs), 'run')} ({names}): of {len(rows)} items {counts}"
