"""Requests to an OpenAI-compatible server over HTTP, with retries and several requests at a time.

The environment variable OPENAI_BASE_URL gives the server's address, unless a recipe does. OPENAI_API_KEY gives the key.
It is read for each connection, and only by this module, so that it gets into no file and no message.
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
from isheep.recipe.machine import Calls
from isheep.records import Record

if TYPE_CHECKING:
    from httpx2 import Client, Response

OPENAI = "https://api.openai.com/v1"
# Every server accepts seeds below this number. llama.cpp replaces 2**32 - 1 by a random one.
SEED_LIMIT = 2**31
# Statuses after which a request is sent again later, beside those of 500 and above.
RETRIED = (408, 409, 425, 429)
# Statuses that mean that the key, the address or the model's name is wrong, which is the same for all requests.
REFUSED_FOR_ALL = (401, 403, 404)
# The beginnings of the errors that all requests would end with.
FATAL = tuple(f"HTTP {status}" for status in REFUSED_FOR_ALL) + ("no connection",)
# The longest wait before another attempt in seconds, even if the server asks for a longer one.
MAX_WAIT = 300.0
# The number of characters that are kept of an answer that is not a completion.
BODY_CHARACTERS = 2000


class ServerReply(Record):
    """The result of a request: a completion (`choice`), an answer that is not one (`body`), or a failure (`error`)."""

    key: str
    choice: dict[str, Any] | None = None
    """The first choice of the completion, as the server sent it."""
    body: str = ""
    error: str = ""
    read: int | None = None
    """The number of tokens in the prompt, or None if the server does not say."""
    written: int | None = None
    """The number of tokens in the completion, or None if the server does not say."""

    @property
    def text(self) -> str:
        """The text that a judge wrote: the arguments of the function that it called, or the message; "" if neither."""
        message = (self.choice or {}).get("message")
        message = message if isinstance(message, dict) else {}
        tools = message.get("tool_calls")
        calls = [call.get("function") for call in tools if isinstance(call, dict)] if isinstance(tools, list) else []
        calls.append(message.get("function_call"))
        arguments = [call.get("arguments") for call in calls if isinstance(call, dict)]
        return next((text for text in (*arguments, message.get("content")) if isinstance(text, str)), "")


def base_url_from_environment() -> str | None:
    """Return the address in OPENAI_BASE_URL, or None if it is not set."""
    return os.environ.get("OPENAI_BASE_URL") or None


def api_key() -> str:
    """Return the key in OPENAI_API_KEY, or "" if it is not set."""
    return os.environ.get("OPENAI_API_KEY", "").strip()


def without_password(url: str) -> str:
    """Return an address without the user name and password that it may contain."""
    scheme, separator, rest = url.rpartition("://")
    return scheme + separator + rest.rpartition("@")[2]


def open_client(url: str, settings: Calls, source: str = "OPENAI_BASE_URL") -> "Client":
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
        client = httpx2.Client(base_url=url, headers=headers, timeout=settings.timeout, limits=limits)
    except (httpx2.InvalidURL, ValueError):
        raise invalid from None
    if client.base_url.scheme not in ("http", "https"):
        raise invalid
    return client


def call_concurrently(
    call: Callable[[Any], ServerReply],
    items: Sequence[Any],
    settings: Calls,
    stop: threading.Event,
    advance: Callable[[int], None] = lambda count: None,
) -> list[ServerReply]:
    """Return the reply of `call` to each item, in their order. Up to `settings.max_in_flight` calls run at a time.

    `advance` is called with 1 after each call. If a call raises an error, or on Ctrl-C, `stop` is set, no new call is
    made, and the current ones are waited for.
    """
    pool = ThreadPoolExecutor(settings.max_in_flight)
    try:
        futures = [pool.submit(call, item) for item in items]
        for future in as_completed(futures):
            future.result()
            advance(1)
        return [future.result() for future in futures]
    finally:
        # Current attempts may have been paid for: they end, but no further attempt is made.
        stop.set()
        pool.shutdown(cancel_futures=True)


def post_with_retries(
    client: "Client",
    path: str,
    body: dict[str, Any],
    key: str,
    settings: Calls,
    stop: threading.Event,
    is_usable: Callable[[ServerReply], bool] = lambda reply: True,
) -> ServerReply:
    """Send a request, with further attempts if these may help, and return the last reply.

    The wait before the next attempt doubles each time, or is as long as the server asks for if that is longer. An
    answer with a good status for which `is_usable` is False counts as a failure with status 500. No further attempt is
    made after `stop` is set.
    """
    import httpx2

    reply = ServerReply(key=key, error="no attempt was made")
    generator = random.Random(key)
    for attempt in range(settings.attempts):
        wait = settings.retry_wait * 2**attempt * generator.uniform(0.5, 1)
        try:
            response = client.post(path, json=body)
            reply = read_response(response, key)
            if not reply.error and not is_usable(reply):
                beginning = reply.body[:80] or f"{reply.choice!r:.80}"
                reply = ServerReply(key=key, error=f"no completion in the answer: {beginning}")
            may_succeed_later = response.is_success or response.is_server_error or response.status_code in RETRIED
            if not reply.error or not may_succeed_later:
                return reply
            wait = max(wait, retry_after(response))
        except httpx2.TimeoutException:
            reply = ServerReply(key=key, error=f"timed out: after {settings.timeout:g} s")
        except httpx2.ConnectError as error:
            reply = ServerReply(key=key, error=one_line(redact_key(f"no connection: {error}")))
        except httpx2.HTTPError as error:
            reply = ServerReply(key=key, error=one_line(redact_key(f"{type(error).__name__}: {error}")))
        if attempt + 1 < settings.attempts and stop.wait(min(wait, MAX_WAIT)):
            break
    return reply


def read_response(response: "Response", key: str) -> ServerReply:
    """Return the reply in a server's answer.

    An answer with a good status that is not a completion is no error: it is kept as `body`, because it was paid for.
    """
    text = redact_key(response.text)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    content = content if isinstance(content, dict) else {}
    # FastAPI calls the error "detail".
    choices, error = content.get("choices"), content.get("error") or content.get("detail")
    if not response.is_success or (error and not choices):
        return ServerReply(key=key, error=_error_text(response.status_code, error))
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
    if choice:
        # Half of a surrogate pair can't be written to a file; "?" replaces it.
        choice = json.loads(json.dumps(choice, ensure_ascii=False).encode(errors="replace"))
    usage = content.get("usage")
    read, written = _token_count(usage, "prompt_tokens"), _token_count(usage, "completion_tokens")
    return ServerReply(
        key=key, choice=choice, body="" if choice else text[:BODY_CHARACTERS], read=read, written=written
    )


def _error_text(status: int, error: object) -> str:
    """Return a status and the server's message in one printable line."""
    message = error.get("message") if isinstance(error, dict) else error
    printable = "".join(character if character.isprintable() else " " for character in str(message or ""))
    line = " ".join(printable.split())[:200]
    return f"HTTP {status}: {line}" if line else f"HTTP {status}"


def _token_count(usage: object, name: str) -> int | None:
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if isinstance(count, int) else None


def redact_key(text: str) -> str:
    """Return a server's text with "[key]" in place of the key. A placeholder such as EMPTY does not count as a key."""
    return text.replace(api_key(), "[key]") if len(api_key()) > len("EMPTY") else text


def retry_after(response: "Response") -> float:
    """Return the answer's Retry-After in seconds, which is a number or a date; 0 if there is none."""
    value = response.headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
