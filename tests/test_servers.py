"""Servers that hang, drip, ask to wait, refuse and send nonsense: nothing paid is lost, and a run can be stopped."""

import asyncio
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from isheep.errors import UserError
from isheep.judges.base import count_outcomes
from isheep.judges.endpoint import EndpointJudge, ReplyLog
from isheep.openai_client import ServerReply, answers, client
from isheep.openai_client.client import ServerRequests, open_client
from isheep.recipe.machine import Calls
from isheep.rundir import kept_replies, progress
from isheep.rundir.events import read_events
from tests.helpers.byte_server import HEAD, dripping
from tests.helpers.judge_server import KEY, Answer, known, said, serving
from tests.helpers.judged import HASTE

# A test that hangs fails after so many seconds. No other limit of time matters.
WATCHDOG = 120
QUICK = Calls(max_in_flight=4, retry_wait=0, attempts=2)


def chat_bodies(count: int) -> dict[str, dict[str, Any]]:
    return {str(number): {"messages": [{"role": "user", "content": f"Say {number}"}]} for number in range(count)}


def call_all(url: str, count: int, settings: Calls = QUICK) -> list[ServerReply]:
    """Send requests and return the replies in order."""
    with open_client(url, settings) as opened:
        return list(opened.call_all(ServerRequests("chat/completions", chat_bodies(count))).values())


# --- stopping

CALLER = """
import signal, sys
from isheep.openai_client import client
from isheep.recipe.machine import Calls
for name in (signal.SIGINT, signal.SIGTERM):
    # A process that a shell started in the background ignores Ctrl-C.
    signal.signal(name, signal.default_int_handler)
client.GRACE_SECONDS = float(sys.argv[2])
bodies = {str(n): {"messages": [{"role": "user", "content": f"Say {n}"}]} for n in range(12)}
requests = client.ServerRequests("chat/completions", bodies, lambda reply: print("kept", reply.key, flush=True))
with client.open_client(sys.argv[1], Calls(max_in_flight=4, timeout=600)) as opened:
    try:
        opened.call_all(requests)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize(("grace", "signals"), [(3600.0, [signal.SIGINT] * 2), (0.01, [signal.SIGTERM])])
def test_calls_to_a_server_that_hangs_stop_at_once(grace: float, signals: list[signal.Signals]) -> None:
    """The server never answers: only the second Ctrl-C, or the end of the grace, can end the process."""
    hanging, never = threading.Semaphore(0), threading.Event()

    def answer(message: str, times: int) -> Answer:
        if int(message.split()[1]) < 5:
            return said("yes")
        hanging.release()
        return said("no")._replace(hold=never)

    with serving(answer) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", CALLER, server.url, str(grace)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout and process.stderr
        for _ in range(4):
            assert hanging.acquire(timeout=WATCHDOG)
        process.send_signal(signals[0])
        # What is waited for is said before the process ends.
        line = process.stderr.readline().decode()
        for number in signals[1:]:
            process.send_signal(number)
        printed, _ = process.communicate(timeout=WATCHDOG)
        never.set()
    assert process.returncode == 130
    assert line == (
        f"interrupted: waiting for the answers to 4 calls under way, {grace:g} s at most; Ctrl-C again stops at once\n"
    )
    assert sorted(printed.decode().split()) == sorted(["kept"] * 5 + list("01234"))


def test_a_wait_is_interrupted_whenever_the_signal_arrives() -> None:
    """A signal is not lost when it arrives as the wait begins, and leaves the event loop alive."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    num_interrupted, never = 0, asyncio.Event()
    try:
        with client.Work(never.wait()) as waiting:
            for microseconds in range(1, 501):
                try:
                    signal.setitimer(signal.ITIMER_REAL, microseconds * 1e-6)
                    waiting.wait(WATCHDOG)
                except KeyboardInterrupt:
                    num_interrupted += 1
    finally:
        signal.signal(signal.SIGALRM, before)
    assert num_interrupted == 500
    assert client.Work(asyncio.sleep(0, "alive")).result() == "alive"


def test_an_error_waits_for_the_answers_under_way(capsys: pytest.CaptureFixture[str]) -> None:
    """The first call fails, and the others are answered only after that: they are received before the error."""
    failed, received = threading.Event(), list[str]()

    def answer(message: str, times: int) -> Answer:
        if message == "Say 0":
            return Answer(400, {"error": "no"})
        assert failed.wait(WATCHDOG)
        return said("late")

    def receive(reply: ServerReply) -> None:
        if reply.error:
            failed.set()
            raise UserError(reply.error)
        received.append(reply.text)

    with (
        serving(answer) as server,
        open_client(server.url, QUICK) as opened,
        pytest.raises(UserError, match="HTTP 400: no"),
    ):
        opened.call_all(ServerRequests("chat/completions", chat_bodies(12), receive))
    # Three were under way, and none was begun later.
    assert received == ["late"] * 3 and sum(server.asked.values()) == 4
    assert "a call failed: waiting for the answers to 3 others under way" in capsys.readouterr().err


# --- limits


@pytest.mark.parametrize(("head", "drip"), [(HEAD, b" "), (b"HTTP/1.1 200 OK\r\nx-slow: ", b"a"), (b"", b"")])
def test_a_server_that_drips_or_is_silent_meets_the_limit_of_the_whole_call(head: bytes, drip: bytes) -> None:
    settings = QUICK.model_copy(update={"total_timeout": 0.2, "timeout": 600.0})
    with dripping(head, drip) as server:
        (reply,) = call_all(server.url, 1, settings)
    assert reply.error == "timed out: no whole answer within 0.2 s"


def test_the_limit_of_the_whole_call_is_twice_the_timeout() -> None:
    with dripping() as server:
        (reply,) = call_all(server.url, 1, QUICK.model_copy(update={"timeout": 0.1, "attempts": 1}))
    assert reply.error == "timed out: no whole answer within 0.2 s"


def test_an_answer_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_ANSWER_BYTES", 2**18)
    with dripping(HEAD, b" " * 2**16) as server:
        (reply,) = call_all(server.url, 1)
    assert reply.error == "an answer of more than 262,144 bytes"


def test_a_wait_that_the_server_asks_for_is_said_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(client, "MAX_WAIT", 0.01)

    def answer(message: str, times: int) -> Answer:
        return said("yes") if times else Answer(429, {"error": "slow down"}, {"retry-after": "900"})

    with serving(answer) as server:
        replies = call_all(server.url, 12)
    assert [reply.text for reply in replies] == ["yes"] * 12
    assert capsys.readouterr().err == (
        "the server asks to wait 900 s (HTTP 429: slow down); isheep waits 0.01 s at most\n"
    )


# --- answers that can't be read

HALF_PAIR = "I like it \ud800. Rating: [[9]]"


def unreadable(message: str, times: int) -> Answer:
    number = int(message.split()[1])
    if number == 1:
        return said(HALF_PAIR)
    if number == 2:
        return said("Rating: [[9]]")._replace(headers={"content-type": "application/json; charset=zip"})
    return said("Rating: [[9]]")


def test_an_answer_that_can_not_be_read_is_an_outcome_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    conversations = [body["messages"] for body in chat_bodies(4).values()]
    with serving(unreadable) as server:
        known(server, monkeypatch)
        log = ReplyLog(tmp_path / "judge.jsonl")
        replies = EndpointJudge("judge-1", HASTE).replies_to(conversations, {}, log)
        # They are paid for, and never sent again.
        assert EndpointJudge("judge-1", HASTE).replies_to(conversations, {}, ReplyLog(log.path)) == replies
    assert [reply.unreadable for reply in replies] == [
        "", "it has half of a surrogate pair", "its charset 'zip' is unknown", "",
    ]  # fmt: skip
    assert [reply.text for reply in replies] == ["Rating: [[9]]", "", "", "Rating: [[9]]"]
    assert replies[1].body == "I like it ?. Rating: [[9]]" and set(server.asked.values()) == {1}
    verdicts = [9.0 if reply.text else None for reply in replies]
    assert count_outcomes(replies, verdicts)["outcomes"] == {"ok": 2, "unreadable": 2, "error": 0}


CHARSETS = ["zip", "undefined", "idna", "nonsense", "utf\x00", "base64", "unicode_escape", "utf-7", "", "'", "hex"]


@pytest.mark.parametrize("charset", CHARSETS)
def test_no_charset_raises_an_error(charset: str) -> None:
    for content in (b'{"choices": []}', bytes(range(256))):
        text, reason = answers.decode(content, charset)
        assert isinstance(text, str) and text.encode(errors="surrogatepass")
        assert not reason or f"{charset!r}"[:10] in reason


# --- another model than was asked for


def test_the_name_of_another_model_is_kept_with_each_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(message: str, times: int) -> Answer:
        reply = said("[[7]]")
        name = {"Say 0": "judge-1", "Say 2": ["no name"]}.get(message, "judge-1-2026")
        return reply._replace(body=reply.body | {"model": name})

    conversations = [body["messages"] for body in chat_bodies(4).values()]
    with serving(answer) as server, progress.run(tmp_path, 1):
        known(server, monkeypatch)
        replies = EndpointJudge("judge-1", HASTE).replies_to(conversations, {}, ReplyLog(tmp_path / "judge.jsonl"))
    assert [reply.model for reply in replies] == ["", "judge-1-2026", "", "judge-1-2026"]
    assert (tmp_path / "judge.jsonl").read_text().count('"model":"judge-1-2026"') == 2
    line = f"server {server.url}/ was asked for the model 'judge-1' and answers as 'judge-1-2026'"
    assert capsys.readouterr().err.count(line) == 1
    assert [line in event["note"] for event in read_events(tmp_path)] == [True]


# --- a key that expires


def test_a_key_that_expires_ends_the_calls_and_nothing_is_paid_twice(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    conversations = [body["messages"] for body in chat_bodies(40).values()]
    is_valid = False

    def answer(message: str, times: int) -> Answer:
        expired = not is_valid and len(server.answered) >= 10
        return Answer(401, {"error": f"{KEY} has expired"}) if expired else said("[[7]]")

    judge, path = EndpointJudge("judge-1", HASTE), tmp_path / "judge.jsonl"
    with serving(answer) as server:
        known(server, monkeypatch)
        with pytest.raises(UserError, match=r"HTTP 401: \[key\] has expired; the other answers are kept in judge.json"):
            judge.replies_to(conversations, {}, ReplyLog(path))
        # Nothing is asked after the first refusal, but what is under way.
        assert sum(server.asked.values()) - sum(server.answered.values()) <= HASTE.max_in_flight
        is_valid = True
        replies = judge.replies_to(conversations, {}, ReplyLog(path))
    assert len(replies) == 40 and set(server.answered.values()) == {1}


# --- replies that are kept


def test_kept_replies_outlive_a_kill_and_a_torn_line(tmp_path: Path) -> None:
    rows = tmp_path / "pairs.jsonl"
    with pytest.raises(KeyError), kept_replies.keep_replies(rows) as kept:
        kept.add("a", "first")
        kept.add("b", "line\nline \u2028")
        assert kept_replies.current() is kept
        raise KeyError
    path = tmp_path / "pairs.jsonl.replies.part"
    path.write_bytes(path.read_bytes() + b'["c", "tor')
    with kept_replies.keep_replies(rows) as kept:
        assert [kept.get(key) for key in "abc"] == ["first", "line\nline \u2028", None]
        kept.add("c", "again")
        assert kept_replies.KeptReplies(path).get("c") == "again"
    assert not path.exists() and not kept_replies.current().texts


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"null\n", b'["a"]\n[1, 2]\n{"a": "b"}\n', b"[" * 10**5])
def test_damaged_kept_replies_are_ignored(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.replies.part"
    path.write_bytes(content)
    kept = kept_replies.KeptReplies(path)
    kept.add("b", "text")
    assert not kept.get("a") and kept_replies.KeptReplies(path).texts == {"b": "text"}
