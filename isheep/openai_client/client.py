"""Requests to a server: several at a time, with limits and retries, and stopped at once by Ctrl-C.

All requests of the process run in an event loop of a thread of its own, because a request that waits for a server can
be cancelled there at any moment, and because a caller may have a loop of its own, as a notebook has.
"""

import asyncio
import contextlib
import math
import os
import random
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from isheep.errors import UserError, one_line
from isheep.openai_client import OPENAI, ServerReply, api_key, redact_key, without_password
from isheep.openai_client.answers import HttpAnswer, decode, read_reply, retry_after
from isheep.recipe.machine import Calls
from isheep.rundir import progress
from isheep.rundir.progress import console

if TYPE_CHECKING:
    from httpx2 import AsyncClient

T = TypeVar("T")

# The longest wait before another attempt in seconds, even if the server asks for a longer one.
MAX_WAIT = 300.0
# The seconds that calls under way have to end after Ctrl-C or SIGTERM, because their answers may have been paid for.
# Schedulers kill a process 10 to 30 seconds after SIGTERM.
GRACE_SECONDS = 8.0
# The seconds that a server has for what is asked of it at the end, such as to unload an adapter.
CLOSE_SECONDS = 4.0
# The longest wait in seconds after which Python looks for a signal. Without such a limit, a signal that arrives at the
# moment when a wait begins is seen only when the wait ends.
SIGNAL_INTERVAL = 0.2
# The longest answer in bytes: log-probabilities of the longest prompts take some megabytes.
MAX_ANSWER_BYTES = 2**28

Receive = Callable[[ServerReply], None]
"""Called with each reply as soon as it arrives, in another thread. An error that it raises ends the calls."""


class CallError(Exception):
    """An attempt that got no answer. The message is a reason in one line."""

    def __init__(self, reason: object) -> None:
        super().__init__(one_line(redact_key(str(reason))))


class Batch:
    """Calls that are made together: whether they shall end, how many wait for an answer, and what the user knows."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.num_under_way = 0
        # The error that ended the calls.
        self.error: Exception | None = None
        # The longest wait that the server has asked for.
        self.stated_wait = 0.0

    def fail(self, error: Exception) -> None:
        """Let no new call be made because of an error, and tell the user what is waited for."""
        self.error = self.error or error
        if self.num_under_way and not self.stop.is_set():
            console.print(
                f"a call failed: waiting for the answers to {self.num_under_way} others under way, which are kept; "
                "Ctrl-C stops at once",
                markup=False,
                soft_wrap=True,
            )
        self.stop.set()

    async def pause(self, wait: float, retry_after: float, reason: str) -> bool:
        """Wait before another attempt. Returns whether it shall be made.

        A wait that the server asks for is said, once for all calls, and again only if it asks for a longer one.
        """
        wait = min(max(wait, retry_after), MAX_WAIT)
        if retry_after > self.stated_wait:
            self.stated_wait = retry_after
            limit = f"; isheep waits {wait:g} s at most" if wait < retry_after else ""
            console.print(f"the server asks to wait {retry_after:g} s ({reason}){limit}", markup=False, soft_wrap=True)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.stop.wait(), wait)
        return not self.stop.is_set()


class ServerRequests(NamedTuple):
    """Requests to one path: their bodies by key, what is called with each reply, and which replies are usable.

    An answer with a good status for which `is_usable` is False counts as a failure with status 500.
    """

    path: str
    bodies: Mapping[str, Mapping[str, Any]]
    receive: Receive = lambda reply: None
    is_usable: Callable[[ServerReply], bool] = lambda reply: True


class ServerClient:
    """An HTTP client for a server, as `open_client` returns it. Its methods may be called from any thread."""

    def __init__(self, http: "AsyncClient", settings: Calls) -> None:
        self.http, self.settings = http, settings

    def __enter__(self) -> "ServerClient":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        with Work(self.http.aclose()) as closing:
            closing.wait(CLOSE_SECONDS)

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None, limit: float = 0) -> HttpAnswer:
        """Send a request once and return the answer. Raises CallError if there is none.

        `limit` are the seconds for the whole request, 0 for those of the settings.
        """
        with Work(self._send(method, path, body, limit or self._limit)) as sending:
            return sending.result()

    def call(self, path: str, body: Mapping[str, Any], is_usable: Callable[[ServerReply], bool]) -> ServerReply:
        """Send one request, with further attempts if these may help, and return the last reply."""
        return self.call_all(ServerRequests(path, {"": body}, is_usable=is_usable))[""]

    def call_all(self, requests: ServerRequests) -> dict[str, ServerReply]:
        """Send requests, `settings.max_in_flight` at a time, and return the replies by key.

        If `requests.receive` raises an error, no new call is made, those under way are received, and the error is
        raised. On Ctrl-C and SIGTERM the same, but no longer than GRACE_SECONDS or until another one.
        """
        batch = Batch()
        with Work(self._call_all(requests, batch)) as calls:
            try:
                return calls.result()
            except KeyboardInterrupt:
                if not batch.stop.is_set():
                    _event_loop().call_soon_threadsafe(batch.stop.set)
                    if batch.num_under_way:
                        console.print(
                            f"interrupted: waiting for the answers to {batch.num_under_way} calls under way, "
                            f"{GRACE_SECONDS:g} s at most; Ctrl-C again stops at once",
                            markup=False,
                            soft_wrap=True,
                        )
                    calls.wait(GRACE_SECONDS)
                raise

    @property
    def _limit(self) -> float:
        return self.settings.total_timeout or 2 * self.settings.timeout

    async def _call_all(self, requests: ServerRequests, batch: Batch) -> dict[str, ServerReply]:
        waiting, replies = iter(requests.bodies), dict[str, ServerReply]()

        async def work() -> None:
            for key in waiting:
                if batch.stop.is_set():
                    return
                batch.num_under_way += 1
                try:
                    replies[key] = await self._call(requests, key, batch)
                finally:
                    batch.num_under_way -= 1
                requests.receive(replies[key])

        async def work_or_fail() -> None:
            try:
                await work()
            except Exception as error:
                batch.fail(error)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.settings.max_in_flight, len(requests.bodies))):
                group.create_task(work_or_fail())
        if batch.error:
            raise batch.error
        return replies

    async def _call(self, requests: ServerRequests, key: str, batch: Batch) -> ServerReply:
        """Send a request in several attempts, and return the last reply.

        The wait before the next attempt doubles each time, or is as long as the server asks for if that is longer.
        """
        reply, generator = ServerReply(key=key, error="no attempt was made"), random.Random(key)
        for attempt in range(self.settings.attempts):
            wait, server_wait = self.settings.retry_wait * 2**attempt * generator.uniform(0.5, 1), 0.0
            try:
                answer = await self._send("POST", requests.path, requests.bodies[key], self._limit)
            except CallError as error:
                reply = ServerReply(key=key, error=str(error))
            else:
                reply = read_reply(answer, key, requests.bodies[key].get("model"))
                if reply.model:
                    self._report_other_model(str(requests.bodies[key]["model"]), reply.model)
                if not reply.error and not reply.unreadable and not requests.is_usable(reply):
                    beginning = reply.body[:80] or f"{reply.choice!r:.80}"
                    reply = ServerReply(key=key, error=f"no completion in the answer: {beginning}")
                if not reply.error or not answer.may_succeed_later:
                    return reply
                server_wait = answer.retry_after
            is_last = attempt + 1 == self.settings.attempts
            if is_last or not await batch.pause(wait, server_wait, reply.error):
                break
        return reply

    def _report_other_model(self, model: str, other_model: str) -> None:
        """Say once that the server calls the model by another name. Many servers answer with a longer one."""
        progress.note_once(
            f"server {without_password(str(self.http.base_url))} was asked for the model {model!r} and answers as "
            f"{other_model!r}: see that this is the one that you mean"
        )

    async def _send(self, method: str, path: str, body: Mapping[str, Any] | None, limit: float) -> HttpAnswer:
        """Send a request and return the answer. Raises CallError if there is no whole answer within the limits."""
        import httpx2

        try:
            async with asyncio.timeout(limit), self.http.stream(method, path, json=body) as response:
                content = bytearray()
                async for piece in response.aiter_bytes():
                    content += piece
                    if len(content) > MAX_ANSWER_BYTES:
                        raise CallError(f"an answer of more than {MAX_ANSWER_BYTES:,} bytes")
        except TimeoutError:
            raise CallError(f"timed out: no whole answer within {limit:g} s") from None
        except httpx2.TimeoutException:
            raise CallError(f"timed out: after {self.settings.timeout:g} s") from None
        except httpx2.ConnectError as error:
            raise CallError(f"no connection: {error}") from None
        except httpx2.HTTPError as error:
            raise CallError(f"{type(error).__name__}: {error}") from None
        content_type = response.headers.get("content-type", "").partition(";")[0].strip()[:80]
        text, unreadable = decode(bytes(content), response.charset_encoding)
        return HttpAnswer(
            response.status_code, redact_key(text), unreadable, retry_after(response.headers), content_type
        )


def open_client(url: str, settings: Calls, source: str = "OPENAI_BASE_URL") -> ServerClient:
    """Return an HTTP client for the server at `url`.

    Raises UserError if the key or the address is not valid; the message says that the address comes from `source`.
    """
    import httpx2

    key = api_key()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError("OPENAI_API_KEY contains characters that a key can't have: set it again")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx2.Limits(max_connections=settings.max_in_flight)
    invalid = UserError(f"{source} {without_password(url)!r} is not a web address: give one such as {OPENAI}")
    try:
        http = httpx2.AsyncClient(base_url=url, headers=headers, timeout=settings.timeout, limits=limits)
    except (httpx2.InvalidURL, ValueError):
        raise invalid from None
    if http.base_url.scheme not in ("http", "https"):
        raise invalid
    return ServerClient(http, settings)


def _event_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop of this process, which runs in a thread that never keeps the process from ending."""
    # The thread of another process is not copied when that one forks.
    return _start_loop(os.getpid())


@cache
def _start_loop(process: int) -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="isheep calls", daemon=True).start()
    return loop


class Work(Generic[T]):
    """A coroutine that runs in the event loop, and is cancelled at the end of a `with` block.

    Ctrl-C may interrupt a wait for it at any point. The wait therefore holds no lock that the event loop needs, as the
    waits of `concurrent.futures` do: an event loop that can't get its lock never ends anything again.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._has_ended, self._running = False, threading.Lock()
        self._running.acquire()
        self._future = asyncio.run_coroutine_threadsafe(coroutine, _event_loop())
        self._future.add_done_callback(self._end)

    def __enter__(self) -> "Work[T]":
        return self

    def __exit__(self, *error: object) -> None:
        self._future.cancel()

    def wait(self, seconds: float = math.inf) -> bool:
        """Wait for the end, or for some seconds. Return whether it has ended."""
        end = time.monotonic() + seconds
        while not self._has_ended and (seconds_left := end - time.monotonic()) > 0:
            self._running.acquire(timeout=min(seconds_left, SIGNAL_INTERVAL))
        return self._has_ended

    def result(self) -> T:
        """Wait for the end, and return the result or raise the error of the coroutine."""
        self.wait()
        return self._future.result()

    def _end(self, future: object) -> None:
        self._has_ended = True
        self._running.release()
