"""Commands that need no run: help, doctor, recipes, completion, the version."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from isheep import __version__
from isheep.cli import COMMANDS, machine_report
from isheep.recipe import loading
from tests.helpers.command import ROOT, Done, isheep, refused

# --- the machine, and lamb


def test_doctor_says_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    done = isheep("doctor")
    lines = {line.split()[0]: line for line in done.out.splitlines()}
    assert done.code == 0 and {"python", "torch", "device", "cores", "memory", "disk", "[eval]", "[dev]"} <= set(lines)
    assert "GiB free of" in lines["memory"] and "pytest" in lines["[dev]"]


def test_doctor_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_report, "PACKAGES", ("isheep", "no-such-package"))
    monkeypatch.setattr(machine_report, "extras", lambda: {"eval": ("no-such-extra", "IFEval")})
    done = isheep("doctor")
    assert done.code == 2 and "no-such-package missing" in done.out
    assert "IFEval: not installed (pip install 'isheep[eval]')" in done.out
    assert "isheep: a required package is missing" in done.err


def test_doctor_reads_the_limits_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text(f"{2**31}\n")
    monkeypatch.setattr(machine_report, "CGROUP", tmp_path)
    assert "limited to the time of 1.5" in machine_report.describe_cores()
    assert "limited to 2.0 GiB" in machine_report.describe_memory()


COMMAND_LINES = [*((name,) for name in COMMANDS), ("lamb", "pretrain"), ("lamb", "probe"), ()]


@pytest.mark.parametrize("words", COMMAND_LINES, ids=" ".join)
def test_help_says_everything_on_a_narrow_screen(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = isheep(*words, "--help")
    assert done == isheep(*words, "-h") and done.code == 0
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if line.endswith("...") and not line.startswith("Usage:")]


def test_help_lists_every_command_in_a_sentence() -> None:
    commands = isheep("--help").out.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in commands] == list(COMMANDS)
    assert all(line.endswith(".") for line in commands)


def test_the_version() -> None:
    assert isheep("--version") == Done(0, f"isheep {__version__}\n", "")


def test_the_package_can_be_run_as_a_module() -> None:
    for words in (["--version"], ["recipes", "nothing"]):
        command = [sys.executable, "-m", "isheep", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert Done(done.returncode, done.stdout, done.stderr) == isheep(*words)


def test_shell_completion_offers_recipes() -> None:
    command = [sys.executable, "-c", "from isheep.cli import main; main()"]
    variables = {"_ISHEEP_COMPLETE": "complete_bash", "COMP_WORDS": "isheep run paper/qwen1.5-7", "COMP_CWORD": "2"}
    done = subprocess.run(
        [*command[:2], "import sys; sys.argv = ['isheep']; from isheep.cli import main; main()"],
        env={**os.environ, **variables}, cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == [
        "paper/qwen1.5-72b", "paper/qwen1.5-72b-above-8", "paper/qwen1.5-72b-appendix-e", "paper/qwen1.5-7b",
    ]  # fmt: skip


@pytest.mark.parametrize(("words", "code"), [(["run"], 2), (["run", "--help"], 0), (["--version"], 0), (["--help"], 0)])
def test_other_operating_systems_get_one_line(words: list[str], code: int) -> None:
    """Also where the modules fcntl and resource do not exist, as on Windows."""
    script = "import sys, typer; from pydantic import Field; sys.platform = 'darwin'\n"
    script += "sys.modules['fcntl'] = sys.modules['resource'] = None\n"
    script += f"from isheep.cli import main; main({words})"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert code == 0 or "isheep runs on Linux, and this is darwin: use WSL 2" in done.stderr
    assert done.stderr.count("\n") == (1 if code else 0)


# --- recipes


def test_recipes_fit_on_a_screen() -> None:
    done = isheep("recipes")
    lines = done.out.splitlines()
    assert done.code == 0 and len(lines) <= 30 and max(map(len, lines)) <= 80
    listed = set(done.out.replace(",", " ").split())
    for name in loading.recipe_names():
        assert {name, name.partition("/")[2]} & listed, name


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("density", ["lamb/density", "lamb/density-perplexity", "paper/density", "paper/density-perplexity"]),
        ("FIGURE 2A", ["lamb/thresholds", "paper/thresholds"]),
    ],
)
def test_recipes_by_a_word_of_name_or_title(word: str, expected: list[str]) -> None:
    values = json.loads(isheep("recipes", word, "--json").out)
    assert sorted(value["name"] for value in values) == expected
    output = isheep("recipes", word).out
    assert all(name in output for name in expected)


def test_no_recipe_has_the_word() -> None:
    assert "no recipe has 'densities' in its name or title" in refused("recipes", "densities")


def test_recipes_as_json_name_their_commands() -> None:
    values = {value["name"]: value for value in json.loads(isheep("recipes", "--json").out)}
    assert sorted(values) == loading.recipe_names()
    assert values["paper/table2"]["command"] == "isheep sweep paper/table2"
    assert values["lamb/stop"]["command"] == "isheep run lamb/stop" and values["lamb/stop"]["group"] == "lamb"
    assert values["paper/size-matched"]["group"] == "controls"
