"""Judges: language models that rate answers, at an OpenAI-compatible endpoint or as an engine on this machine.

A judge is asked many conversations and gives as many replies, in the same order. A call that fails is a reply with an
`error`; whether the text of a reply is a verdict is for the caller to see. What an endpoint answered is stored as soon
as it arrives, by the content of the request, and never paid again.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from isheep.batching import derive_seed
from isheep.engines import Engine
from isheep.errors import TooLong, UserError
from isheep.models.chat_template import ChatTemplate
from isheep.openai_client import ServerReply
from isheep.records import Completion, Sampling
from isheep.rundir.folder import RunFolder

Messages = list[dict[str, str]]
"""A conversation: messages with a role and a content."""

DOES_NOT_FIT = "the prompt does not fit its context"
# Conversations in one call of an engine.
BATCH_SIZE = 32


class Judge(Protocol):
    """A model that rates answers."""

    @property
    def kind(self) -> str:
        """Return "endpoint", or "local" for an engine on this machine."""

    @property
    def identity(self) -> str:
        """Return what tells this judge from another of the same name; "" if name and parameters are enough."""

    def name_or(self, default: str) -> str:
        """Return the judge's name in results; `default` is the benchmark's own judge."""

    def check(self) -> None:
        """Raise UserError if the judge can't be asked. Costs nothing."""

    def ask(
        self,
        conversations: Sequence[Messages],
        parameters: Mapping[str, Any],
        folder: RunFolder,
        default_model: str,
        options: Sequence[str],
    ) -> list[ServerReply]:
        """Return a reply to each conversation, in order.

        `parameters` are the request's, such as temperature and max_tokens. If they ask for `logprobs`, `options` are
        the texts whose probabilities count.
        """


def request_key(model: str, messages: Messages, parameters: Mapping[str, Any]) -> str:
    """Return a hash of what a judge is asked; the endpoint's address is no part of it."""
    text = json.dumps({**parameters, "model": model, "messages": messages}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def merge_parameters(parameters: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request's parameters with those of the recipe over them; None removes a parameter."""
    return {name: value for name, value in {**parameters, **own}.items() if value is not None}


def safe_file_name(name: str) -> str:
    """Return a judge's name in a form that a file name may contain."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "judge"


def count_outcomes(replies: Sequence[ServerReply], verdicts: Sequence[float | None]) -> dict[str, Any]:
    """Count the calls with a verdict, with a text that is none, and without a text, with reasons and tokens."""
    errors = Counter(reply.error.partition(":")[0] for reply in replies if reply.error)
    readable = sum(verdict is not None for verdict in verdicts)
    failed = sum(errors.values())
    counts = {"ok": readable, "unreadable": len(replies) - readable - failed, "error": failed}
    return {"outcomes": counts, "errors": dict(sorted(errors.items())), "tokens": count_tokens(replies)}


def judge_notes(
    model: str, judge: str, kind: str, replies: Sequence[ServerReply], verdicts: Sequence[float | None]
) -> tuple[str, ...]:
    """Return the notes that a reader needs: the judge's name, and how many answers of `model` have no verdict."""
    note = f"judged by {judge}"
    if kind == "local":
        note += ", a model of ours: not to be set beside published figures"
    counts = count_outcomes(replies, verdicts)["outcomes"]
    if counts["ok"] == len(replies):
        return (note,)
    unread = f"{counts['unreadable']} verdicts can't be read, {counts['error']} calls failed"
    return note, f"{model}: {unread}, of {len(replies)}; they are left out"


def count_tokens(replies: Sequence[ServerReply]) -> dict[str, int]:
    """Count tokens read and written, each call once; "unknown" is the number of calls without a count."""
    answered = {reply.key: reply for reply in replies if not reply.error}.values()
    return {
        "read": sum(reply.read or 0 for reply in answered),
        "written": sum(reply.written or 0 for reply in answered),
        "unknown": sum(reply.read is None or reply.written is None for reply in answered),
    }


class LocalJudge(NamedTuple):
    """A model of ours as a judge. Its replies are stored in the benchmark's folder, in fixed batches.

    `name` is a run folder, a checkpoint or a name on the Hub, as in the recipe. `open` loads nothing before a call.
    `parameters` replace those of a request, and None removes one. `identity` is of the weights, if the name may mean
    other weights later.
    """

    name: str
    open: Callable[[], tuple[Engine, ChatTemplate]]
    seed: int
    parameters: Mapping[str, Any] = {}
    kind: str = "local"
    identity: str = ""

    def name_or(self, default: str) -> str:
        """Return the judge's name in results."""
        return self.name

    def check(self) -> None:
        """Raise UserError if there is no such model."""
        self.open()[0].close()

    def ask(
        self,
        conversations: Sequence[Messages],
        parameters: Mapping[str, Any],
        folder: RunFolder,
        default_model: str,
        options: Sequence[str],
    ) -> list[ServerReply]:
        """Return a reply to each conversation. Raises UserError if the stored replies are to other conversations."""
        parameters = merge_parameters(parameters, self.parameters)
        keys = [request_key(self.name + self.identity, messages, parameters) for messages in conversations]
        name = f"replies-{safe_file_name(self.name)}.jsonl"
        engine, chat = self.open()

        def reply_to(prompts: Sequence[str], seed: int) -> list[ServerReply]:
            if parameters.get("logprobs"):
                return [_choice_reply(probabilities, options) for probabilities in engine.choices(prompts, options)]
            completions = engine.generate(prompts, engine_sampling(parameters, chat), seed)
            return [_text_reply(completion) for completion in completions]

        def make_batch(start: int) -> list[ServerReply]:
            batch = [render_prompt(chat, messages) for messages in conversations[start : start + BATCH_SIZE]]
            replies = reply_if_fitting(batch, partial(reply_to, seed=derive_seed(self.seed, name, start)))
            return [reply.model_copy(update={"key": keys[start + index]}) for index, reply in enumerate(replies)]

        try:
            rows = folder.map_batches(name, ServerReply, make_batch, len(keys), BATCH_SIZE, engine.max_in_flight)
            replies = list(rows)
        finally:
            engine.close()
        if [reply.key for reply in replies] != keys:
            raise UserError(
                f"{folder.path / name} has replies to other questions: delete it to have the judge asked again"
            )
        if replies and all(reply.error for reply in replies):
            raise UserError(f"judge {self.name!r}: {replies[0].error}, and so for all {len(replies)} prompts")
        return replies


def reply_if_fitting(
    prompts: Sequence[str], reply_to: Callable[[Sequence[str]], list[ServerReply]]
) -> list[ServerReply]:
    """Return the replies to prompts; a prompt over the judge's context becomes a failed call instead of an error."""
    try:
        return reply_to(prompts)
    except TooLong:
        if len(prompts) == 1:
            return [ServerReply(key="", error=DOES_NOT_FIT)]
        return [reply for prompt in prompts for reply in reply_if_fitting([prompt], reply_to)]


def render_prompt(chat: ChatTemplate, messages: Messages) -> str:
    """Return a conversation as a model of ours reads it.

    If its chat template refuses or drops a system turn, the system message begins the user's turn.
    """
    turns = [(message["role"], message["content"]) for message in messages]
    has_system = turns[0][0] == "system" and len(turns) > 1
    try:
        text = chat.conversation(turns)
    except Exception:
        # Templates refuse a role by raising an exception of any class.
        if not has_system:
            raise
    else:
        if not has_system or turns[0][1].strip() in text:
            return text
    (_, system), (role, first), *remaining = turns
    return chat.conversation([(role, f"{system}\n\n{first}"), *remaining])


def engine_sampling(parameters: Mapping[str, Any], chat: ChatTemplate) -> Sampling:
    """Return a request's parameters as an engine takes them."""
    names = ("temperature", "top_p", "max_tokens")
    supported = {name: parameters[name] for name in names if name in parameters}
    return Sampling(**{"top_p": 1.0, **supported}, stop=(chat.end,))


def _text_reply(completion: Completion) -> ServerReply:
    """Return a completion in the form of an endpoint's reply."""
    if not completion.tokens and completion.finish == "length":
        # There was no room for a single token.
        return ServerReply(key="", error=DOES_NOT_FIT)
    message = {"role": "assistant", "content": completion.text.strip()}
    choice = {"index": 0, "finish_reason": completion.finish, "message": message}
    return ServerReply(key="", choice=choice, written=completion.tokens)


def _choice_reply(probabilities: Sequence[float], options: Sequence[str]) -> ServerReply:
    """Return the options by their probabilities, as a choice with the log-probabilities of its only token."""
    ranking = sorted(zip(probabilities, options, strict=True), reverse=True)
    top = [{"token": option, "logprob": math.log(probability)} for probability, option in ranking if probability]
    message = {"role": "assistant", "content": top[0]["token"] if top else ""}
    content = [{**top[0], "top_logprobs": top}] if top else []
    choice = {"index": 0, "finish_reason": "length", "message": message, "logprobs": {"content": content}}
    return ServerReply(key="", choice=choice, written=0)
