"""Not a test: an OpenAI-compatible endpoint on loopback that counts what it is asked, and misbehaves as it is told."""

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest

KEY = "sk-secret-0123456789"


class Answer(NamedTuple):
    """What the endpoint sends: a status and a body, after `hold` where that is given."""

    status: int
    body: Any
    headers: dict[str, str] = {}
    hold: threading.Event | None = None


def said(text: str, **choice: Any) -> Answer:
    """A completion, as OpenAI's endpoint writes it; 100 tokens read, 7 written."""
    first = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}, **choice}
    return Answer(200, {"choices": [first], "usage": {"prompt_tokens": 100, "completion_tokens": 7}})


class Server:
    """`answer(user's last message, how often it was asked before)` decides."""

    def __init__(self, answer: Callable[[str, int], Answer]) -> None:
        self.answer, self.lock = answer, threading.Lock()
        self.asked, self.answered = Counter[str](), Counter[str]()  # by the user's message; answered: with status 200
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.url = ""

    def take(self, body: dict[str, Any], key: str | None) -> Answer:
        message = body["messages"][-1]["content"]
        with self.lock:
            times = self.asked[message]
            self.asked[message] += 1
            self.bodies.append(body)
            self.keys.add(key)
        # Without the lock, because an answer may wait for another call.
        answer = self.answer(message, times)
        if answer.hold:
            answer.hold.wait(60)
        elif answer.status == 200:
            with self.lock:
                self.answered[message] += 1
        return answer


@contextlib.contextmanager
def serving(answer: Callable[[str, int], Answer], models: int = 200) -> Iterator[Server]:
    """`models` is the status of its list of models."""
    server = Server(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(models)
            self.send_header("content-length", "0")
            self.end_headers()

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            result = server.take(body, self.headers["authorization"])
            content = result.body if isinstance(result.body, bytes) else json.dumps(result.body).encode()
            with contextlib.suppress(OSError):  # who asked may be gone
                self.send_response(result.status)
                for name, value in result.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *words: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


def known(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment that points to it."""
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
