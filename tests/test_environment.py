"""The same small run under other environments: nothing of them gets into the files."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

# run.jsonl is the log, with times and versions.
UNCOMPARED = {"run.jsonl", "lock"}
SETTINGS = [
    *("iterations=1", "evaluation=[]", "assessment=null", "filters=[]", "machine.threads=1", "machine.device=cpu"),
    "machine.report=false",
    *("synthesis.tasks=8", "synthesis.batch_size=8", "response.batch_size=8"),
    "training={max_steps: 2, batch_size: 2, eval_every: 1, warmup_steps: 0, cutoff: 256}",
]
ENVIRONMENTS = {
    "offline": {"HF_HUB_OFFLINE": "1"},
    "home": {"HOME": "other-home", "HF_HOME": "other-home/hub", "XDG_CACHE_HOME": "other-home/cache"},
    "locale": {"LC_ALL": "tr_TR.UTF-8", "LANG": "de_DE.UTF-8", "PYTHONUTF8": "0"},
    "ascii": {"LC_ALL": "C", "LANG": "C"},
    "time zone": {"TZ": "Pacific/Kiritimati"},
    "cwd": {},
    "tokenizer threads": {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": "2"},
    "hash seed": {"PYTHONHASHSEED": "7"},
}


def run_files(folder: Path, environment: dict[str, str]) -> dict[str, str]:
    """Run lamb for one iteration in a working directory of its own; return the hash of each file that it writes."""
    folder.mkdir()
    variables = {**os.environ, "PYTHONHASHSEED": "1", "TOKENIZERS_PARALLELISM": "false", **environment}
    for name in ("HOME", "HF_HOME", "XDG_CACHE_HOME"):
        if name in environment:
            variables[name] = str(folder / environment[name])
            Path(variables[name]).mkdir(parents=True, exist_ok=True)
    variables["PYTHONPATH"] = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", "from isheep.cli import main; main()", "run", "lamb", *SETTINGS, "--out", "run"]
    process = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, errors="replace")
    assert process.returncode == 0, process.stderr[-2000:]
    paths = sorted(path for path in (folder / "run").rglob("*") if path.is_file() and path.name not in UNCOMPARED)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def all_environments() -> dict[str, str]:
    return {name: value for variables in ENVIRONMENTS.values() for name, value in variables.items()}


@pytest.fixture(scope="module")
def usual_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The files of a run in the environment of the tests."""
    return run_files(tmp_path_factory.mktemp("environment") / "usual", {})


@pytest.mark.slow
@pytest.mark.numeric
def test_a_run_is_the_same_where_everything_around_it_differs(usual_files: dict[str, str], tmp_path: Path) -> None:
    assert "run/iter-1/adapter/tokenizer_config.json" in usual_files
    assert run_files(tmp_path / "a longer name", all_environments()) == usual_files


@pytest.mark.slow
@pytest.mark.numeric
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_run_is_the_same_in_another_environment(name: str, usual_files: dict[str, str], tmp_path: Path) -> None:
    assert run_files(tmp_path / "run of its own", ENVIRONMENTS[name]) == usual_files
