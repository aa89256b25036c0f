"""A judge at an OpenAI-compatible endpoint: what is asked, kept, paid. client.py has the calls."""

import contextlib
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from isheep.errors import UserError
from isheep.judges.base import Messages, count_tokens, merge_parameters, request_key
from isheep.openai_client import (
    FATAL,
    OPENAI,
    ServerReply,
    api_key,
    base_url_from_environment,
    call_concurrently,
    open_client,
    post_with_retries,
    redact_key,
    without_password,
)
from isheep.recipe.schema import Judging
from isheep.rundir.folder import RunFolder
from isheep.rundir.progress import progress

JUDGE_LOG = "judge.jsonl"  # in a run folder: every answer of an endpoint, in the order in which they came
REFUSED = (401, 403)  # the key
PATIENCE = 10.0  # seconds for the question whether anybody is there
CHARACTERS = 4  # in a token, for the estimate


class EndpointJudge(NamedTuple):
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

        url = where()
        with open_client(url, self.settings) as client, contextlib.suppress(httpx2.HTTPError):
            try:
                status = client.get("models", timeout=min(PATIENCE, self.settings.timeout)).status_code
                wrong = f"HTTP {status}" if status in REFUSED else ""
            except httpx2.ConnectError as error:
                wrong = redact_key(f"no connection: {error}")
            if wrong:
                who = f"judge {self.model!r}" if self.model else "the judge"
                raise UserError(f"{who} at {without_password(url)}: {wrong}; {WAY_OUT}")

    def ask(
        self,
        asked: Sequence[Messages],
        parameters: Mapping[str, Any],
        folder: RunFolder,
        default: str,
        options: Sequence[str],
    ) -> list[ServerReply]:
        """Concurrent, with attempts as the settings say. Tokens and cost are said before and after.

        The first call is made by itself, so that a wrong key, address or name ends it before the others are made.
        Raises UserError then, and where no call at all is answered.
        """
        model, parameters = self.named(default), merge_parameters(parameters, self.parameters)
        bodies = {request_key(model, one, parameters): {**parameters, "model": model, "messages": one} for one in asked}
        kept = Kept(folder.root / JUDGE_LOG)
        owed = {key: body for key, body in bodies.items() if key not in kept.replies}
        folder.notify(before(model, len(bodies), owed.values(), self.settings.price))
        failed = self.make(owed, kept) if owed else {}
        replies = [
            kept.replies.get(key) or failed[key] for key in (request_key(model, one, parameters) for one in asked)
        ]
        if replies and all(reply.error for reply in replies):
            raise UserError(f"none of {len(bodies)} calls to the judge {model!r} was answered ({replies[0].error})")
        folder.notify(after(model, replies, self.settings.price))
        return replies

    def make(self, owed: Mapping[str, dict[str, Any]], kept: "Kept") -> dict[str, ServerReply]:
        """Makes the calls; what is answered goes to `kept` at once. Returns those that were not."""
        url = where()
        with open_client(url, self.settings) as client, progress("judge", len(owed), 0) as advance:

            def calls(keys: Sequence[str]) -> list[ServerReply]:
                stop = threading.Event()

                def call(key: str) -> ServerReply:
                    reply = post_with_retries(client, "chat/completions", owed[key], key, self.settings, stop)
                    if not reply.error:
                        kept.keep(reply)
                    return reply

                return call_concurrently(call, keys, self.settings, stop, advance)

            first, *others = owed
            replies = calls([first])
            if replies[0].error.startswith(FATAL):
                raise UserError(
                    f"judge {owed[first]['model']!r} at {without_password(url)}: {replies[0].error}; {WAY_OUT}"
                )
            replies += calls(others)
        return {one.key: one for one in replies if one.error}


WAY_OUT = "set OPENAI_BASE_URL and OPENAI_API_KEY for a judge that answers, and give its model's name"


def where() -> str:
    """The judge's address. Raises UserError where the environment names none and there is no key for OpenAI's."""
    url = base_url_from_environment() or OPENAI
    if not api_key() and url == OPENAI:
        raise UserError(f"no judge to ask: {WAY_OUT}, or take a local judge (local: true)")
    return url


class Kept:
    """The answers in a run's judge.jsonl, by key. Safe to add to from several threads; a torn line is asked again."""

    def __init__(self, path: Path) -> None:
        self.path, self.lock, self.replies = path, threading.Lock(), dict[str, ServerReply]()
        content = path.read_bytes() if path.exists() else b""
        for line in content.splitlines():
            try:
                reply = ServerReply.model_validate_json(line)
            except ValidationError:
                continue
            self.replies[reply.key] = reply
        self.torn = bool(content) and not content.endswith(b"\n")

    def keep(self, reply: ServerReply) -> None:
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


def after(model: str, replies: Sequence[ServerReply], price: tuple[float, float] | None) -> str:
    """What all these replies cost, those kept from before included."""
    used, failed = count_tokens(replies), sum(bool(reply.error) for reply in replies)
    costs = cost(price, used["read"], used["written"]) if price else "unknown (machine.judging.price)"
    silent = f", {used['unknown']} answers without a count" * bool(used["unknown"])
    errors = f", {failed} failed ({next(reply.error for reply in replies if reply.error)})" if failed else ""
    return (
        f"judge {model}: {len(replies) - failed} answered{errors}; {used['read']:,} tokens read, "
        f"{used['written']:,} written{silent}; cost in all {costs}"
    )


def cost(price: tuple[float, float], read: int, written: int) -> str:
    return f"{(price[0] * read + price[1] * written) / 1e6:.2f}"
