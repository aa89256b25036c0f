"""The scripts that measure speed work with the present package: each explains itself, and small measurements run."""

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import decoding, demo_figure, fuzz, novelty
from benchmarks.common import TimedEngine, best_time, run_child, run_script
from benchmarks.fuzz_parsers import Parser
from isheep.engines import check_engine_object
from isheep.engines.function import FunctionEngine
from isheep.errors import UserError
from isheep.records import Sampling

ROOT = Path(__file__).parents[1]
HELPERS = {"__init__", "common", "cures", "fuzz_parsers"}
SCRIPTS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if path.stem not in HELPERS)
# The smallest sizes of the scripts that compute with torch.
SMALL_RUNS = {
    "engine": ["--model", "lamb", "--count", "2", "--batch", "2", "--length", "4", "--prefix", "50", "--repeats", "1"],
    "refill": ["--count", "4", "--batch", "2", "--repeats", "1"],
    "training": ["--rows", "16", "--width", "32"],
    "gpu": ["tiny", "--device", "cpu", "--rows", "2", "--read", "20", "--shared", "10", "--write", "4", "--cutoff",
            "32", "--steps", "1"],
    "overhead": ["synthesis.tasks=40", "evaluation=[]", "filters=[{kind: score, at_least: 8}]"],
    "loop": ["--tasks", "40", "--iterations", "1"],
    "stopping": ["--items", "50", "--runs", "3"],
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_explains_how_it_is_run(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    script = importlib.import_module(f"benchmarks.{name}")
    with pytest.raises(SystemExit) as end:
        script.main(["--help"])
    assert end.value.code == 0
    command = f"benchmarks/{name}.py" if name == "distilabel_worker" else f"python -m benchmarks.{name}"
    assert command in capsys.readouterr().out


def test_the_makefile_names_scripts_that_exist() -> None:
    names = re.findall(r"-m benchmarks\.(\w+)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert names and set(names) <= set(SCRIPTS)


def test_a_script_runs_as_a_module_and_prints_its_table() -> None:
    command = [sys.executable, "-m", "benchmarks.streaming", "--rows", "5"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"COLUMNS": "100"})
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("| CPU s | 5 rows | exponent |\n") and "overlap with 500 prompts" in process.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL_RUNS)
def test_a_script_runs_at_its_smallest_size(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    _, output = run_child([sys.executable, "-m", f"benchmarks.{name}", *SMALL_RUNS[name]])
    assert output


@pytest.mark.slow
def test_a_checkout_decodes_as_it_does_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Name the number after {n}."}) + "\n" for n in range(40)))
    words = ["--against", str(ROOT), "--model", "lamb", "--prompts", str(prompts), "--count", "3", "--shared", "20"]
    decoding.main([*words, "--length", "4", "--repeats", "1", "--threads", "1"])
    assert "| 3/3 | True |" in capsys.readouterr().out


def test_both_ways_to_check_novelty_have_the_same_verdicts(capsys: pytest.CaptureFixture[str]) -> None:
    novelty.main(["--most", "60", "--alpaca", "5"])
    assert "verdicts on the first 5: equal" in capsys.readouterr().out


def test_bad_input_ends_a_script_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        run_script(lambda: demo_figure.main([str(tmp_path), str(tmp_path / "figure.svg")]))
    assert "\n" not in str(end.value.code) and "lamb.json is not there" in str(end.value.code)
    assert not (tmp_path / "figure.svg").exists()


def test_a_failed_child_ends_a_script_with_what_it_wrote() -> None:
    with pytest.raises(SystemExit, match="no such thing"):
        run_child([sys.executable, "-c", "import sys; sys.exit('no such thing')"])


def test_the_best_time_is_the_least_of_the_repeats() -> None:
    times, results = iter([0.0, 5.0, 10.0, 12.0]), iter(["first", "second"])
    assert best_time(lambda: next(results), repeats=2, clock=lambda: next(times)) == (2.0, "second")
    with pytest.raises(UserError, match="--repeats 0"):
        best_time(lambda: None, repeats=0)


def test_a_timed_engine_answers_as_its_engine_does_and_counts_each_method() -> None:
    def answer(prompts: list[str]) -> Sequence[str]:
        return [f"{prompt} 8" for prompt in prompts]

    spent: dict[str, float] = {}
    engine, timed = FunctionEngine(answer), TimedEngine(FunctionEngine(answer), spent)
    check_engine_object(timed, "timed")
    sampling = Sampling(max_tokens=8)
    assert timed.generate(["a", "b"], sampling, 0) == engine.generate(["a", "b"], sampling, 0)
    assert timed.logprobs(["a"], ["b c"]) == engine.logprobs(["a"], ["b c"])
    assert timed.choices(["a"], ["a 8", "c"]) == [[1.0, 0.0]]
    assert timed.embed(["a"]).tolist() == engine.embed(["a"]).tolist()
    assert set(spent) == {"generate", "logprobs", "choices", "embed"}


def fuzz_output(parse: Callable[[str], object], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> str:
    """Return what the fuzzer prints of a parser that it finds something about."""
    monkeypatch.setattr(fuzz, "load_parsers", lambda data: {"mine": Parser(parse, ("8",))})
    monkeypatch.setattr(fuzz, "TOKENS", ("8", "²"))
    with pytest.raises(SystemExit) as end:
        fuzz.main(["--inputs", "200"])
    output: str = capsys.readouterr().out
    assert end.value.code == 1 and "200 inputs" in output
    return output


def test_the_fuzzer_reports_an_exception(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    output = fuzz_output(lambda text: int(text) if text.isdigit() else 0, monkeypatch, capsys)
    assert "mine: ValueError: invalid literal for int" in output


def test_the_fuzzer_reports_quadratic_time(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(fuzz.Feeder, "time", lambda self, text: 1e-6 * len(text) ** 2)
    assert "mine: ten times the length takes 100 times as long" in fuzz_output(len, monkeypatch, capsys)


@pytest.mark.slow
def test_the_fuzzer_finds_nothing_in_a_few_inputs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        fuzz.main(["--inputs", "2000", "--seed", "1"])
    output = capsys.readouterr().out
    assert end.value.code == 0 and "2000 inputs" in output, output
