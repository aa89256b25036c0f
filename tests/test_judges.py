"""Judges at a real server on loopback that fails, stalls and babbles; killed, started again, never paid twice."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from isheep.api import load_recipe
from isheep.backends import local_model
from isheep.benchmarks import mt_bench
from isheep.benchmarks.support import fastchat
from isheep.cli import main
from isheep.engines.function import SeededFunctionEngine
from isheep.errors import UserError
from isheep.evaluation.evaluate import evaluate
from isheep.judges.base import LocalJudge
from isheep.judges.endpoint import EndpointJudge
from isheep.models.chat_template import load_chat_template
from isheep.openai_client.answers import retry_after
from isheep.recipe.evaluation import BenchmarkSettings, JudgeSettings
from isheep.recipe.machine import Machine
from isheep.recipe.schema import Recipe
from isheep.records import Model
from isheep.rundir.atomic import write_json
from isheep.rundir.folder import RunFolder
from isheep.rundir.run import FORMAT, VERSION_FILE
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.judge_server import KEY, Answer, Server, known, said, serving
from tests.helpers.judged import HASTE, alpaca_files, exam, mt_bench_files

COUNT = 18
TROUBLE = ("500", "stall", "babble", "not json", "429", "no choices")


def plan(message: str) -> tuple[str, int]:
    """What the server does with a judge prompt, and the rating that it would give: a third of the calls go wrong."""
    question, turn = int(re.findall(r"Ask (\d+)", message)[0]), "multi-turn" in message
    location = 2 * question + turn
    return (TROUBLE[location // 3 % 6] if location % 3 == 0 else "ok"), 1 + location % 10


def troubled(message: str, earlier: int) -> Answer:
    kind, score = plan(message)
    if kind == "500":
        return Answer(500, {"error": {"message": f"broken, {KEY} was the key"}})
    if kind == "stall":
        return Answer(200, {}, hold=stalled)
    if kind == "babble":
        return said(f"I like it \ud800, said {KEY}, and that is that.")  # json.dumps writes the half as an escape
    if kind == "not json":
        return Answer(200, f"<html>{KEY}</html>".encode())
    if kind == "no choices":
        return Answer(200, {"choices": [], "usage": None})
    if kind == "429" and earlier == 0:
        return Answer(429, {"error": "slow down"}, {"retry-after": "0"})
    return said(f"Good. Rating: [[{score}]]")


stalled = threading.Event()


def read_scores() -> list[int | None]:
    """What can be read of all calls, by question and turn."""
    indices = [plan(f"Ask {location // 2} {'multi-turn' if location % 2 else ''}") for location in range(2 * COUNT)]
    return [score if kind in ("ok", "429") else None for kind, score in indices]


@pytest.fixture(scope="module")
def checkpoint(qwen2: Path) -> Path:
    return qwen2


def files_of(folder: Path) -> str:
    return "".join(path.read_text(encoding="utf-8", errors="replace") for path in folder.rglob("*") if path.is_file())


def test_a_third_of_the_calls_fails_and_the_rest_is_scored_right(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    data = mt_bench_files(tmp_path / "data", COUNT)
    with serving(troubled) as server:
        known(server, monkeypatch)
        result = mt_bench.run(exam(tmp_path / "run", data, checkpoint))
        first = Counter(server.asked)
        again = mt_bench.run(exam(tmp_path / "run", data, checkpoint))  # nothing but the result was lost
        stalled.set()
    expected = read_scores()
    read = [score for score in expected if score is not None]
    assert result.scores["MT-Bench"].items == expected and again == result
    assert result.details["averages"]["average"] == pytest.approx(sum(read) / len(read), abs=1e-12)
    assert result.details["judge"]["outcomes"] == {"ok": 26, "unreadable": 6, "error": 4}
    assert result.details["judge"]["errors"] == {"HTTP 500": 2, "timed out": 2}
    assert result.details["judge"]["tokens"] == {"read": 2800, "written": 196, "unknown": 4}
    for message, times in first.items():  # asked again only where that may help
        kind, _ = plan(message)
        assert times == {"500": 2, "stall": 2, "429": 2}.get(kind, 1)
        assert server.asked[message] - times == (2 if kind in ("500", "stall") else 0)
    assert len(first) == 2 * COUNT and set(server.answered.values()) == {1}
    rows = fastchat.read_judgments(tmp_path / "run/iter-1/eval/exam/model_judgment/gpt-4_single.jsonl")
    assert [fastchat.score_of(row) for row in rows] == expected
    assert Counter(row["judgment"] for row in rows)["$ERROR$"] == 4
    printed = capfd.readouterr()
    assert server.keys == {f"Bearer {KEY}"}
    assert KEY not in files_of(tmp_path) + printed.out + printed.err and "[key]" in files_of(tmp_path)


def test_what_it_costs_is_said_before_and_after(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    data = mt_bench_files(tmp_path / "data", 2)
    with serving(lambda message, earlier: said("[[7]]")) as server:
        known(server, monkeypatch)
        for price in (None, (30.0, 60.0)):
            judge = EndpointJudge("judge-1", HASTE.model_copy(update={"price": price}))
            mt_bench.run(exam(tmp_path / f"run{price is None}", data, checkpoint, judge))
        mt_bench.run(exam(tmp_path / "runFalse", data, checkpoint, judge))
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("judge ")]
    assert lines[0].startswith("judge judge-1: 4 calls; about ") and lines[0].count("unknown (machine.judging.price)")
    assert lines[1] == (
        "judge judge-1: 4 answered; 400 tokens read, 28 written; cost in all unknown (machine.judging.price)"
    )
    assert "at most 8,192 to write; cost 0.00 to 0.49" in lines[2]
    assert lines[3].endswith("cost in all 0.01")
    assert lines[4] == "judge judge-1: 4 calls, 4 of them kept from before: nothing to pay"
    assert {(body["model"], body["temperature"], body["max_tokens"]) for body in server.bodies} == {
        ("judge-1", 0, 2048)
    }


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_wrong_key_or_name_is_told_after_one_call(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    data = mt_bench_files(tmp_path / "data", 4)
    with serving(lambda message, earlier: Answer(status, {"error": {"message": f"no: {KEY}"}})) as server:
        known(server, monkeypatch)
        with pytest.raises(UserError, match=rf"judge 'gpt-4' at http://127.*HTTP {status}: no: \[key\]; set OPENAI_"):
            mt_bench.run(exam(tmp_path / "run", data, checkpoint))
    assert sum(server.asked.values()) == 1


def test_no_endpoint_a_wrong_one_and_one_that_never_answers(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = mt_bench_files(tmp_path / "data", 2)
    for url, key, why in (
        ("", "", "no judge to ask: set OPENAI_BASE_URL and OPENAI_API_KEY"),
        ("localhost:1/v1", KEY, "OPENAI_BASE_URL 'localhost:1/v1' is not a web address"),
        ("http://me:hidden@127.0.0.1:1/v1", KEY, "at http://127.0.0.1:1/v1: no connection"),
        ("http://127.0.0.1:1/v1", f"{KEY}\nmore", "OPENAI_API_KEY contains characters"),
    ):
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(UserError, match=re.escape(why)) as caught:
            mt_bench.run(exam(tmp_path / "run", data, checkpoint))
        assert KEY not in str(caught.value) and "hidden" not in str(caught.value)
    with serving(lambda message, earlier: Answer(503, {})) as server:
        known(server, monkeypatch)
        with pytest.raises(UserError, match=r"none of 4 calls to the judge 'gpt-4' was answered \(HTTP 503\)"):
            mt_bench.run(exam(tmp_path / "run", data, checkpoint))


def test_how_long_to_wait_is_what_the_endpoint_asks() -> None:
    assert retry_after({"retry-after": "7.5"}) == 7.5
    assert retry_after({"retry-after": "Wed, 21 Oct 2099 07:28:00 GMT"}) > 1e9
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert retry_after({"retry-after": "soon"}) == retry_after({"retry-after": "nan"}) == retry_after({}) == 0
    # The server's own clock counts, whatever ours says.
    dates = {"date": "Wed, 21 Oct 2015 07:28:00 GMT", "retry-after": "Wed, 21 Oct 2015 07:28:30 GMT"}
    assert retry_after(dates) == 30


def test_a_torn_line_is_asked_again_and_nothing_else(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = mt_bench_files(tmp_path / "data", 4)
    with serving(lambda message, earlier: said("[[7]]")) as server:
        known(server, monkeypatch)
        mt_bench.run(exam(tmp_path / "run", data, checkpoint))
        kept = tmp_path / "run/judge.jsonl"
        kept.write_bytes(kept.read_bytes()[:-20])
        mt_bench.run(exam(tmp_path / "run", data, checkpoint))
        mt_bench.run(exam(tmp_path / "run", data, checkpoint))
    assert sorted(server.answered.values()) == [1] * 7 + [2]


# --- killed midway, through the command line

RECIPE = """
model: {model}
iterations: 1
synthesis:  {{tasks: 4, examples: 1, rules: false, novelty: null, batch_size: 4,
             sampling: {{max_tokens: 64, stop: [e]}}}}
response:   {{batch_size: 2, sampling: {{max_tokens: 8}}}}
assessment: null
filters:    []
training:   {{epochs: 1, batch_size: 2, cutoff: 128, warmup_steps: 0}}
evaluation: [{{name: mt_bench, data: {data}, max_tokens: 4, judge: {{model: the judge}}}}]
machine:    {{threads: 1, device: cpu, judging: {{max_in_flight: 4, retry_wait: 0}}}}
"""


def written(folder: Path) -> tuple[Path, Path]:
    """A recipe on a tiny checkpoint, and where its run is to be."""
    model = make_checkpoint(folder / "model", "Qwen2", max_position_embeddings=1024)
    (folder / "recipe.yaml").write_text(RECIPE.format(model=model, data=mt_bench_files(folder / "data", 6)))
    return folder / "recipe.yaml", folder / "run"


def start(recipe: Path, out: Path, server: Server) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", "from isheep.cli import main; main()", "run", str(recipe), "--out", str(out)]
    environment = os.environ | {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": KEY, "OMP_NUM_THREADS": "1"}
    silent: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    return subprocess.Popen(command, text=True, env=environment, **silent)


def test_a_killed_run_pays_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe, out = written(tmp_path)
    waiting, enough = threading.Semaphore(0), threading.Event()

    def answer(message: str, earlier: int) -> Answer:
        if len(server.answered) < 5 or enough.is_set():
            return said("[[8]]")
        waiting.release()
        return Answer(200, {}, hold=enough)

    with serving(answer) as server:
        run = start(recipe, out, server)
        for _ in range(4):  # every thread waits for an answer: what was answered before is on disk
            assert waiting.acquire(timeout=120)
        run.send_signal(signal.SIGKILL)
        run.communicate()
        answered = Counter(server.answered)
        enough.set()
        known(server, monkeypatch)
        with pytest.raises(SystemExit) as end:
            main(["run", str(recipe), "--out", str(out)])
    printed = "".join(capfd.readouterr())
    assert not end.value.code, printed
    assert len(answered) >= 5 and not {message for message in answered if server.answered[message] > 1}
    for location in ("base", "iter-1"):
        result = json.loads((out / location / "eval/mt_bench.json").read_text())
        assert result["details"]["averages"] == {"average": 8, "first_turn": 8, "second_turn": 8}
        assert result["details"]["judge"]["outcomes"] == {"ok": 12, "unreadable": 0, "error": 0}
        assert result["details"]["judge"]["model"] == "the judge"
        assert (out / location / f"eval/mt_bench/model_answer/{location}.jsonl").is_file()
    assert KEY not in files_of(out) + printed
    assert json.loads((out / "base/eval/mt_bench.json").read_text())["template"] == "plain"


@pytest.mark.parametrize("earlier", [0, 5])
@pytest.mark.slow
def test_a_run_that_is_told_to_end_keeps_the_calls_under_way(
    earlier: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe, out = written(tmp_path)
    waiting, notified = threading.Semaphore(0), threading.Event()

    def answer(message: str, prompts_seen: int) -> Answer:
        if sum(server.asked.values()) < earlier:
            return said("[[8]]")
        waiting.release()
        return said("[[8]]")._replace(hold=notified)

    with serving(answer) as server:
        run = start(recipe, out, server)
        for _ in range(4 if earlier else 1):  # the first call is made by itself
            assert waiting.acquire(timeout=120)
        run.send_signal(signal.SIGTERM)
        notified.set()
        printed = run.communicate()[0]
        assert run.returncode == 130 and "interrupted; everything finished is saved" in printed, printed
        known(server, monkeypatch)
        with pytest.raises(SystemExit) as end:
            main(["run", str(recipe), "--out", str(out)])
    assert not end.value.code, "".join(capfd.readouterr())
    assert {*server.asked.values()} == {1}


# --- a judge of ours


def test_a_model_of_ours_judges_and_is_labelled(tmp_path: Path, checkpoint: Path) -> None:
    data, seen = mt_bench_files(tmp_path / "data", 3), []

    def judge(prompt: str, seed: int) -> str:
        seen.append(prompt)
        return "no rating" if "Ask 2" in prompt else " Fine: [[6]]<|im_end|>more"

    actual = LocalJudge(
        "runs/mine", lambda: (SeededFunctionEngine(judge), load_chat_template("qwen", str(checkpoint))), 1
    )
    result = mt_bench.run(exam(tmp_path / "run", data, checkpoint, actual))
    assert result.details["judge"]["model"] == "runs/mine" and result.details["judge"]["kind"] == "local"
    assert "a model of ours" in result.notes[0]
    assert result.scores["MT-Bench"].items == [6, 6, 6, 6, None, None]
    assert result.details["judge"]["outcomes"] == {"ok": 4, "unreadable": 2, "error": 0}
    assert seen[1].startswith("<|im_start|>system\nJudge.<|im_end|>\n<|im_start|>user\nsingle-v1-multi-turn")
    assert seen[1].endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert mt_bench.run(exam(tmp_path / "run", data, checkpoint, actual)) == result and len(seen) == 6
    replies = tmp_path / "run/iter-1/eval/exam/replies-runs-mine.jsonl"
    replies.write_text(replies.read_text().replace('"key":"', '"key":"0'))
    with pytest.raises(UserError, match="replies to other questions: delete it to have the judge asked again"):
        mt_bench.run(exam(tmp_path / "run", data, checkpoint, actual))


def test_a_real_model_judges_in_its_context(tmp_path: Path) -> None:
    """A judge whose context is short, through the recipe's door: what does not fit is a call that failed."""
    model = make_checkpoint(tmp_path / "model", "Qwen2", max_position_embeddings=2048)
    short = make_checkpoint(tmp_path / "judge", "Qwen2", seed=1, max_position_embeddings=512)
    data = mt_bench_files(tmp_path / "data", 3)
    questions = data / "question.jsonl"
    questions.write_text(questions.read_text().replace("And 2", f"And {'long ' * 300} 2"))
    alpaca = alpaca_files(tmp_path / "alpaca", 3)
    judge = JudgeSettings(model=str(short), local=True, parameters={"max_tokens": 4})
    recipe = Recipe(
        model=str(model),
        chat_template="qwen",
        evaluation=(
            BenchmarkSettings(name="mt_bench", data=str(data), max_tokens=4, judge=judge),
            BenchmarkSettings(name="alpaca_eval_2", data=str(alpaca), max_tokens=4, judge=judge),
        ),
        machine=Machine(threads=1, device="cpu"),
    )
    run = RunFolder(tmp_path / "run", tmp_path / "run")
    run.path.mkdir()
    result = evaluate(recipe, run, 0, Model(str(model)))
    outcomes = result["mt_bench"].details["judge"]["outcomes"]
    assert outcomes["error"] == 1 and sum(outcomes.values()) == 6
    assert result["mt_bench"].details["judge"]["errors"] == {"the prompt does not fit its context": 1}
    assert "1 calls failed, of 6; they are left out" in result["mt_bench"].notes[1]
    assert result["mt_bench"].details["judge"]["kind"] == "local" and result["mt_bench"].details["judge"][
        "model"
    ] == str(short)
    assert result["alpaca_eval_2"].details["judge"]["outcomes"] == {"ok": 3, "unreadable": 0, "error": 0}
    assert all(0 < value < 100 for value in result["alpaca_eval_2"].scores["win rate, %"].items)
    assert evaluate(recipe, run, 0, Model(str(model))) == result


def test_a_judge_is_found_by_its_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for iteration in ("iter-2", "iter-10", "base"):
        (run / iteration / ("adapter" if iteration != "base" else "eval")).mkdir(parents=True)
    (run / "recipe.yaml").write_text("model: lamb\nchat_template: llama3\niterations: 10\n")
    write_json(run / VERSION_FILE, {"format": FORMAT})
    assert local_model(str(run)) == (Model("lamb", run / "iter-10/adapter"), "llama3")
    assert local_model(str(run / "iter-2")) == (Model("lamb", run / "iter-2/adapter"), "llama3")
    assert local_model(str(run / "base")) == (Model("lamb", None), "llama3")
    assert local_model("lamb") == (Model("lamb", None), "tokenizer")
    with pytest.raises(UserError, match="no model of that run: give base, iter-10, iter-2 in it"):
        local_model(str(run / "iter-3"))


@pytest.mark.parametrize(
    ("evaluation", "why"),
    [
        ("[mt_bench]", "evaluation.0: mt_bench reads the original's files, which don't come with isheep"),
        ("[lamb, {name: alpaca_eval}]", "evaluation.1: alpaca_eval reads the original's files"),
        ("[{name: lamb, judge: {model: gpt-4}}]", "evaluation.0: lamb asks no judge"),
        ("[{name: mt_bench, data: d, judge: {local: true}}]", "a local judge is a model of yours"),
        ("[{name: mt_bench, data: d, judge: {config: c}}]", "judge.config names a judge configuration of AlpacaEval"),
        ("[{name: mt_bench, data: d, judge: {modle: gpt-4}}]", "did you mean 'model'?"),
    ],
)
def test_a_recipe_that_can_not_be_judged_is_refused_before_it_runs(tmp_path: Path, evaluation: str, why: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"model: lamb\nevaluation: {evaluation}\nmachine: {{judging: {{price: [30, 60.5]}}}}\n")
    with pytest.raises(UserError, match=re.escape(why)):
        load_recipe(path)
