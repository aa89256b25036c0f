"""The live view of a run, its plain lines, and isheep run --watch."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import isheep
from isheep.cli import main
from isheep.cli.live_view import PlainLines, count_texts
from isheep.cli.run_watch import watch_run
from isheep.engines.transformers import open_engine
from isheep.records import Model, Sampling
from isheep.rundir import progress
from isheep.rundir.progress import Tracker
from isheep.rundir.run import lock_run
from isheep.rundir.snapshot import PROGRESS_FILE, Snapshot, expected_tokens, read_snapshot
from tests.helpers import command
from tests.helpers.command import ROOT, refused
from tests.helpers.function_model import SMALL, write_texts
from tests.helpers.runs import make_run
from tests.helpers.terminal import terminal

ENGINE = '''
import os
from isheep.engines.function import FunctionEngine
from tests.helpers.function_model import write_texts


def write(prompts):
    """Texts of which the last, which is shown, attacks the terminal; waits once if the test says so."""
    if "READY" in os.environ:
        os.write(int(os.environ.pop("READY")), b"x")
        os.read(int(os.environ["GO"]), 1)
    *texts, last = write_texts(prompts)
    return [*texts, last + " [bold red]\\x1b]0;title\\x07" if last.startswith("It is") else last]


def open_engine(recipe, model):
    return FunctionEngine(write)
'''


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """The command line of a run on lamb with a function as its engine."""
    (tmp_path / "engine.py").write_text(ENGINE)
    settings = {**SMALL, "machine.engine": f"{tmp_path / 'engine.py'}:open_engine", "evaluation": "[lamb]"}
    settings["machine.report"] = "false"
    settings["filters"] = "[{kind: score, at_least: 8}]"
    overrides = [f"{key}={value}" for key, value in settings.items()]
    return ["run", "lamb", *overrides, "--allow-code", "--out", str(tmp_path / "run")]


# --- what is counted


def test_the_time_left_counts_every_decoding_step() -> None:
    """The first estimate is the worst case; requests that end early make it shorter."""
    now = [0.0]
    tracker = Tracker(lambda: now[0])

    def seconds_left() -> float | None:
        snapshot = tracker.snapshot()
        assert snapshot
        return snapshot.seconds_left

    with tracker.stage("iter-1/pairs.jsonl", total=10):
        tracker.expect(100)
        assert seconds_left() is None
        for _ in range(3):
            now[0] += 1
            tracker.report(tokens=10)
        # 10 tokens in a second, and 30 of 10 times 100 tokens are written.
        assert seconds_left() == 97
        now[0] += 1
        tracker.report(tokens=10, rows=4)
        # 40 tokens for 4 rows that have ended, and a row of full length: (40 + 100) / 5 = 28 tokens of each.
        assert seconds_left() == (280 - 40) / 10
        snapshot = tracker.snapshot()
        assert snapshot and snapshot.rows == 4 and snapshot.tokens_per_second == 10


def test_the_time_left_is_shown_once_enough_is_measured() -> None:
    """The first step of many says little: it takes 2% of the work, or 5 seconds and 10 answers."""
    now = [0.0]
    tracker = Tracker(lambda: now[0])

    def shown() -> str:
        snapshot = tracker.snapshot()
        assert snapshot
        return count_texts(snapshot)[-1]

    with tracker.stage("iter-1/pairs.jsonl", total=1000):
        tracker.expect(500)
        # The worst case would be 9 hours here, and it is one after ten answers.
        for _ in range(6):
            now[0] += 1
            tracker.report(tokens=16)
            assert shown() == f"{now[0]:.0f} s so far, estimating the time left"
        tracker.report(tokens=4, rows=10)
        assert shown() == "about 54 min left"
    with tracker.stage("iter-1/assessed.jsonl", total=1000) as advance:
        advance(1)
        assert shown().endswith("estimating the time left")
        now[0] += 5
        advance(1)
        assert shown() == "about 83 min left"
    with tracker.stage("iter-1/adapter", total=4, unit="steps") as advance:
        for _ in range(2):
            now[0] += 0.5
            advance(1)
        # A quarter of the steps is enough, whatever the time.
        assert shown() == "about 1 s left"


def test_rows_of_several_requests_are_counted_as_rows() -> None:
    tracker = Tracker(lambda: 0.0)
    with tracker.stage("iter-2/assessed.jsonl", total=8, num_done=2, requests_per_row=2) as advance:
        tracker.report(rows=5)
        assert (snapshot := tracker.snapshot()) and snapshot.rows == 2 + 2
        advance(3)
        assert (snapshot := tracker.snapshot()) and snapshot.rows == 2 + 3
    assert snapshot.iteration == 2 and snapshot.stage == "Rating" and tracker.snapshot() is None


def test_an_answer_without_a_limit_is_estimated_from_those_that_ended() -> None:
    assert expected_tokens(10, 0, 50, None) is None
    assert expected_tokens(10, 5, 50, None) == 100


def test_the_transformers_engine_reports_tokens_and_rows(qwen2: Path) -> None:
    prompts = ["one two", "three", "four five six"] * 3
    with progress.stage("iter-1/pairs.jsonl", len(prompts)):
        engine = open_engine(Model(str(qwen2)), threads=1, device="cpu", batch=4)
        completions = engine.generate(prompts, Sampling(max_tokens=6, temperature=1.0), seed=1)
        counts = progress.tracker.stages[-1]
        assert counts.num_tokens == sum(completion.tokens for completion in completions)
        assert counts.num_requests == len(prompts) and counts.limit == 6
        engine.choices(prompts, [" a", " b"])
        engine.logprobs(prompts, ["x"] * len(prompts))
        engine.embed(prompts)
        assert counts.num_requests == 4 * len(prompts)


# --- what is shown


def test_the_live_view_on_a_terminal(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as screen, pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 0
    for text in ("Base model · Evaluating lamb", "Iteration 1 of 1 · Writing instructions", "· Writing answers"):
        assert text in screen.text
    for text in (
        "· Rating",
        "· Training",
        "Iteration 1 of 1 · Evaluating lamb",
        "tasks: 8 of 8",
        "kept so far: 8 of 8",
    ):
        assert text in screen.text
    assert "2 of 2 steps" in screen.text and "loss: " in screen.text and "tokens/s" in screen.text
    # An example is shown, its markup as it is, and its control characters escaped.
    assert "[bold red]\\x1b]0;title\\x07" in screen.text and "\x1b]" not in screen.raw and "\x07" not in screen.raw
    assert not (tmp_path / "run" / PROGRESS_FILE).exists()


def test_the_kept_share_is_by_the_filters_of_the_iteration(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    own = "iteration={1: {filters: [{kind: score, at_least: 1}]}}"
    with terminal(monkeypatch) as screen, pytest.raises(SystemExit):
        main([*words, "filters=[{kind: score, at_least: 10}]", own])
    assert "kept so far: 8 of 8" in screen.text


def test_a_pipe_gets_plain_lines(words: list[str]) -> None:
    done = command.isheep(*words)
    assert done.code == 0 and "\x1b" not in done.err
    assert "iter-1/pairs.jsonl: 8 rows" in done.err


def test_plain_lines_come_every_30_seconds_at_most(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each call of the model takes 12 seconds of the test's clock."""
    now = [0.0]

    def write(prompts: list[str]) -> Sequence[str]:
        now[0] += 12
        return write_texts(prompts)

    recipe = isheep.load_recipe("lamb", {**SMALL, "response.batch_size": 1, "assessment.batch_size": 1})
    with progress.listen(PlainLines(lambda: now[0]).show):
        isheep.align(recipe, tmp_path / "run", engine=write).run()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Iteration 1 of 1, ")]
    # 17 calls take 204 seconds, and a line is due with every third one.
    assert 1 < len(lines) <= 204 / 30
    assert any("Writing answers: " in line and " of 8 rows" in line for line in lines)


def test_the_python_api_shows_no_view(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as screen:
        isheep.align(isheep.load_recipe("lamb", SMALL), tmp_path / "run", engine=write_texts).run()
    assert "Iteration 1" not in screen.text and "\x1b" not in screen.raw


# --- isheep run --watch


def test_watching_a_run_of_another_process(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model of the other process waits, first until the test has looked once, then it goes on to the end."""
    (ready, is_ready), (go_on, go) = os.pipe(), os.pipe()
    environment = {**os.environ, "READY": str(is_ready), "GO": str(go_on), "PYTHONPATH": str(ROOT)}
    code = "from isheep.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        env=environment, pass_fds=(is_ready, go_on), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(is_ready)
    assert os.read(ready, 1) == b"x"
    num_looks = 0

    def wait(seconds: float) -> None:
        nonlocal num_looks
        num_looks += 1
        if num_looks == 1:
            os.write(go, b"x")
        process.wait()

    with terminal(monkeypatch) as screen:
        watch_run(tmp_path / "run", wait)
    assert process.returncode == 0 and num_looks == 1
    assert "Base model · Evaluating lamb" in screen.text
    assert "has ended; see isheep status" in capsys.readouterr().out


def test_a_pipe_watches_in_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = make_run(tmp_path / "run")
    with lock_run(run_dir), progress.run(run_dir, 2), progress.stage("iter-2/pairs.jsonl", 40, 8):

        def interrupt(seconds: float) -> None:
            raise KeyboardInterrupt

        watch_run(run_dir, interrupt)
    output = capsys.readouterr()
    assert output.err.startswith("Iteration 2 of 2, Writing answers: 8 of 40 rows")
    assert output.out == f"not watching any more; the run in {run_dir} goes on\n"


def test_no_run_is_under_way(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run")
    done = command.isheep("run", "--watch", run_dir)
    assert done.code == 0 and done.out == f"no run is under way in {run_dir}; see isheep status {run_dir}\n"
    assert "is not a run folder" in refused("run", "--watch", tmp_path)
    for words in (["lamb"], ["--fork", "other"], ["--reuse", run_dir], ["--unsafe-code"]):
        assert "only shows another run: give it alone" in refused("run", "--watch", run_dir, *words)


@pytest.mark.parametrize("content", [None, "", "{", '{"stage": 3}', "\udcff"])
def test_a_missing_or_damaged_file_is_one_line(tmp_path: Path, content: str | None) -> None:
    run_dir = make_run(tmp_path / "run")
    if content is not None:
        (run_dir / PROGRESS_FILE).write_text(content, errors="surrogateescape")
    with lock_run(run_dir):
        message = refused("run", "--watch", run_dir)
    assert "reports no progress" in message if content is None else f"{PROGRESS_FILE} is damaged" in message


def test_a_run_folder_that_cannot_be_written_to_does_not_end_the_run(tmp_path: Path) -> None:
    """The file is only for `isheep run --watch`."""
    with progress.run(tmp_path, 1):
        (tmp_path / f"{PROGRESS_FILE}.part").mkdir()
        with progress.stage("iter-1/pairs.jsonl", 1):
            assert read_snapshot(tmp_path) is None
        (tmp_path / f"{PROGRESS_FILE}.part").rmdir()
        with progress.stage("iter-1/pairs.jsonl", 1):
            looked = read_snapshot(tmp_path)
            assert looked and isinstance(looked[0], Snapshot)
