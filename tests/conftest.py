"""Fixtures that several test files share: tiny checkpoints, made once in a test session."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import isheep.sweep
from isheep.report.hook import live_report
from tests.helpers.backends import use_backend
from tests.helpers.browser import start_browser
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.command import isheep as command_line
from tests.helpers.damage import FakeModels, Matrix, copy_of, use_fake_models
from tests.helpers.data_files import DATA
from tests.helpers.function_model import SMALL, write_texts
from tests.helpers.graded_run import make_graded_run
from tests.helpers.lab import Lab
from tests.helpers.recipe_files import TINY_RECIPE

# NLTK reads its data folder from the environment when it is first imported, in whichever test that is.
if (DATA / "nltk_data").exists():
    os.environ.setdefault("NLTK_DATA", str(DATA / "nltk_data"))

# Some virtual machines name AMX among the CPU's features and end a process that uses it: bfloat16 does, in oneDNN.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")


# Runs write no report, which takes seconds, in the tests and in fixtures that many of them share. Runs in processes of
# their own have machine.report=false.
pytest.MonkeyPatch().setattr(isheep.sweep, "live_report", lambda run, is_wanted: contextlib.nullcontext())


@pytest.fixture(autouse=True)
def reports(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs write their reports in tests marked `report`."""
    if request.node.get_closest_marker("report"):
        monkeypatch.setattr(isheep.sweep, "live_report", live_report)


@pytest.fixture(autouse=True)
def forget_the_hub() -> Iterator[None]:
    """Undo what a process remembers of the Hub: whether it answers, and that it is not to be asked any more."""
    is_offline = os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE")
    yield
    if hub := sys.modules.get("isheep.models.hub"):
        hub._is_offline_by_choice.cache_clear()
        hub._hub_problem.cache_clear()
    if constants := sys.modules.get("huggingface_hub.constants"):
        constants.HF_HUB_OFFLINE = is_offline  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium, driven by selenium; skips without one of them."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: pip install isheep[browser]")
    driver = start_browser(webdriver, tmp_path_factory.mktemp("profile"))
    if driver is None:
        pytest.skip("no browser: install chromium and chromium-driver")
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2 checkpoint: no beginning of sequence, ends at <|endoftext|>, chat template "qwen"."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "qwen2", "Qwen2")


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama checkpoint: texts start with <|begin_of_text|>, chat template "llama3"."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "llama", "Llama")


@pytest.fixture(scope="session", params=["qwen2", "llama"])
def checkpoint(request: pytest.FixtureRequest) -> Path:
    """Each of the two in turn."""
    path: Path = request.getfixturevalue(request.param)
    return path


@pytest.fixture(scope="session")
def function_base(tmp_path_factory: pytest.TempPathFactory) -> isheep.RunModel:
    """M^0 of a run whose models are the function `write_texts`; tests give their benchmarks names of their own."""
    run_dir = tmp_path_factory.mktemp("function") / "run"
    return next(iter(isheep.align(isheep.load_recipe("lamb", SMALL), run_dir, engine=write_texts)))


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A fake engine and trainer that count their calls."""
    # The fake model has neither a tokenizer nor a context that prompts could fill.
    monkeypatch.setattr(isheep.sweep, "check_prompt_fits", lambda recipe, chat: None)
    return Lab()


@pytest.fixture
def command_lab(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Return a lab that the commands use."""
    use_backend(monkeypatch, lab.backend)
    return lab


@pytest.fixture
def graded(tmp_path: Path) -> Path:
    """One iteration up to its filter, two more pairs than tasks in the second, and training that has saved step 3."""
    return make_graded_run(tmp_path / "graded")


# --- a run on a real checkpoint, tiny and random


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2 checkpoint whose context holds the synthesis prompt."""
    folder = tmp_path_factory.mktemp("base") / "qwen2"
    return make_checkpoint(folder, "Qwen2", max_position_embeddings=1024)


@pytest.fixture(scope="session")
def recipe(base: Path) -> Path:
    """The file of a recipe with one iteration on it."""
    path = base.with_name("tiny.yaml")
    path.write_text(TINY_RECIPE.format(model=base))
    return path


@pytest.fixture(scope="session")
def aligned(recipe: Path) -> Path:
    """The folder of a finished run of this recipe; tests that change it copy it."""
    run = recipe.with_name("run")
    done = command_line("run", recipe, "--out", run)
    assert done.code == 0 and f"adapter  {run}/iter-1/adapter" in done.out
    return run


# --- runs whose files are damaged


@pytest.fixture(scope="module")
def fake_models() -> Iterator[FakeModels]:
    """Let functions write, rate and train in place of models."""
    with pytest.MonkeyPatch.context() as patch:
        yield use_fake_models(patch.setattr)


@pytest.fixture(scope="module")
def matrix(fake_models: FakeModels, tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    """Runs in several states, made once for a test file."""
    return Matrix(tmp_path_factory.mktemp("matrix"), fake_models)


@pytest.fixture
def finished(matrix: Matrix, tmp_path: Path) -> Path:
    """Return a copy of a finished run."""
    return copy_of(matrix, "finished", tmp_path / "run")


# --- servers


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no server or key of the environment be used."""
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No network, and what a failure leaves behind lies in the tests' own folder."""
    temporary = str(tmp_path_factory.mktemp("temporary"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("VLLM_NO_USAGE_STATS", "1")
        patch.setenv("TMPDIR", temporary)
        patch.setattr("tempfile.tempdir", temporary)
        yield
