"""A judge at an OpenAI-compatible endpoint: its calls, their stored replies, and their cost."""

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
    without_password,
)
from isheep.openai_client.client import CallError, ServerRequests, open_client
from isheep.recipe.machine import Judging
from isheep.rundir import progress
from isheep.rundir.folder import RunFolder

JUDGE_LOG = "judge.jsonl"
"""The file in a run folder that has every answer of an endpoint, in the order of their arrival."""

# HTTP statuses that mean that the key is refused.
REFUSED = (401, 403)
# The error of a key that has expired. Some endpoints send 403 for a single prompt that they don't want to answer.
KEY_REFUSED = "HTTP 401"
# Seconds to wait for the list of models.
CHECK_TIMEOUT = 10.0
# Characters in a token, for the estimate of the cost.
CHARACTERS_PER_TOKEN = 4
WAY_OUT = "set OPENAI_BASE_URL and OPENAI_API_KEY for a judge that answers, and give its model's name"
UNKNOWN_COST = "unknown (machine.judging.price)"

Prices = tuple[float, float]
"""Of a million tokens read, and of a million written."""


class EndpointJudge(NamedTuple):
    """A judge by its name at the endpoint; None is the benchmark's own judge.

    `parameters` replace those of a request, and None removes one.
    """

    model: str | None
    settings: Judging
    parameters: Mapping[str, Any] = {}
    kind: str = "endpoint"
    identity: str = ""

    def name_or(self, default: str) -> str:
        """Return the judge's name, or the benchmark's own judge if it has none."""
        return self.model or default

    def check(self) -> None:
        """Raise UserError if the environment names no endpoint, nothing answers there, or it refuses the key.

        Asks for the list of models, which is free. An endpoint that has no such list, or is slow, may still judge.
        """
        url = judge_url()
        with open_client(url, self.settings) as client:
            try:
                status = client.request("GET", "models", limit=min(CHECK_TIMEOUT, self.settings.timeout)).status
                problem = f"HTTP {status}" if status in REFUSED else ""
            except CallError as error:
                problem = str(error) if str(error).startswith(FATAL) else ""
        if problem:
            judge = f"judge {self.model!r}" if self.model else "the judge"
            raise UserError(f"{judge} at {without_password(url)}: {problem}; {WAY_OUT}")

    def ask(
        self,
        conversations: Sequence[Messages],
        parameters: Mapping[str, Any],
        folder: RunFolder,
        default_model: str,
        options: Sequence[str],
    ) -> list[ServerReply]:
        """Return a reply to each conversation; calls are concurrent, and repeated as the settings say.

        Prints tokens and cost before and after. The first call is made alone, so that a wrong key, address or name
        ends it before the others are made. Raises UserError then, and if no call at all is answered.
        """
        model, parameters = self.name_or(default_model), merge_parameters(parameters, self.parameters)
        bodies = request_bodies(model, conversations, parameters)
        log = ReplyLog(folder.root / JUDGE_LOG)
        missing = [body for key, body in bodies.items() if key not in log.replies]
        folder.notify(estimate_line(model, len(bodies), missing, self.settings.price))
        replies = self.replies_to(conversations, parameters, log, model)
        if replies and all(reply.error for reply in replies):
            raise UserError(f"none of {len(bodies)} calls to the judge {model!r} was answered ({replies[0].error})")
        folder.notify(cost_line(model, replies, self.settings.price))
        return replies

    def replies_to(
        self, conversations: Sequence[Messages], parameters: Mapping[str, Any], log: "ReplyLog", default_model: str = ""
    ) -> list[ServerReply]:
        """Return a reply to each conversation, from the log or by a call. A call that fails is a reply with an error.

        Each answer is in the log as soon as it arrives. Raises UserError if the key, the address or the name is wrong.
        """
        model, parameters = self.name_or(default_model), merge_parameters(parameters, self.parameters)
        bodies = request_bodies(model, conversations, parameters)
        missing = {key: body for key, body in bodies.items() if key not in log.replies}
        failed = self._call(missing, log) if missing else {}
        keys = [request_key(model, messages, parameters) for messages in conversations]
        return [log.replies.get(key) or failed[key] for key in keys]

    def _call(self, bodies: Mapping[str, dict[str, Any]], log: "ReplyLog") -> dict[str, ServerReply]:
        """Make the calls, and store each answer in the log at once. Return the replies of those that failed, by key.

        The first call is made alone. Raises UserError if it fails with an error that all calls would end with, and as
        soon as the key of the others is refused.
        """
        url = judge_url()
        first, *remaining = bodies
        with open_client(url, self.settings) as client, progress.stage("judge", len(bodies), 0, "calls") as advance:

            def receive(reply: ServerReply) -> None:
                if reply.error.startswith(FATAL if reply.key == first else KEY_REFUSED):
                    judge = f"judge {bodies[first]['model']!r} at {without_password(url)}"
                    kept = "" if reply.key == first else f"the other answers are kept in {JUDGE_LOG}; "
                    raise UserError(f"{judge}: {reply.error}; {kept}{WAY_OUT}")
                if not reply.error:
                    log.append(reply)
                advance(1)

            def call_all(keys: Sequence[str]) -> dict[str, ServerReply]:
                requests = {key: bodies[key] for key in keys}
                return client.call_all(ServerRequests("chat/completions", requests, receive))

            replies = call_all([first]) | call_all(remaining)
        return {key: reply for key, reply in replies.items() if reply.error}


def request_bodies(
    model: str, conversations: Sequence[Messages], parameters: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return the body of the request for each conversation by its key. Equal conversations are one request."""
    return {
        request_key(model, messages, parameters): {**parameters, "model": model, "messages": messages}
        for messages in conversations
    }


def judge_url() -> str:
    """Return the judge's address. Raises UserError if the environment has neither an address nor a key of OpenAI's."""
    url = base_url_from_environment() or OPENAI
    if not api_key() and url == OPENAI:
        raise UserError(f"no judge to ask: {WAY_OUT}, or take a local judge (local: true)")
    return url


class ReplyLog:
    """The answers in a run's judge.jsonl, by key. Several threads may append; a torn line is asked again."""

    def __init__(self, path: Path) -> None:
        self.path, self.lock, self.replies = path, threading.Lock(), dict[str, ServerReply]()
        content = path.read_bytes() if path.exists() else b""
        for line in content.splitlines():
            try:
                reply = ServerReply.model_validate_json(line)
            except ValidationError:
                continue
            self.replies[reply.key] = reply
        self.ends_torn = bool(content) and not content.endswith(b"\n")

    def append(self, reply: ServerReply) -> None:
        """Write a reply to disk."""
        with self.lock, self.path.open("ab") as file:
            if self.ends_torn:
                file.write(b"\n")
            file.write(reply.model_dump_json().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            self.ends_torn = False
            self.replies[reply.key] = reply


# --- what people see


def estimate_line(model: str, num_calls: int, missing: Sequence[Mapping[str, Any]], price: Prices | None) -> str:
    """Return how many calls are to be made, and their cost by the prompts' characters and the limit of the answers."""
    text = f"judge {model}: {num_calls} calls"
    if len(missing) < num_calls:
        text += f", {num_calls - len(missing)} of them kept from before"
    if not missing:
        return f"{text}: nothing to pay"
    num_read = sum(len(turn["content"]) for body in missing for turn in body["messages"]) // CHARACTERS_PER_TOKEN
    max_written = sum(body.get("max_tokens") or body.get("max_completion_tokens") or 0 for body in missing)
    costs = f"{cost(price, num_read, 0)} to {cost(price, num_read, max_written)}" if price else UNKNOWN_COST
    return f"{text}; about {num_read:,} tokens to read, at most {max_written:,} to write; cost {costs}"


def cost_line(model: str, replies: Sequence[ServerReply], price: Prices | None) -> str:
    """Return what all replies cost, including those that were stored before."""
    tokens, errors = count_tokens(replies), [reply.error for reply in replies if reply.error]
    text = f"judge {model}: {len(replies) - len(errors)} answered"
    if errors:
        text += f", {len(errors)} failed ({errors[0]})"
    text += f"; {tokens['read']:,} tokens read, {tokens['written']:,} written"
    if tokens["unknown"]:
        text += f", {tokens['unknown']} answers without a count"
    total = cost(price, tokens["read"], tokens["written"]) if price else UNKNOWN_COST
    return f"{text}; cost in all {total}"


def cost(price: Prices, num_read: int, num_written: int) -> str:
    """Return the price of some tokens."""
    return f"{(price[0] * num_read + price[1] * num_written) / 1e6:.2f}"
