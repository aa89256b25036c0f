"""docs/extending.md: every example of the page is extracted and run, from outside and as a file of the package."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.helpers.copies import copy_writable

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
# Few tasks and no benchmark, so that a run on lamb takes seconds.
BRIEF = (
    "iterations=1",
    "synthesis.tasks=12",
    "evaluation=[]",
    "filters=[]",
    "training.max_steps=2",
    "machine.threads=1",
    "machine.report=false",
)


def examples() -> dict[str, str]:
    """Return the page's files by their path, which the first line of each block names."""
    blocks = re.findall(r"```(?:python|yaml)\n# (\S+\.(?:py|yaml))\n(.*?)```", PAGE, re.DOTALL)
    return dict(blocks)


def lines_to_add() -> list[tuple[str, str, str]]:
    """Return (line, name of the table, file) of each block of one line and the sentence before it."""
    pattern = r"add (?:one line|its name) to\s+`(\w+)` in\s+`([\w/.]+)`:\n\n```python\n(.*?)\n```"
    return [(line, table, file) for table, file, line in re.findall(pattern, PAGE)]


def isheep(folder: Path, *arguments: str, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the command line in `folder` with the package at `path`."""
    environment = {**os.environ, "PYTHONPATH": str(path), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-c", "from isheep.cli import main; main()", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


def succeeded(process: subprocess.CompletedProcess[str]) -> str:
    """Return the standard output of a command that ended without an error."""
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the examples that need no change of the package."""
    folder = tmp_path_factory.mktemp("outside")
    write_files(folder, {name: text for name, text in examples().items() if not name.startswith("isheep/")})
    return folder


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with all examples of new files, and with the lines that the page adds to tables."""
    folder = tmp_path_factory.mktemp("package")
    copy_writable(ROOT / "isheep", folder / "isheep")
    copy_writable(ROOT / "recipes", folder / "recipes")
    write_files(folder, {name: text for name, text in examples().items() if name.startswith("isheep/")})
    for line, table, file in lines_to_add():
        path = folder / file
        text = path.read_text(encoding="utf-8")
        changed = re.sub(rf"(?m)^({table}\b[^\n]*[({{]\n)", rf"\g<1>    {line}\n", text, count=1)
        assert changed != text, f"{file} has no table {table}"
        path.write_text(changed, encoding="utf-8")
    return folder


def test_the_page_has_an_example_of_each_kind() -> None:
    folders = {str(Path(name).parent) for name in examples() if name.startswith("isheep/")}
    expected = {"isheep/filters", "isheep/benchmarks/standard", "isheep/engines", "isheep/trainers", "isheep/cli"}
    assert folders == expected
    assert {table for _, table, _ in lines_to_add()} == {"FILTERS", "ENGINES", "TRAINERS", "COMMANDS"}


@pytest.mark.slow
def test_a_filter_from_outside(outside: Path) -> None:
    refused = isheep(outside, "run", "no_lists.yaml", "--out", "filtered", *BRIEF[:3])
    assert refused.returncode == 2 and "--allow-code" in refused.stderr and refused.stderr.count("\n") == 1
    filters = "filters=[{kind: custom, function: no_lists.py:no_lists}]"
    words = [word for word in BRIEF if not word.startswith("filters")]
    succeeded(isheep(outside, "run", "no_lists.yaml", "--out", "filtered", *words, filters, "--allow-code"))
    assert (outside / "filtered" / "iter-1" / "adapter").is_dir()


def test_a_benchmark_from_outside(outside: Path) -> None:
    words = [word for word in BRIEF if not word.startswith("evaluation")]
    benchmark = "evaluation=[capitals.py:BENCHMARK]"
    output = succeeded(isheep(outside, "run", "lamb", "--out", "scored", *words, benchmark, "--allow-code"))
    assert "accuracy" in output


def test_an_engine_from_outside(outside: Path) -> None:
    engine = ["machine.engine=my_engine.py:open_engine", "machine.engine_options={prefix: Please.}", "assessment=null"]
    process = isheep(
        outside, "run", "lamb", "--out", "function", *BRIEF, *engine, "synthesis.novelty=null", "--allow-code"
    )
    replies = (outside / "function" / "iter-1" / "replies.jsonl").read_text(encoding="utf-8")
    assert "Please. Name three rivers" in json.loads(replies.splitlines()[0])["text"], process.stderr[-2000:]


@pytest.mark.slow
def test_a_filter_in_the_package(package: Path) -> None:
    words = [word for word in BRIEF if not word.startswith("filters")]
    filters = "filters=[{kind: max_words, at_most: 10}]"
    succeeded(isheep(package, "run", "lamb", "--out", "short", *words, filters, path=package))
    dropped = (package / "short" / "iter-1" / "dropped.jsonl").read_text(encoding="utf-8")
    assert all(json.loads(line)["by"] in ("max_words", "rules") for line in dropped.splitlines())


@pytest.mark.slow
def test_a_benchmark_in_the_package(package: Path) -> None:
    question = {
        "stem": "What do plants need?",
        "choices": [{"label": "A", "text": "sun"}, {"label": "B", "text": "tea"}],
    }
    row = {"question": question, "answerKey": "A"}
    (package / "test.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    pytest.importorskip("lm_eval")
    words = [word for word in BRIEF if not word.startswith("evaluation")]
    benchmark = "evaluation=[{name: standard/openbookqa, data: test.jsonl}]"
    output = succeeded(isheep(package, "run", "lamb", "--out", "scored", *words, benchmark, path=package))
    assert "standard/openbookqa" in output


@pytest.mark.slow
def test_an_engine_a_trainer_and_a_command_in_the_package(package: Path) -> None:
    words = [word for word in BRIEF if not word.startswith("training")]
    succeeded(isheep(package, "run", "lamb", "--out", "brief", *words, "machine.trainer=short", path=package))
    record = json.loads((package / "brief" / "iter-1" / "adapter" / "training.json").read_text(encoding="utf-8"))
    assert record["steps"] == 5
    assert "iteration 1:" in succeeded(isheep(package, "lengths", "brief", path=package))
    process = isheep(package, "run", "lamb", "--out", "echoed", *BRIEF, "machine.engine=echo", path=package)
    assert (package / "echoed" / "iter-1").is_dir(), process.stderr[-2000:]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ('("isheep.filters.score", "ScorFilter")', "isheep.filters.score has no subclass ScorFilter of FilterSettings"),
        ('("isheep.filters.gone", "Gone")', "isheep.filters.gone can't be loaded: ModuleNotFoundError"),
    ],
)
def test_a_wrong_line_of_filters_is_one_line(tmp_path: Path, entry: str, message: str) -> None:
    copy_writable(ROOT / "isheep", tmp_path / "isheep")
    file = tmp_path / "isheep" / "filters" / "__init__.py"
    file.write_text(file.read_text().replace("FILTERS = (\n", f"FILTERS = (\n    {entry},\n"), encoding="utf-8")
    process = isheep(tmp_path, "plan", "lamb", path=tmp_path)
    assert process.returncode == 2 and process.stderr.count("\n") == 1, process.stderr[-2000:]
    assert f"{entry} of FILTERS in isheep/filters/__init__.py: {message}" in process.stderr
