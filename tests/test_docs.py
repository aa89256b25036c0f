"""The documents say what is there: every `isheep ...` command line parses, and every local link points to a file."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer import BadParameter
from typer.core import TyperGroup
from typer.main import get_command

from isheep.annotation import CHOICES, RATINGS
from isheep.api.reference import render_api
from isheep.cli import app
from isheep.judges.endpoint import JUDGE_LOG
from isheep.rundir.artifacts import ARTIFACTS, markdown_table

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
IN_BLOCK = re.compile(r"^(?:\$ )?(?:\.venv/bin/)?(isheep .*)$", re.MULTILINE)
IN_LINE = re.compile(r"`(?:\.venv/bin/)?(isheep [^`]+)`")
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def commands(text: str) -> Iterator[list[str]]:
    """The words after isheep of each command line, comments left out and the brackets of [--out DIR] taken off."""
    for command in (*IN_BLOCK.findall(text), *IN_LINE.findall(text)):
        yield shlex.split(re.sub(r"[][]|\.\.\.", "", command), comments=True)[1:]


def check(words: list[str]) -> None:
    """AssertionError where a verb or an option is not the command line's; a written example also parses whole."""
    command = get_command(app)
    names = list(words)
    while isinstance(command, TyperGroup):
        assert names and names[0] in command.commands, f"no verb {names[:1]} in isheep {' '.join(words)}"
        command = command.commands[names.pop(0)]
    options = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    used = {word.partition("=")[0] for word in names if word.startswith("-")}
    assert used <= options, f"isheep {' '.join(words)}: {used - options} is no option"
    if names and not any(word.isupper() for word in names):  # capitals stand for a value: DIR, ITERATION
        command.make_context("isheep", names)


def documented() -> list[tuple[str, list[str]]]:
    return [(path.name, words) for path in DOCUMENTS for words in commands(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("name", "words"), documented(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_command_parses(name: str, words: list[str]) -> None:
    check(words)


WRONG = ["isheep train", "isheep lamb", "isheep run --iterations 3", "isheep show runs/lamb one"]


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_command_is_found(line: str) -> None:
    (words,) = commands(f"text `{line}` text")
    with pytest.raises((AssertionError, BadParameter)):
        check(words)


def test_every_verb_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    inner = group.commands["lamb"]
    assert isinstance(inner, TyperGroup)
    verbs = (set(group.commands) - {"lamb"}) | {f"lamb {name}" for name in inner.commands}
    assert {verb for verb in verbs if f"`isheep {verb}" not in text} == set()


def test_the_page_of_the_run_folder_has_the_table_of_artifacts() -> None:
    assert markdown_table() in (ROOT / "docs" / "run-folder.md").read_text(encoding="utf-8")


def test_every_file_of_a_run_is_in_its_page() -> None:
    """Those that stages make, and those that the code names as rows or JSON."""
    page = (ROOT / "docs" / "run-folder.md").read_text(encoding="utf-8")
    code = [path.read_text(encoding="utf-8") for path in (ROOT / "isheep").rglob("*.py")]
    named = {
        name
        for text in code
        for name in re.findall(r'(?:records|map_batches|write|read|json|has)\(\s*"([a-z./-]+\.jsonl?)"', text)
    }
    assert len(named) > 12
    wanted = {*(artifact.name for artifact in ARTIFACTS), RATINGS, CHOICES, JUDGE_LOG, *named}
    assert {name for name in wanted if not re.search(rf"[ `]{re.escape(name.rpartition('/')[2])}", page)} == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_local_links_point_to_files(path: Path) -> None:
    links = [link for link in LINK.findall(path.read_text(encoding="utf-8")) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_tests_that_a_page_names_exist(path: Path) -> None:
    """A page names a test as `test_file.py::test_name`, or its file alone."""
    for file, name in re.findall(r"`(?:tests/)?(test_\w+\.py)(?:::(test_\w+))?`", path.read_text(encoding="utf-8")):
        source = ROOT / "tests" / file
        assert source.is_file(), f"{path.name} names {file}"
        assert not name or f"def {name}(" in source.read_text(encoding="utf-8"), f"{path.name} names {file}::{name}"


def test_the_api_page_is_made_from_the_docstrings() -> None:
    assert (ROOT / "docs" / "api.md").read_text(encoding="utf-8") == render_api()


def test_the_front_page_repeats_the_findings() -> None:
    """Each row of its table is a contrast of docs/findings.md: the other side, the difference and the corrected p."""
    contrasts = {
        "base": "plain@0:plain@3",
        "(Self-Instruct)": "unassessed@1:plain@3",
        "drawn at random": "random-keep@3:plain@3",
        "first iteration": "plain@1:plain@3",
        "training steps**": "compute-matched@1:plain@3",
    }
    findings = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## What the loop does, tested")[2].partition("\n## ")[0]
    for label, contrast in contrasts.items():
        (row,) = (line for line in section.splitlines() if line.startswith("|") and f"{label} |" in line)
        cells = [cell.strip(" *") for cell in row.split("|")[2:4]]
        line = next(line for line in findings.splitlines() if line.startswith(f"| `{contrast}` | lamb right |"))
        before, _, difference, _, _, corrected_p = (cell.strip() for cell in line.split("|")[3:9])
        assert cells[0] == before
        assert re.match(rf"{re.escape(difference)}( points)?, p = ", cells[1])
        p = float(cells[1].rpartition("p = ")[2])
        assert p == pytest.approx(float(corrected_p), abs=0.0006 if p < 0.1 else 0.006)
