"""Reading what a server answers. Any bytes may come: nothing here raises an error because of them."""

import codecs
import email.utils
import json
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from isheep.openai_client import ServerReply, redact_key, written_texts

# The number of characters that are kept of an answer that is not a completion.
BODY_CHARACTERS = 2000
# The encodings that are read, by Python's names. JSON is UTF-8, and others of Python's codecs, such as zip, are no
# encodings of texts, or not for data from others.
CHARSETS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "ascii", "iso8859-1", "cp1252")
# Statuses after which a request is sent again later, beside those of 500 and above.
RETRIED = (408, 409, 425, 429)


class HttpAnswer(NamedTuple):
    """A server's answer to a request, whatever its status is."""

    status: int
    text: str
    """The content, without the key. Bytes that can't be decoded are replaced."""
    unreadable: str
    """Why the content can't be decoded as its header says; "" if it can."""
    retry_after: float
    """The seconds that the server asks to wait for; 0 if it asks for nothing."""
    content_type: str = ""
    """The type of the content as the header says, without its parameters: "application/json"."""

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def may_succeed_later(self) -> bool:
        """Whether the same request may get another answer."""
        return self.is_success or self.status >= 500 or self.status in RETRIED


def decode(content: bytes, charset: str | None) -> tuple[str, str]:
    """Return the text of an answer's content, and why it can't be decoded as the header says; "" if it can."""
    try:
        name = codecs.lookup(charset or "utf-8").name
    # It may have no codec (LookupError), or not be a name (ValueError).
    except (LookupError, ValueError):
        name = ""
    if name in CHARSETS:
        return content.decode(name, errors="replace"), ""
    return content.decode(errors="replace"), f"its charset {charset!r:.40} is unknown"


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds in the header Retry-After, which is a number or a date; 0 if there is none.

    A date is compared with the server's own clock (Date) if the answer has it, because ours may be wrong.
    """
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        now = _timestamp(headers.get("date", ""))
        seconds = (_timestamp(value) or 0.0) - (time.time() if now is None else now)
    # The comparison is false for nan.
    return seconds if seconds > 0 else 0.0


def _timestamp(date: str) -> float | None:
    """Return a date in a header as seconds since 1970; None if it can't be read."""
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


def read_reply(answer: HttpAnswer, key: str, model: object = None) -> ServerReply:
    """Return the reply in a server's answer to a request for a model.

    An answer with a good status that is not a completion is no error: it is kept as `body`, because it was paid for. So
    is one whose text can't be read, with the reason.
    """
    content = parse_object(answer.text)
    # FastAPI calls the error "detail".
    choices, error = content.get("choices"), content.get("error") or content.get("detail")
    if not answer.is_success or (error and not choices):
        return ServerReply(key=key, error=_error_text(answer.status, error))
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
    unreadable, body = answer.unreadable, answer.text
    if choice and not unreadable and any(map(_has_half_pair, written_texts(choice))):
        unreadable, body = "it has half of a surrogate pair", next(iter(written_texts(choice)))
    usage, name = content.get("usage"), content.get("model")
    is_other_model = isinstance(name, str) and isinstance(model, str) and name != model
    other_model = _printable_line(name)[:200] if is_other_model else ""
    read, written = _token_count(usage, "prompt_tokens"), _token_count(usage, "completion_tokens")
    if choice and not unreadable:
        # Beside the text, such as in the tokens of log-probabilities, "?" replaces what no file can hold.
        choice = json.loads(json.dumps(choice, ensure_ascii=False).encode(errors="replace"))
        return ServerReply(key=key, choice=choice, read=read, written=written, model=other_model)
    body = body[:BODY_CHARACTERS].encode(errors="replace").decode()
    return ServerReply(key=key, body=body, read=read, written=written, unreadable=unreadable)


def parse_object(text: str) -> dict[str, Any]:
    """Return the JSON object that a text is; an empty one if it is none."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _has_half_pair(text: str) -> bool:
    """Return whether a text has half of a surrogate pair, which no encoding of Unicode can write."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def _error_text(status: int, error: object) -> str:
    """Return a status and the server's message in one printable line."""
    message = error.get("message") if isinstance(error, dict) else error
    line = _printable_line(message or "")[:200]
    return f"HTTP {status}: {redact_key(line)}" if line else f"HTTP {status}"


def _printable_line(value: object) -> str:
    """Return a value of a server as a line that can be printed, and written as UTF-8."""
    return " ".join("".join(character if character.isprintable() else " " for character in str(value)).split())


def _token_count(usage: object, name: str) -> int | None:
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if type(count) is int and count >= 0 else None
