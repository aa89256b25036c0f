"""An HTTP server on 127.0.0.1 for one person: the questions of a session as HTML forms, each answer written at once.

Text of a model is untrusted: the template escapes it, and the content security policy runs no inline script and loads
only this page's own files. Every path begins with a random key, drawn at each start, so that no other page and no other
user of the machine can read or write; the Host and, for answers, the Origin must be this server's own.
"""

import secrets
import sys
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from jinja2 import Environment, FileSystemLoader

from isheep.annotation.session import AnnotationSession, parse_number
from isheep.errors import UserError, describe_exception

PAGE_DIR = Path(__file__).parent
FILES = {"page.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8"}
MAX_ANSWER_BYTES = 10_000
MAX_ANSWER_FIELDS = 50
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class RefusedRequest(Exception):
    """A request that is refused: (status, reason)."""


class AnnotationServer(ThreadingHTTPServer):
    """A session on a port of 127.0.0.1 (0: any free port). Raises UserError if the port is in use."""

    daemon_threads = True

    def __init__(self, session: AnnotationSession, port: int) -> None:
        try:
            super().__init__(("127.0.0.1", port), AnnotationHandler)
        except OSError as error:
            raise UserError(f"port {port} can't be used ({error.strerror}): give another --port") from None
        self.session, self.key = session, secrets.token_urlsafe(24)
        self.page = Environment(loader=FileSystemLoader(PAGE_DIR), autoescape=True).get_template("page.html")

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{self.key}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Write one line about a request that failed, none if the browser has only closed its connection."""
        error = sys.exception()
        if error and not isinstance(error, ConnectionError):
            print(f"isheep: a request to the page failed: {describe_exception(error)}", file=sys.stderr)


class AnnotationHandler(BaseHTTPRequestHandler):
    """Answers one request: GET shows a question or a file of the page, POST writes an answer."""

    server: AnnotationServer
    # Seconds for a request to arrive.
    timeout = 30
    server_version, sys_version = "isheep", ""

    def do_GET(self) -> None:
        self._handle(self._show)

    def do_POST(self) -> None:
        self._handle(self._write)

    def _handle(self, respond: Callable[[str | None, Mapping[str, str]], None]) -> None:
        """Check the host and the key, then respond; a refused request gets its reason as plain text."""
        try:
            if _hostname(self.headers.get("Host", "")) not in ("127.0.0.1", "localhost"):
                raise RefusedRequest(HTTPStatus.FORBIDDEN, "This server answers only its own machine.")
            path, _, query = self.path.partition("?")
            key, slash, name = path.removeprefix("/").partition("/")
            if not secrets.compare_digest(key.encode(), self.server.key.encode()):
                raise RefusedRequest(HTTPStatus.FORBIDDEN, "Open the whole address that isheep annotate printed last.")
            respond(name if slash else None, _fields(query))
        except RefusedRequest as refused:
            status, reason = refused.args
            self._send(status, f"{reason}\n".encode(), "text/plain; charset=utf-8")

    def _show(self, name: str | None, query: Mapping[str, str]) -> None:
        if name in FILES:
            self._send(HTTPStatus.OK, (PAGE_DIR / str(name)).read_bytes(), FILES[str(name)])
        elif name == "":
            index = self._index(query["at"]) if "at" in query else self.server.session.next_index()
            self._send(HTTPStatus.OK, self._page(index).encode("utf-8", "replace"), "text/html; charset=utf-8")
        else:
            raise RefusedRequest(HTTPStatus.NOT_FOUND, "There is no such page.")

    def _write(self, name: str | None, query: Mapping[str, str]) -> None:
        if self.headers.get("Origin") != f"http://{self.headers['Host']}":
            raise RefusedRequest(HTTPStatus.FORBIDDEN, "Only this server's own page can send answers.")
        if name != "":
            raise RefusedRequest(HTTPStatus.NOT_FOUND, "There is no such page.")
        length = parse_number(self.headers.get("Content-Length", ""))
        if length is None or length > MAX_ANSWER_BYTES:
            raise RefusedRequest(HTTPStatus.BAD_REQUEST, f"An answer has at most {MAX_ANSWER_BYTES} bytes.")
        body = self.rfile.read(length)
        try:
            fields = dict(parse_qsl(body.decode(), max_num_fields=MAX_ANSWER_FIELDS))
            self.server.session.answer(self._index(fields.pop("at", "")), fields)
        except ValueError as error:
            raise RefusedRequest(HTTPStatus.BAD_REQUEST, f"This is no answer to the question: {error}") from None
        except OSError as error:
            reason = f"The answer could not be written: {error.strerror}"
            raise RefusedRequest(HTTPStatus.INSUFFICIENT_STORAGE, reason) from None
        self._send(HTTPStatus.SEE_OTHER, b"", "text/plain; charset=utf-8", Location=f"/{self.server.key}/")

    def _index(self, text: str) -> int:
        """Return the index of a question that a request names."""
        index = parse_number(text)
        if index is None or index >= len(self.server.session.questions):
            raise RefusedRequest(HTTPStatus.NOT_FOUND, "There is no such question.")
        return index

    def _page(self, index: int | None) -> str:
        """Return the page of a question, or for None the page that is shown after the last question."""
        session = self.server.session
        question = answer = None
        previous = len(session.questions) - 1 if session.questions else None
        if index is not None:
            question, answer = session.questions[index], session.answer_to(index)
            previous = index - 1 if index else None
        return self.server.page.render(
            session=session,
            total=len(session.questions),
            index=index,
            question=question,
            current=answer,
            previous=previous,
        )

    def _send(self, status: int, body: bytes, content_type: str, **headers: str) -> None:
        self.send_response(status)
        fixed = {**HEADERS, "Content-Type": content_type, "Content-Length": str(len(body))}
        for name, value in {**fixed, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Write no line for a request, because the terminal shows the address."""


def _fields(query: str) -> dict[str, str]:
    """Return the fields of a query. Raises RefusedRequest if there are too many."""
    try:
        return dict(parse_qsl(query, max_num_fields=MAX_ANSWER_FIELDS))
    except ValueError:
        raise RefusedRequest(HTTPStatus.BAD_REQUEST, f"A query has at most {MAX_ANSWER_FIELDS} fields.") from None


def _hostname(host: str) -> str | None:
    """Return the name in a Host header without its port, or None if it is malformed."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
