"""The openai engine at servers that fail: calls are tried again, and no answer is paid for twice."""

import json
import signal
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from isheep.engines.server import ServerConnection
from isheep.errors import UserError
from isheep.openai_client import client
from isheep.records import Completion, Reply
from isheep.rundir.folder import RunFolder
from isheep.stages.filters import find_drops
from isheep.stages.instances import parse_part
from tests.helpers.byte_server import dripping
from tests.helpers.hashes import hash_files
from tests.helpers.openai_runs import DRAWN, GREEDY, SMALL, questions, run, served_engine
from tests.helpers.openai_server import Fake, Refusal, Served, serving
from tests.helpers.rows import make_pair

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("no_server")]


def faults(n: int) -> Refusal | None:
    """Every third call is spoiled, each time in another way."""
    kinds = [Refusal(429), Refusal(500), Refusal(200, b"<html>"), Refusal(200, b'{"choices": [{}]}'), Refusal(0)]
    return kinds[n // 3 % len(kinds)] if n % 3 == 0 else None


def test_a_third_of_the_calls_fail_and_the_answers_are_the_same() -> None:
    prompts = questions(12)
    with serving(Fake("lamb", fault=faults)) as served, closing(served_engine(served.url)) as there:
        answers = there.generate(prompts, DRAWN, 5)
    with serving(Fake("lamb")) as served, closing(served_engine(served.url)) as there:
        assert there.generate(prompts, DRAWN, 5) == answers


def test_a_call_that_always_fails_ends_in_one_line() -> None:
    with serving(Fake("lamb", fault=lambda n: Refusal(500) if n > 4 else None)) as served:
        with (
            closing(served_engine(served.url, attempts=3)) as there,
            pytest.raises(UserError, match="HTTP 500.*run the same command to continue") as refusal,
        ):
            there.generate(questions(8), GREEDY, 0)
        assert "\n" not in str(refusal.value)


def test_an_engine_closes_although_the_server_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a run is stopped: the server never answers that it has unloaded the adapter."""
    monkeypatch.setattr(client, "CLOSE_SECONDS", 0.05)
    with dripping(b"", b"") as server:
        there = served_engine(server.url, adapter=Path("adapter"), model="base")
        opened = client.open_client(server.url, there.settings)
        connection = ServerConnection(opened, there.settings, server.url, "base")
        vars(there).update(adapter="isheep-1", connection=connection)
        there.close()
        assert server.arrived.acquire(timeout=60) and "connection" not in vars(there)


class Switch:
    """A fault that begins after so many further requests; `begin` and `end` switch it."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal, self.first = refusal, 10**9

    def begin(self, served: Served, after: int) -> None:
        self.first = len(served.bodies) + after + 1

    def end(self) -> None:
        self.first = 10**9

    def __call__(self, n: int) -> Refusal | None:
        return self.refusal if n >= self.first else None


def reply_rows(completions: list[Completion]) -> list[Reply]:
    return [Reply(id=str(n), text=row.text, finish=row.finish, tokens=row.tokens) for n, row in enumerate(completions)]


def drawn_requests(served: Served) -> set[str]:
    """The requests that were answered, without the probes of the server."""
    return {request for request in served.answered if (json.loads(request)[1] or 0) > 9}


@pytest.mark.parametrize("status", [500, pytest.param(401, marks=pytest.mark.slow)])
def test_the_answers_of_a_batch_outlive_a_call_that_fails(status: int, tmp_path: Path) -> None:
    """Sixteen rows are one batch. Nine are answered, then the server fails or the key has expired."""
    folder, prompts, switch = RunFolder(tmp_path, tmp_path), questions(16), Switch(Refusal(status))
    with serving(Fake("lamb", fault=switch)) as served, closing(served_engine(served.url, attempts=2)) as there:

        def make_batch(start: int) -> list[Reply]:
            return reply_rows(there.generate(prompts[start : start + 16], DRAWN, 5))

        assert there.abilities.token_ids
        switch.begin(served, after=9)
        with pytest.raises(UserError, match=f"HTTP {status}.*the answers so far are kept: run the same command"):
            folder.map_batches("replies.jsonl", Reply, make_batch, 16, 16)
        assert len(drawn_requests(served)) == 9 and (tmp_path / "replies.jsonl.part").read_bytes() == b""
        switch.end()
        # Another engine, as in another process.
        with closing(served_engine(served.url)) as reopened:
            there = reopened
            rows = list(folder.map_batches("replies.jsonl", Reply, make_batch, 16, 16))
        assert {served.answered[request] for request in drawn_requests(served)} == {1}
        assert len(drawn_requests(served)) == 16
        there = served_engine(served.url)
        assert reply_rows(there.generate(prompts, DRAWN, 5)) == rows
    assert sorted(path.name for path in tmp_path.iterdir()) == ["replies.jsonl", "run.jsonl"]


HALF_PAIR = b'{"choices": [{"index": 0, "text": "half a \\ud800", "finish_reason": "stop"}]}'
ZIP = b'{"choices": [{"index": 0, "text": "whole", "finish_reason": "stop"}]}'


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (Refusal(200, HALF_PAIR), "it has half of a surrogate pair"),
        pytest.param(
            Refusal(200, ZIP, "application/json; charset=zip"), "its charset 'zip' is unknown", marks=pytest.mark.slow
        ),
    ],
)
def test_an_answer_that_can_not_be_read_is_no_text(
    refusal: Refusal, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    switch = Switch(refusal)
    with serving(Fake("lamb", fault=switch)) as served, closing(served_engine(served.url)) as there:
        assert there.abilities.token_ids
        switch.begin(served, after=6)
        answers = there.generate(questions(8), DRAWN, 5)
        num_requests = len(served.bodies)
        assert sorted(answer.finish for answer in answers).count("unreadable") == 2
        assert [answer.text for answer in answers if answer.finish == "unreadable"] == ["", ""]
        assert f"2 of 8 answers can't be read ({reason}); none is trained on" in capsys.readouterr().err
        # More than half: the server is broken.
        with pytest.raises(UserError, match=r"4 of 4 answers can't be read"):
            there.generate(questions(4), DRAWN, 6)
        # An answer is not paid for again because it can't be read.
        assert len(served.bodies) == num_requests + 4
    with (
        serving(Fake("lamb", fault=lambda n: refusal)) as served,
        closing(served_engine(served.url)) as there,
        pytest.raises(UserError, match=f"gives no completion .unreadable: {reason}"),
    ):
        there.generate(["a"], GREEDY, 0)


def test_a_pair_whose_answer_can_not_be_read_is_counted_and_dropped() -> None:
    pairs = [make_pair(0), make_pair(1, output="", finish="unreadable")]
    assert [pair.unanswered for pair in pairs] == [False, True]
    (drop,) = find_drops(pairs, [], False, ())
    assert (drop.row, drop.by, drop.why) == ("t1-1", "answer", "the server's answer can't be read")
    assert parse_part(Completion("", 3, "unreadable")).cut


class Stall:
    """A server that answers two requests of a run, then none until `release`, which drops what is under way.

    `num_drawn` counts the requests that are no probes; they have a seed above those of the probes.
    """

    def __init__(self) -> None:
        self.is_stalled, self.num_drawn = True, 0
        self.stalled, self.dropped, self.released = threading.Event(), threading.Semaphore(0), threading.Event()
        self.served: Served | None = None

    def __call__(self, n: int) -> Refusal | None:
        assert self.served
        self.num_drawn += (self.served.bodies[-1].get("seed") or 0) > 9
        if not self.is_stalled or self.num_drawn <= 2:
            return None
        self.stalled.set()
        self.released.wait()
        self.dropped.release()
        return Refusal(0)

    def release(self, num_under_way: int) -> None:
        """Close the connections of the requests under way, and answer those that come later."""
        self.released.set()
        for _ in range(num_under_way):
            assert self.dropped.acquire(timeout=60)
        self.is_stalled = False


@pytest.mark.slow
@pytest.mark.parametrize("signals", [[signal.SIGKILL], [signal.SIGTERM] * 2], ids=["killed", "stopped twice"])
def test_a_run_that_ends_while_the_server_hangs_pays_for_nothing_twice(
    signals: list[signal.Signals], tmp_path: Path
) -> None:
    """Within a batch of eight, two are answered and four are under way. The server hangs until the run has ended."""
    stall = Stall()
    with serving(Fake("lamb", fault=stall)) as served:
        stall.served = served
        words = [f"machine.server.url={served.url}", "machine.server.max_in_flight=4", "assessment.criteria=[quality]"]
        command = [sys.executable, "-c", "from isheep.cli import main; main()", "run", *SMALL, *words, "--out"]
        process = subprocess.Popen(
            [*command, str(tmp_path / "run")], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        assert process.stderr and stall.stalled.wait(600)
        messages = list[str]()
        for number in signals:
            process.send_signal(number)
            if number == signal.SIGTERM and not messages:
                messages = [next(line for line in process.stderr if line.startswith("interrupted: waiting"))]
        messages += process.communicate(timeout=600)[1].splitlines()
        stall.release(4)
        if signals == [signal.SIGKILL]:
            assert process.returncode == -signal.SIGKILL
        else:
            assert process.returncode == 130 and "4 calls under way" in messages[0]
            assert messages[-1] == (
                "isheep: interrupted; everything finished is saved: run the same command again to continue"
            )
        assert len(drawn_requests(served)) == 2
        run(*words, "--out", tmp_path / "run")
        assert {served.answered[request] for request in drawn_requests(served)} == {1}
        run(*words, "--out", tmp_path / "whole")
    assert hash_files(tmp_path / "run", ["recipe.yaml"]) == hash_files(tmp_path / "whole", ["recipe.yaml"])
    assert not list((tmp_path / "run").rglob("*.part"))


DIES = """
import os, signal, sys
from isheep.engines.openai_engine import OpenAIEngine
from isheep.cli import main
calls, real = 0, OpenAIEngine.generate_seeded
def generate(*arguments):
    global calls
    calls += 1
    if calls > int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
OpenAIEngine.generate_seeded = generate
main(sys.argv[2:])
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_and_asks_for_nothing_twice(tmp_path: Path) -> None:
    """Answers and ratings come in batches of four: a kill between two of them loses none that is complete."""
    with serving(Fake("lamb", fault=faults)) as served:
        words = [f"machine.server.url={served.url}", "machine.server.retry_wait=0.01", "assessment.criteria=[quality]"]
        run(*words, "--out", tmp_path / "whole")
        alone = served.answered.copy()
        served.answered.clear()
        for calls in (1, 1, 1):
            command = [sys.executable, "-c", DIES, str(calls), "run", *SMALL, *words, "--out", str(tmp_path / "run")]
            ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=600)
            assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
        run(*words, "--out", tmp_path / "run")
    # Probes are left out.
    drawn = {request for request in alone if json.loads(request)[1] is not None and json.loads(request)[1] > 9}
    assert {request: served.answered[request] for request in drawn} == {request: alone[request] for request in drawn}
    assert hash_files(tmp_path / "run", ["recipe.yaml"]) == hash_files(tmp_path / "whole", ["recipe.yaml"])
