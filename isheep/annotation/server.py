"""A small page on 127.0.0.1 for one person: the desk's questions as HTML forms, answers written as they come in.

Model text is untrusted: the template escapes it, and the content security policy runs no script and loads nothing but
this page's own files. Every path begins with a key that is drawn at each start, so that no other page and no other
user of the machine can read or write; the Host and, for answers, the Origin must be this server's own.
"""

import secrets
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from jinja2 import Environment, FileSystemLoader

from isheep.annotation.session import AnnotationSession
from isheep.errors import UserError

HERE = Path(__file__).parent
FILES = {"page.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8"}
LONGEST = 10_000  # bytes of an answer
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Refused(Exception):
    """A request that is not answered: (status, why)."""


class AnnotationServer(ThreadingHTTPServer):
    """The desk on a port of 127.0.0.1 (0: a free one)."""

    daemon_threads = True

    def __init__(self, desk: AnnotationSession, port: int) -> None:
        try:
            super().__init__(("127.0.0.1", port), Handler)
        except OSError as error:
            raise UserError(f"port {port} can't be used ({error.strerror}): give another --port") from None
        self.desk, self.key = desk, secrets.token_urlsafe(24)
        self.page = Environment(loader=FileSystemLoader(HERE), autoescape=True).get_template("page.html")

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{self.key}/"


class Handler(BaseHTTPRequestHandler):
    server: AnnotationServer
    timeout = 30  # seconds for a request to arrive
    server_version, sys_version = "isheep", ""

    def do_GET(self) -> None:
        self._handle(self._look)

    def do_POST(self) -> None:
        self._handle(self._write)

    def _handle(self, work: Any) -> None:
        try:
            if _name_of(self.headers.get("Host", "")) not in ("127.0.0.1", "localhost"):
                raise Refused(HTTPStatus.FORBIDDEN, "This server is for this machine alone.")
            path, _, query = self.path.partition("?")
            key, slash, name = path.removeprefix("/").partition("/")
            if not secrets.compare_digest(key.encode(), self.server.key.encode()):
                raise Refused(HTTPStatus.FORBIDDEN, "Open the whole address that isheep annotate printed last.")
            work(name if slash else None, dict(parse_qsl(query)))
        except Refused as refused:
            status, why = refused.args
            self._send(status, f"{why}\n".encode(), "text/plain; charset=utf-8")

    def _look(self, name: str | None, query: Mapping[str, str]) -> None:
        if name in FILES:
            self._send(HTTPStatus.OK, (HERE / str(name)).read_bytes(), FILES[str(name)])
        elif name == "":
            at = self.server.desk.next() if "at" not in query else self._place(query["at"])
            self._send(HTTPStatus.OK, self._page(at).encode("utf-8", "replace"), "text/html; charset=utf-8")
        else:
            raise Refused(HTTPStatus.NOT_FOUND, "There is no such page.")

    def _write(self, name: str | None, query: Mapping[str, str]) -> None:
        if self.headers.get("Origin") != f"http://{self.headers['Host']}":
            raise Refused(HTTPStatus.FORBIDDEN, "Answers are taken from this server's own page alone.")
        if name != "":
            raise Refused(HTTPStatus.NOT_FOUND, "There is no such page.")
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit() or int(length) > LONGEST:
            raise Refused(HTTPStatus.BAD_REQUEST, f"An answer has at most {LONGEST} bytes.")
        try:
            fields = dict(parse_qsl(self.rfile.read(int(length)).decode(), max_num_fields=50))
            self.server.desk.answer(self._place(fields.pop("at", "")), fields)
        except ValueError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, f"This is no answer to the question: {error}") from None
        self._send(HTTPStatus.SEE_OTHER, b"", "text/plain; charset=utf-8", Location=f"/{self.server.key}/")

    def _place(self, text: str) -> int:
        if not (text.isascii() and text.isdigit() and int(text) < len(self.server.desk.questions)):
            raise Refused(HTTPStatus.NOT_FOUND, "There is no such question.")
        return int(text)

    def _page(self, at: int | None) -> str:
        desk = self.server.desk
        question = None if at is None else desk.questions[at]
        before = at - 1 if at else len(desk.questions) - 1 if at is None and desk.questions else None
        given = None if at is None else desk.given(at)
        return self.server.page.render(
            desk=desk, at=at, question=question, given=given, before=before, total=len(desk.questions)
        )

    def _send(self, status: int, body: bytes, kind: str, **more: str) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Type": kind, "Content-Length": str(len(body)), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """No line for each request: the terminal shows the address."""


def _name_of(host: str) -> str | None:
    """The name in a Host header, without its port; None where it is no name."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
