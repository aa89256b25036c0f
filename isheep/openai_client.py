"""Asking an OpenAI-compatible server over HTTP: attempts, waits, a few calls at once. The key is seen only here.

OPENAI_BASE_URL says where, unless a recipe does; OPENAI_API_KEY is the key, read anew for each connection.
"""

import email.utils
import json
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any

from isheep.errors import UserError, one_line
from isheep.recipe.schema import Calls
from isheep.records import Record

if TYPE_CHECKING:
    from httpx2 import Client, Response

OPENAI = "https://api.openai.com/v1"
AGAIN = (408, 409, 425, 429)  # and 5xx: asked again later
WRONG = (401, 403, 404)  # the key, the address or the model's name: the same for all calls
FATAL = tuple(f"HTTP {status}" for status in WRONG) + ("no connection",)
LONGEST = 300.0  # seconds before another attempt, whatever the server asks for
BODY = 2000  # characters kept of an answer that is no completion


class ServerReply(Record):
    """What came of a question: a completion, something that is none (`body`), or no answer at all (`error`)."""

    key: str
    choice: dict[str, Any] | None = None  # the completion's first choice, as the endpoint gave it
    body: str = ""
    error: str = ""
    read: int | None = None  # tokens of the prompt; None: not told
    written: int | None = None

    @property
    def text(self) -> str:
        """What the judge wrote: the arguments of the function that it called, or the message."""
        message = (self.choice or {}).get("message")
        message = message if isinstance(message, dict) else {}
        tools = message.get("tool_calls")
        calls = [call.get("function") for call in tools if isinstance(call, dict)] if isinstance(tools, list) else []
        called = [call.get("arguments") for call in (*calls, message.get("function_call")) if isinstance(call, dict)]
        return next((text for text in (*called, message.get("content")) if isinstance(text, str)), "")


def base_url_from_environment() -> str | None:
    """OPENAI_BASE_URL."""
    return os.environ.get("OPENAI_BASE_URL") or None


def api_key() -> str:
    return os.environ.get("OPENAI_API_KEY", "").strip()


def without_password(url: str) -> str:
    """An address without the password that it may hold."""
    scheme, separator, rest = url.rpartition("://")
    return scheme + separator + rest.rpartition("@")[2]


def open_client(url: str, settings: Calls, where: str = "OPENAI_BASE_URL") -> "Client":
    """A client for the server at `url`, which `where` gave. Raises UserError where it is no address."""
    import httpx2

    key = api_key()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError("OPENAI_API_KEY holds characters that no key has: set it again")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx2.Limits(max_connections=settings.max_in_flight)
    try:
        client = httpx2.Client(base_url=url, headers=headers, timeout=settings.timeout, limits=limits)
    except (httpx2.InvalidURL, ValueError):
        raise UserError(f"{where} {without_password(url)!r} is no address: give one such as {OPENAI}") from None
    if client.base_url.scheme not in ("http", "https"):
        raise UserError(f"{where} {without_password(url)!r} is no address: give one such as {OPENAI}")
    return client


def call_concurrently(
    call: Callable[[Any], ServerReply],
    items: Sequence[Any],
    settings: Calls,
    stop: threading.Event,
    advance: Callable[[int], None] = lambda count: None,
) -> list[ServerReply]:
    """The replies to `items`, in their order; `settings.at_once` calls are under way at a time.

    Where a call raises, or on Ctrl-C, no new call is made, and those under way are waited for.
    """
    pool = ThreadPoolExecutor(settings.max_in_flight)
    try:
        calls = [pool.submit(call, item) for item in items]
        for done in as_completed(calls):
            done.result()
            advance(1)
        return [done.result() for done in calls]
    finally:
        stop.set()  # no new attempts; what is under way may be paid already
        pool.shutdown(cancel_futures=True)


def post_with_retries(
    client: "Client",
    path: str,
    body: dict[str, Any],
    key: str,
    settings: Calls,
    stop: threading.Event,
    usable: Callable[[ServerReply], bool] = lambda reply: True,
) -> ServerReply:
    """One call, asked again where that may help: the wait doubles, or is what the server asks for.

    An answer with a good status that is not `usable` is a failure like a 500.
    """
    import httpx2

    reply = ServerReply(key=key, error="not asked")
    chance = random.Random(key)
    for attempt in range(settings.attempts):
        wait = settings.retry_wait * 2**attempt * chance.uniform(0.5, 1)
        try:
            response = client.post(path, json=body)
            reply = read_response(response, key)
            if not reply.error and not usable(reply):
                reply = ServerReply(
                    key=key, error=f"no completion in the answer: {reply.body[:80] or reply.choice!r:.80}"
                )
            later = response.is_success or response.is_server_error or response.status_code in AGAIN
            if not reply.error or not later:
                return reply
            wait = max(wait, retry_after(response))
        except httpx2.TimeoutException:
            reply = ServerReply(key=key, error=f"timed out: after {settings.timeout:g} s")
        except httpx2.ConnectError as error:
            reply = ServerReply(key=key, error=one_line(redact_key(f"no connection: {error}")))
        except httpx2.HTTPError as error:
            reply = ServerReply(key=key, error=one_line(redact_key(f"{type(error).__name__}: {error}")))
        if attempt + 1 < settings.attempts and stop.wait(min(wait, LONGEST)):
            break
    return reply


def read_response(response: "Response", key: str) -> ServerReply:
    """What a server answered. A good status with something else than a completion is an answer too: it is paid."""
    text = redact_key(response.text)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    content = content if isinstance(content, dict) else {}
    choices, error = content.get("choices"), content.get("error") or content.get("detail")  # detail: FastAPI
    if not response.is_success or error and not choices:
        error = error.get("message") if isinstance(error, dict) else error
        about = " ".join("".join(c if c.isprintable() else " " for c in str(error or "")).split())[:200]
        return ServerReply(key=key, error=f"HTTP {response.status_code}" + f": {about}" * bool(about))
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
    if choice:  # half of a character, written as an escape, is no text that could be kept
        choice = json.loads(json.dumps(choice, ensure_ascii=False).encode(errors="replace"))
    usage = content.get("usage")
    counts = [usage.get(name) if isinstance(usage, dict) else None for name in ("prompt_tokens", "completion_tokens")]
    used = [count if isinstance(count, int) else None for count in counts]
    return ServerReply(key=key, choice=choice, body="" if choice else text[:BODY], read=used[0], written=used[1])


def redact_key(text: str) -> str:
    """What comes from outside, without the key, should it be echoed. A placeholder such as EMPTY is no key."""
    return text.replace(api_key(), "[key]") if len(api_key()) > len("EMPTY") else text


def retry_after(response: "Response") -> float:
    """Retry-After in seconds, given as such or as a date; 0 where it is not."""
    value = response.headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
