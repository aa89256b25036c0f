"""An OpenAI-compatible server over HTTP: its address, the key, and the result of a request.

The environment variable OPENAI_BASE_URL gives the server's address, unless a recipe does. OPENAI_API_KEY gives the key.
It is read for each connection, and only by this package, so that it gets into no file and no message.
"""

import os
from typing import Annotated, Any

from pydantic import Field

from isheep.records import Record

OPENAI = "https://api.openai.com/v1"
# Every server accepts seeds below this number. llama.cpp replaces 2**32 - 1 by a random one.
SEED_LIMIT = 2**31
# Statuses that mean that the key, the address or the model's name is wrong, which is the same for all requests.
REFUSED_FOR_ALL = (401, 403, 404)
# The beginnings of the errors that all requests would end with.
FATAL = tuple(f"HTTP {status}" for status in REFUSED_FOR_ALL) + ("no connection",)


def _is_empty(value: object) -> bool:
    return not value


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
    model: Annotated[str, Field(exclude_if=_is_empty)] = ""
    """The model's name in the answer if it is not the one that was asked for; "" if it is, or if there is none."""
    unreadable: Annotated[str, Field(exclude_if=_is_empty)] = ""
    """Why the answer, of which `body` holds the beginning, is not a text; "" if it is one. A file then has no key."""

    @property
    def text(self) -> str:
        """The text of the completion: the arguments of the function that it calls, or the message; "" if neither."""
        return next(iter(written_texts(self.choice or {})), "")


def written_texts(choice: dict[str, Any]) -> list[str]:
    """Return the texts in a completion: the arguments of the functions that it calls, its message, and its text."""
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    tools = message.get("tool_calls")
    calls = [call.get("function") for call in tools if isinstance(call, dict)] if isinstance(tools, list) else []
    calls.append(message.get("function_call"))
    arguments = [call.get("arguments") for call in calls if isinstance(call, dict)]
    return [text for text in (*arguments, message.get("content"), choice.get("text")) if isinstance(text, str)]


def base_url_from_environment() -> str | None:
    """Return the address in OPENAI_BASE_URL, or None if it is not set."""
    return os.environ.get("OPENAI_BASE_URL") or None


def api_key() -> str:
    """Return the key in OPENAI_API_KEY, or "" if it is not set."""
    return os.environ.get("OPENAI_API_KEY", "").strip()


def redact_key(text: str) -> str:
    """Return a server's text with "[key]" in place of the key. A placeholder such as EMPTY does not count as a key."""
    return text.replace(api_key(), "[key]") if len(api_key()) > len("EMPTY") else text


def without_password(url: str) -> str:
    """Return an address without the user name and password that it may contain."""
    scheme, separator, rest = url.rpartition("://")
    return scheme + separator + rest.rpartition("@")[2]
