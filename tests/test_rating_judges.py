"""A judge of the pairs that is no model of the run: at an endpoint, or another checkpoint on this machine."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from isheep.evaluation.sweep_table import sweep_table
from isheep.lamb import CHECKPOINT as LAMB_CHECKPOINT
from isheep.rundir.run import open_run
from tests.helpers import judge_server
from tests.helpers.command import isheep, refused
from tests.helpers.copies import copy_writable
from tests.helpers.hashes import hash_files
from tests.helpers.judge_server import KEY, Answer, Server, known, said
from tests.helpers.runs import make_run, write_result

SMALL = [
    *("lamb", "iterations=2", "evaluation=[]", "synthesis.tasks=8", "synthesis.batch_size=8", "response.batch_size=4"),
    *("assessment.batch_size=4", "assessment.sampling.temperature=0.5", "filters=[{kind: score, best: 0.5}]"),
    *("training.batch_size=4", "training.max_steps=2", "training.eval_every=1"),
]
AT_ENDPOINT = "assessment.judge={model: judge-1, parameters: {top_p: null}}"
NOTE = "rated by judge-1 at an endpoint: not self-assessment"


def score(message: str, times: int) -> Answer:
    """The endpoint rates by the length of what it is asked, and calls itself wrong."""
    return said(f"{1 + len(message) % 10}||because")


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with judge_server.serving(score) as server:
        known(server, monkeypatch)
        yield server


def run(*words: Any) -> str:
    """Run to the end, and return what was printed."""
    done = isheep("run", *map(str, words))
    assert done.code == 0, done.err
    return done.out + done.err


def test_an_endpoint_rates_every_iteration_and_every_table_says_so(endpoint: Server, tmp_path: Path) -> None:
    out = tmp_path / "run"
    text = run(*SMALL, AT_ENDPOINT, "--out", out)
    assert text.count(NOTE) == 1 and "judge judge-1: 16 calls; about" in text and "judge judge-1: 16 answered" in text
    body = endpoint.bodies[-1]
    assert len(endpoint.bodies) == 32 and body["model"] == "judge-1" and body["temperature"] == 0.5
    assert "top_p" not in body and body["max_tokens"] == 24 and "stop" not in body
    assert [message["role"] for message in body["messages"]] == ["user"] and endpoint.keys == {f"Bearer {KEY}"}
    assert KEY not in "".join(path.read_text() for path in out.rglob("*.json*")) + (out / "recipe.yaml").read_text()
    for iteration in (1, 2):
        rows = [json.loads(line) for line in (out / f"iter-{iteration}/assessed.jsonl").read_text().splitlines()]
        assert {grade["reply"].partition("||")[2] for row in rows for grade in row["grades"].values()} == {"because"}
    assert NOTE in isheep("status", out).out and NOTE in isheep("show", out, "1").out
    assert json.loads(isheep("status", out, "--json").out)["judge_note"] == NOTE


@pytest.mark.slow
def test_calibration_asks_the_endpoint_again_and_compares_it_with_the_current_model(
    endpoint: Server, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run(*SMALL, "iterations=1", AT_ENDPOINT, "--out", out)
    num_asked = len(endpoint.bodies)
    done = isheep("judge-calibration", out, "--pairs", "4")
    assert done.code == 0 and "another: judge-1, not self-assessment" in done.out and "current judge" in done.out
    # The same pairs with other seeds: neither is taken from the log.
    assert len(endpoint.bodies) == num_asked + 8
    values = json.loads((out / "iter-1" / "judge_calibration.json").read_text())
    assert values["judge"] == "judge-1, not self-assessment" and values["comparisons"]["expected score"] is None
    assert values["comparisons"]["current judge"].keys() == {"quality", "following"}


@pytest.mark.slow
def test_no_paid_answer_is_lost_if_calls_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ratings of one criterion fail; the run ends, and the next one asks only for what is missing."""
    is_failing = [True]

    def fail_some(message: str, times: int) -> Answer:
        fails = is_failing[0] and "adherence to instructions" in message
        return Answer(400, {"error": "no"}) if fails else score(message, times)

    words = [*SMALL, "iterations=1", AT_ENDPOINT, "--out"]
    with judge_server.serving(fail_some) as server:
        known(server, monkeypatch)
        done = isheep("run", *words, tmp_path / "run")
        message = done.err.splitlines()[-1]
        assert done.code == 2 and "calls to the judge 'judge-1' failed (HTTP 400" in message
        assert "the other answers are kept in judge.jsonl: run the same command to continue" in message
        assert len((tmp_path / "run" / "judge.jsonl").read_text().splitlines()) == 4
        is_failing[0] = False
        run(tmp_path / "run")
        assert len(server.answered) == 16 and max(server.answered.values()) == 1
        run(*words, tmp_path / "whole")
    files = [{k: v for k, v in hash_files(tmp_path / name).items() if k != "judge.jsonl"} for name in ("run", "whole")]
    assert files[0] == files[1]


def test_an_endpoint_is_checked_before_anything_is_generated(
    endpoint: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    message = refused("run", *SMALL, AT_ENDPOINT, "--out", tmp_path / "run")
    assert "judge 'judge-1' at http://127.0.0.1:9/v1: no connection" in message and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([AT_ENDPOINT, "assessment.read=expected"], "assessment.read: a judge at an endpoint gives texts and no prob"),
        ([AT_ENDPOINT, "assessment.read=constrained"], "assessment.read: a judge at an endpoint gives texts and no pr"),
        ([AT_ENDPOINT, "assessment.on_unreadable=constrain"], "assessment.on_unreadable: a judge at an endpoint can't"),
        ([AT_ENDPOINT, "assessment.chat=true"], "assessment.chat: a judge at an endpoint has a chat template of its"),
        (
            ["assessment.judge={model: lamb, local: true, parameters: {seed: 1}}"],
            "assessment.judge.parameters: they",
        ),
        (["assessment.judge=gpt"], "assessment.judge must be current, base, or a mapping such as {model: NAME} for a"),
        (["assessment.judge={local: true}"], "key 'assessment.judge.model' is missing"),
        (
            ["assessment.judge={model: x, config: y}"],
            "unknown key 'config' in assessment.judge: it has model, local",
        ),
        (["assessment.judge={model: no/such, local: true}"], "no/such"),
    ],
)
def test_judges_that_can_not_rate_are_refused(words: list[str], message: str, tmp_path: Path) -> None:
    assert message in refused("run", *SMALL, *words, "--out", tmp_path / "run")


@pytest.mark.slow
def test_another_checkpoint_rates_with_every_way_to_read(tmp_path: Path) -> None:
    checkpoint = tmp_path / "judge"
    copy_writable(LAMB_CHECKPOINT, checkpoint)
    judge = [f"assessment.judge={{model: {checkpoint}, local: true}}", "assessment.read=constrained"]
    words = [*SMALL, "iterations=1", "assessment.explain=false", "--out"]
    text = run(*words, tmp_path / "run", *judge)
    # A long path is folded anywhere.
    assert f"ratedby{checkpoint}onthismachine:notself-assessment" in "".join(text.split())
    # The same weights as the base, which rates the first iteration of a run without another judge.
    run(*words, tmp_path / "own", "assessment.read=constrained")
    rows = [(tmp_path / name / "iter-1" / "assessed.jsonl").read_bytes() for name in ("run", "own")]
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_a_model_of_another_run_rates(tmp_path: Path) -> None:
    run(*SMALL, "iterations=1", "assessment.read=constrained", "assessment.explain=false", "--out", tmp_path / "judge")
    judge = f"assessment.judge={{model: {tmp_path / 'judge'}, local: true}}"
    words = [*SMALL, "iterations=1", "assessment.read=expected", "--out", tmp_path / "run"]
    run(*words, judge)
    assert (tmp_path / "run" / "iter-1" / "adapter").is_dir()


@pytest.mark.slow
def test_a_run_goes_on_with_the_judge_that_it_began_with(tmp_path: Path) -> None:
    checkpoint, out = tmp_path / "judge", tmp_path / "run"
    copy_writable(LAMB_CHECKPOINT, checkpoint)
    judge = f"assessment.judge={{model: {checkpoint}, local: true}}"
    run(*SMALL, "iterations=1", "assessment.read=expected", "--out", out, judge)
    digests = json.loads((out / "judges.json").read_text())
    assert list(digests) == [str(checkpoint)]
    config = checkpoint / "config.json"
    content = config.read_text()
    config.write_text(content + " ")
    # What is complete needs no judge.
    assert "nothing to do" in run(out)
    message = refused("run", out, "iterations=2")
    assert f"judge {checkpoint} is another model than when run {out} began (judges.json in it): put it back" in message
    assert "iterations=2" not in (out / "recipe.yaml").read_text() and "--fork run-2" in message
    # Another run takes over no ratings of that judge, but everything before them.
    text = run(out, "--fork", "run-2")
    taken, new = text.split("iteration 1: taken over from ")[1].split("made new: ")
    assert "answers" in taken and "ratings" in new.splitlines()[0]
    config.write_text(content)
    run(out, "iterations=2")
    assert json.loads((out / "judges.json").read_text()) == digests
    # A run of an earlier version has no digests, and goes on.
    (out / "judges.json").unlink()
    shutil.rmtree(out / "iter-2")
    run(out)
    assert json.loads((out / "judges.json").read_text()) == digests


@pytest.mark.slow
def test_a_judge_whose_run_goes_on_is_another_judge(tmp_path: Path) -> None:
    judge, out = tmp_path / "judge", tmp_path / "run"
    words = [*SMALL, "assessment.read=expected"]
    run(*words, "iterations=1", "--out", judge)
    run(*words, "iterations=1", "--out", out, f"assessment.judge={{model: {judge}, local: true}}")
    run(judge, "iterations=2")
    assert f"judge {judge} is another model than when" in refused("run", out, "iterations=2")


def test_a_comparison_and_the_table_of_a_sweep_say_who_rated(tmp_path: Path) -> None:
    out = make_run(tmp_path / "one", iterations=1, assessment={"judge": {"model": "judge-1"}})
    for name, items in (("base", [True, False] * 20), ("iter-1", [True] * 40)):
        write_result(out, name, "lamb", {"scores": {"right": {"items": items}}})
    compared = isheep("compare", out).out
    assert f"iteration 1 ({NOTE})" in " ".join(compared.split()) and compared.count(NOTE.split(":")[0]) == 1
    recipe, _ = open_run(out)
    with (console := Console(width=100)).capture() as capture:
        console.print(sweep_table({"one": recipe}, tmp_path))
    assert f"one: {NOTE}" in capture.get()
