"""A judge at an OpenAI-compatible endpoint: OPENAI_BASE_URL says where, OPENAI_API_KEY is the key, seen only here."""

import contextlib
import email.utils
import json
import os
import random
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from isheep.errors import UserError
from isheep.judges import Messages, Reply, key_of, over, tokens
from isheep.progress import progress
from isheep.recipe import Judging
from isheep.run import Folder

if TYPE_CHECKING:
    from httpx2 import Client, Response

OPENAI = "https://api.openai.com/v1"
KEPT = "judge.jsonl"  # in a run folder: every answer of an endpoint, in the order in which they came
AGAIN = (408, 409, 425, 429)  # and 5xx: asked again later
REFUSED = (401, 403)  # the key
WRONG = (*REFUSED, 404)  # the key, the address or the model's name: the same for all calls
PATIENCE = 10.0  # seconds for the question whether anybody is there
LONGEST = 300.0  # seconds before another attempt, whatever the endpoint asks for
BODY = 2000  # characters kept of an answer that is no completion
CHARACTERS = 4  # in a token, for the estimate


class Endpoint(NamedTuple):
    """A judge by its name at the endpoint; None: the benchmark's own."""

    model: str | None
    settings: Judging
    parameters: Mapping[str, Any] = {}  # over those of a question; None takes one out
    kind: str = "endpoint"
    identity: str = ""

    def named(self, default: str) -> str:
        return self.model or default

    def ready(self) -> None:
        """The environment names an endpoint, something is there, and it does not refuse the key.

        It is asked for its list of models, which is free; one that has none, or is slow to say so, may still judge.
        """
        import httpx2

        with connect(self.settings) as client, contextlib.suppress(httpx2.HTTPError):
            try:
                status = client.get("models", timeout=min(PATIENCE, self.settings.timeout)).status_code
                wrong = f"HTTP {status}" if status in REFUSED else ""
            except httpx2.ConnectError as error:
                wrong = clean(f"no connection: {error}")
            if wrong:
                who = f"judge {self.model!r}" if self.model else "the judge"
                raise UserError(f"{who} at {shown(address())}: {wrong}; {WAY_OUT}")

    def ask(
        self,
        asked: Sequence[Messages],
        parameters: Mapping[str, Any],
        folder: Folder,
        default: str,
        options: Sequence[str],
    ) -> list[Reply]:
        """Concurrent, with attempts as the settings say. Tokens and cost are said before and after.

        The first call is made by itself, so that a wrong key, address or name ends it before the others are made.
        Raises UserError then, and where no call at all is answered.
        """
        model, parameters = self.named(default), over(parameters, self.parameters)
        bodies = {key_of(model, one, parameters): {**parameters, "model": model, "messages": one} for one in asked}
        kept = Kept(folder.root / KEPT)
        owed = {key: body for key, body in bodies.items() if key not in kept.replies}
        folder.say(before(model, len(bodies), owed.values(), self.settings.price))
        failed = self.make(owed, kept) if owed else {}
        replies = [kept.replies.get(key) or failed[key] for key in (key_of(model, one, parameters) for one in asked)]
        if replies and all(reply.error for reply in replies):
            raise UserError(f"none of {len(bodies)} calls to the judge {model!r} was answered ({replies[0].error})")
        folder.say(after(model, replies, self.settings.price))
        return replies

    def make(self, owed: Mapping[str, dict[str, Any]], kept: "Kept") -> dict[str, Reply]:
        """Makes the calls; what is answered goes to `kept` at once. Returns those that were not."""
        stop = threading.Event()
        with connect(self.settings) as client, progress("judge", len(owed), 0) as advance:

            def call(key: str) -> Reply:
                reply = _call(client, owed[key], key, self.settings, stop)
                if not reply.error:
                    kept.keep(reply)
                return reply

            first, *others = owed
            reply = call(first)
            if reply.error.startswith(FATAL):
                raise UserError(f"judge {owed[first]['model']!r} at {shown(address())}: {reply.error}; {WAY_OUT}")
            pool = ThreadPoolExecutor(self.settings.at_once)
            try:
                calls = [pool.submit(call, key) for key in others]
                replies = [reply]
                advance(1)
                for done in as_completed(calls):
                    replies.append(done.result())
                    advance(1)
            finally:
                stop.set()  # no new attempts; what is under way may be paid already, and is waited for
                pool.shutdown(cancel_futures=True)
        return {one.key: one for one in replies if one.error}


FATAL = tuple(f"HTTP {status}" for status in WRONG) + ("no connection",)
WAY_OUT = "set OPENAI_BASE_URL and OPENAI_API_KEY for a judge that answers, and give its model's name"


def address() -> str:
    return os.environ.get("OPENAI_BASE_URL") or OPENAI


def secret() -> str:
    return os.environ.get("OPENAI_API_KEY", "").strip()


def shown(url: str) -> str:
    """An address without the password that it may hold."""
    scheme, separator, rest = url.rpartition("://")
    return scheme + separator + rest.rpartition("@")[2]


def connect(settings: Judging) -> "Client":
    """Raises UserError where the environment names no endpoint, or a wrong one."""
    import httpx2

    url, key = address(), secret()
    if not key and url == OPENAI:
        raise UserError(f"no judge to ask: {WAY_OUT}, or take a local judge (local: true)")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError("OPENAI_API_KEY holds characters that no key has: set it again")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    limits = httpx2.Limits(max_connections=settings.at_once)
    try:
        client = httpx2.Client(base_url=url, headers=headers, timeout=settings.timeout, limits=limits)
    except (httpx2.InvalidURL, ValueError):
        raise UserError(f"OPENAI_BASE_URL {shown(url)!r} is no address: give one such as {OPENAI}") from None
    if client.base_url.scheme not in ("http", "https"):
        raise UserError(f"OPENAI_BASE_URL {shown(url)!r} is no address: give one such as {OPENAI}")
    return client


def _call(client: "Client", body: dict[str, Any], key: str, settings: Judging, stop: threading.Event) -> Reply:
    """One call, asked again where that may help: the wait doubles, or is what the endpoint asks for."""
    import httpx2

    reply = Reply(key=key, error="not asked")
    chance = random.Random(key)
    for attempt in range(settings.attempts):
        wait = settings.wait * 2**attempt * chance.uniform(0.5, 1)
        try:
            response = client.post("chat/completions", json=body)
            reply = read(response, key)
            later = response.is_success or response.is_server_error or response.status_code in AGAIN
            if not reply.error or not later:
                return reply
            wait = max(wait, retry_after(response))
        except httpx2.TimeoutException:
            reply = Reply(key=key, error=f"timed out: after {settings.timeout:g} s")
        except httpx2.ConnectError as error:
            reply = Reply(key=key, error=clean(f"no connection: {error}"))
        except httpx2.HTTPError as error:
            reply = Reply(key=key, error=clean(f"{type(error).__name__}: {error}"))
        if attempt + 1 < settings.attempts and stop.wait(min(wait, LONGEST)):
            break
    return reply


def read(response: "Response", key: str) -> Reply:
    """What an endpoint answered. A good status with something else than a completion is an answer too: it is paid."""
    text = clean(response.text)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    content = content if isinstance(content, dict) else {}
    choices, said = content.get("choices"), content.get("error")
    if not response.is_success or said and not choices:
        said = said.get("message") if isinstance(said, dict) else said
        about = " ".join("".join(c if c.isprintable() else " " for c in str(said or "")).split())[:200]
        return Reply(key=key, error=f"HTTP {response.status_code}" + f": {about}" * bool(about))
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else None
    if choice:  # half of a character, written as an escape, is no text that could be kept
        choice = json.loads(json.dumps(choice, ensure_ascii=False).encode(errors="replace"))
    usage = content.get("usage")
    counts = [usage.get(name) if isinstance(usage, dict) else None for name in ("prompt_tokens", "completion_tokens")]
    used = [count if isinstance(count, int) else None for count in counts]
    return Reply(key=key, choice=choice, body="" if choice else text[:BODY], read=used[0], written=used[1])


def clean(text: str) -> str:
    """What comes from outside, without the key, should it be echoed. A placeholder such as EMPTY is no key."""
    return text.replace(secret(), "[key]") if len(secret()) > len("EMPTY") else text


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


class Kept:
    """The answers in a run's judge.jsonl, by key. Safe to add to from several threads; a torn line is asked again."""

    def __init__(self, path: Path) -> None:
        self.path, self.lock, self.replies = path, threading.Lock(), dict[str, Reply]()
        content = path.read_bytes() if path.exists() else b""
        for line in content.splitlines():
            try:
                reply = Reply.model_validate_json(line)
            except ValidationError:
                continue
            self.replies[reply.key] = reply
        self.torn = bool(content) and not content.endswith(b"\n")

    def keep(self, reply: Reply) -> None:
        with self.lock, self.path.open("ab") as file:
            file.write(b"\n" * self.torn + reply.model_dump_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            self.torn = False
            self.replies[reply.key] = reply


# --- what people see


def before(model: str, calls: int, owed: Any, price: tuple[float, float] | None) -> str:
    """What is about to be asked and may cost, from the characters of the prompts and the limit of the answers."""
    owed = list(owed)
    read = sum(len(one["content"]) for body in owed for one in body["messages"]) // CHARACTERS
    written = sum(body.get("max_tokens") or body.get("max_completion_tokens") or 0 for body in owed)
    kept = f", {calls - len(owed)} of them kept from before" * (len(owed) < calls)
    text = f"judge {model}: {calls} calls{kept}"
    if not owed:
        return f"{text}: nothing to pay"
    costs = f"{cost(price, read, 0)} to {cost(price, read, written)}" if price else "unknown (machine.judging.price)"
    return f"{text}; about {read:,} tokens to read, at most {written:,} to write; cost {costs}"


def after(model: str, replies: Sequence[Reply], price: tuple[float, float] | None) -> str:
    """What all these replies cost, those kept from before included."""
    used, failed = tokens(replies), sum(bool(reply.error) for reply in replies)
    costs = cost(price, used["read"], used["written"]) if price else "unknown (machine.judging.price)"
    silent = f", {used['unknown']} answers without a count" * bool(used["unknown"])
    errors = f", {failed} failed ({next(reply.error for reply in replies if reply.error)})" if failed else ""
    return (
        f"judge {model}: {len(replies) - failed} answered{errors}; {used['read']:,} tokens read, "
        f"{used['written']:,} written{silent}; cost in all {costs}"
    )


def cost(price: tuple[float, float], read: int, written: int) -> str:
    return f"{(price[0] * read + price[1] * written) / 1e6:.2f}"
