"""What programs read: every --json is one JSON value, shells get a completion script, and errors have one form."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.command import ROOT, isheep, refused
from tests.helpers.runs import fake_models, make_run, write_result

PAIR: dict[str, Any] = {"id": "t1-0", "instruction": "a", "output": "b", "finish": "stop", "tokens": 1, "seed": 1}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of one iteration with a rated pair, and with scores of which one has no value at all."""
    run = make_run(tmp_path / "run", 1, evaluation=["lamb"])
    rated = {**PAIR, "grades": {name: {"score": 9, "reply": "9"} for name in ("quality", "following")}}
    rows = {"pairs": PAIR, "assessed": rated, "tasks": {"id": "t1-0", "instruction": "a"}}
    for name, row in rows.items():
        (run / "iter-1" / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    for name in ("base", "iter-1"):
        write_result(run, name, "mine", {"scores": {"some": {"items": [True, False]}, "none": {"items": [None]}}})
    return run


def json_of(*words: str | Path) -> Any:
    """Return the JSON value that a command prints; NaN and Infinity, which JSON does not have, are errors."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    done = isheep(*words, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out, parse_constant=refuse)


def test_every_json_output_is_one_json_value(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_models(monkeypatch)
    judgments = tmp_path / "annotations.json"
    judgments.write_text(json.dumps([{"preference": None}]))
    assert json_of("status", run)["benchmarks"]["mine"]["scores"]["none"][0]["value"] is None
    assert json_of("show", run, "1")["rows"][0]["id"] == "t1-0"
    assert {score["score"] for score in json_of("compare", run)["scores"]} == {"some", "none"}
    assert any(entry["name"] == "lamb" for entry in json_of("recipes"))
    assert json_of("eval", run, "lamb")["benchmarks"]["lamb"]["scores"]
    assert json_of("plan", "lamb", "iterations=1")
    assert {entry["verdict"] for entry in json_of("rigor", run)["items"]} == {"answered", "partly", "not done"}
    assert json_of("scores", judgments)["win_rate"] is None


def test_each_command_with_json_is_covered_here() -> None:
    names = [path.stem for path in (ROOT / "isheep/cli").glob("*.py") if "as_json: Json" in path.read_text()]
    assert sorted(names) == ["compare", "eval", "plan", "recipes", "rigor", "scores", "show", "status"]


def test_bash_gets_a_completion_script_and_the_names_of_recipes() -> None:
    command = [sys.executable, "-c", "from isheep.cli import main; main()"]

    def output(*words: str, **environment: str) -> str:
        # Else typer looks for the shell that started the tests, which may be one without completion.
        detection = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
        variables = {**os.environ, **detection, **environment}
        process = subprocess.run([*command, *words], env=variables, capture_output=True, text=True, timeout=60)
        assert process.returncode == 0, process.stderr
        return process.stdout

    script = output("--show-completion", "bash")
    assert "_ISHEEP_COMPLETE=complete_bash" in script and "complete -o default -F _isheep_completion isheep" in script
    completed = output(_ISHEEP_COMPLETE="complete_bash", COMP_WORDS="isheep run lam", COMP_CWORD="2")
    assert "lamb" in completed.split()
    assert "status" in output(_ISHEEP_COMPLETE="complete_bash", COMP_WORDS="isheep st", COMP_CWORD="1").split()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "--foo"), "isheep: no such option: --foo"),
        (("sttus", "x"), "isheep: no such command 'sttus'. Did you mean 'status'? (see isheep --help)"),
        (("status",), "isheep: missing argument 'DIR' (see isheep status --help)"),
        (("run", "--seeds", "few"), "isheep: invalid value for '--seeds'"),
        (("lamb", "pretrain"), "isheep: missing option '--out' (see isheep lamb pretrain --help)"),
        (("show", "x", "1", "--quality", "best"), "isheep: invalid value for '--quality'"),
    ],
)
def test_a_command_line_that_cannot_be_read_is_one_line(words: tuple[str, ...], message: str) -> None:
    assert refused(*words).startswith(message)


def test_no_arguments_print_the_help() -> None:
    for words in ((), ("lamb",)):
        done = isheep(*words)
        assert done.code == 2 and "Usage: isheep" in done.err + done.out and "Commands:" in done.err + done.out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "version.json is damaged: it must hold"),
        (b"[]", "version.json is damaged: it must hold"),
        (b'{"format": ', "version.json is damaged: it must hold"),
        (b"\xff\xfe", "version.json is damaged: it must hold"),
        (b'{"form": 2}', "version.json is damaged: it must hold"),
        (b'{"format": 3}', "has format 3, and this version of isheep reads 2"),
        (None, "was made by isheep 0.1, whose files this version can't read"),
        ("folder", "version.json is a folder, and must be a file"),
    ],
)
def test_a_damaged_or_missing_version_is_one_line(run: Path, content: bytes | str | None, message: str) -> None:
    version = run / "version.json"
    version.unlink()
    if isinstance(content, bytes):
        version.write_bytes(content)
    elif content:
        version.mkdir()
    for command in ("status", "run", "compare"):
        assert message in refused(command, run), command
