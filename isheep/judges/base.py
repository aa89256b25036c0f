"""Judges: what a language model says of answers, asked at an OpenAI-compatible endpoint or of an engine of ours.

A judge is asked many conversations and gives as many replies, in the same order. A call that fails is a reply with an
`error`; whether the text of a reply is a verdict, who asked must see. What an endpoint answered is kept on disk as soon
as it is there, by the content of what was asked, and never paid again.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from isheep.batching import derive_seed, ordered_map
from isheep.engines import Engine
from isheep.errors import TooLong, UserError
from isheep.models.chat_template import ChatTemplate, render_conversation
from isheep.openai_client import ServerReply
from isheep.records import Completion, Sampling
from isheep.rundir.folder import RunFolder

Messages = list[dict[str, str]]  # of a conversation: role, content
LONG = "the prompt does not fit its context"
SIZE = 32  # conversations that an engine is asked at once


class Judge(Protocol):
    """Who is asked."""

    @property
    def kind(self) -> str:
        """ "endpoint", or "local" for a model of ours."""

    @property
    def identity(self) -> str:
        """What tells it from another judge of the same name; "" where a name and parameters say it all."""

    def named(self, default: str) -> str:
        """Its name in results, where the benchmark's own judge is `default`."""

    def ready(self) -> None:
        """Raises UserError where it can't be asked. Costs nothing."""

    def ask(
        self,
        asked: Sequence[Messages],
        parameters: Mapping[str, Any],
        folder: RunFolder,
        default: str,
        options: Sequence[str],
    ) -> list[ServerReply]:
        """A reply to each conversation, in order. `parameters` are the request's, such as temperature and max_tokens.

        `options`: what the reply must be one of, where its probabilities are wanted (`logprobs` in `parameters`).
        """


def request_key(model: str, messages: Messages, parameters: Mapping[str, Any]) -> str:
    """The same for the same content. Where it is asked does not count."""
    text = json.dumps({**parameters, "model": model, "messages": messages}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def merge_parameters(parameters: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A request's parameters with a recipe's own over them; None takes one out."""
    return {name: value for name, value in {**parameters, **own}.items() if value is not None}


def safe_file_name(name: str) -> str:
    """A judge's name as a part of a file's name."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "judge"


def count_outcomes(replies: Sequence[ServerReply], verdicts: Sequence[float | None]) -> dict[str, Any]:
    """How many calls gave a verdict, a text without one, and nothing; why these did not; the tokens they cost."""
    errors = Counter(reply.error.partition(":")[0] for reply in replies if reply.error)
    read = sum(verdict is not None for verdict in verdicts)
    failed = sum(errors.values())
    counts = {"ok": read, "unreadable": len(replies) - read - failed, "error": failed}
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
    """Tokens read and written, each call counted once; "unknown": calls whose endpoint did not say."""
    answered = {reply.key: reply for reply in replies if not reply.error}.values()
    return {
        "read": sum(reply.read or 0 for reply in answered),
        "written": sum(reply.written or 0 for reply in answered),
        "unknown": sum(reply.read is None or reply.written is None for reply in answered),
    }


class LocalJudge(NamedTuple):
    """A model of ours as a judge. Its replies are kept in the benchmark's folder, in fixed batches as other rows."""

    name: str  # a run folder, a checkpoint, a name on the Hub: as the recipe has it
    open: Callable[[], tuple[Engine, ChatTemplate]]  # nothing heavy is loaded before it is asked
    seed: int
    parameters: Mapping[str, Any] = {}  # over those of a question; None takes one out
    kind: str = "local"
    identity: str = ""  # of its weights, where `name` may mean others later

    def named(self, default: str) -> str:
        return self.name

    def ready(self) -> None:
        self.open()[0].close()

    def ask(
        self,
        asked: Sequence[Messages],
        parameters: Mapping[str, Any],
        folder: RunFolder,
        default: str,
        options: Sequence[str],
    ) -> list[ServerReply]:
        """Raises UserError where the kept replies are to other questions."""
        parameters = merge_parameters(parameters, self.parameters)
        keys = [request_key(self.name + self.identity, messages, parameters) for messages in asked]
        name = f"replies-{safe_file_name(self.name)}.jsonl"
        engine, chat = self.open()

        def reply(prompts: Sequence[str], seed: int) -> list[ServerReply]:
            if parameters.get("logprobs"):
                return [_weighed(chances, options) for chances in engine.choices(prompts, options)]
            return [_written(one) for one in engine.generate(prompts, sampling(parameters, chat), seed)]

        def made(start: int) -> list[ServerReply]:
            some = [as_prompt(chat, messages) for messages in asked[start : start + SIZE]]
            found = fitting(some, partial(reply, seed=derive_seed(self.seed, name, start)))
            return [one.model_copy(update={"key": keys[start + n]}) for n, one in enumerate(found)]

        def owed(done: Sequence[ServerReply]) -> Iterator[list[ServerReply]]:
            return ordered_map(made, range(len(done), len(asked), SIZE), engine.max_in_flight)

        try:
            replies = list(folder.records(name, ServerReply, owed, SIZE, len(asked)))
        finally:
            engine.close()
        if [reply.key for reply in replies] != keys:
            raise UserError(
                f"{folder.path / name} has replies to other questions: delete it to have the judge asked again"
            )
        if replies and all(one.error for one in replies):
            raise UserError(f"judge {self.name!r}: {replies[0].error}, and so for all {len(replies)} prompts")
        return replies


def fitting(prompts: Sequence[str], reply: Callable[[Sequence[str]], list[ServerReply]]) -> list[ServerReply]:
    """The replies to prompts, where one that is too long for the judge is a call that failed, not the end."""
    try:
        return reply(prompts)
    except TooLong:
        if len(prompts) == 1:
            return [ServerReply(key="", error=LONG)]
        return [one for prompt in prompts for one in fitting([prompt], reply)]


def as_prompt(chat: ChatTemplate, messages: Messages) -> str:
    """A conversation as a model of ours reads it; with a template that has no system turn, it joins the user's."""
    turns = [(message["role"], chat.plain(message["content"])) for message in messages]
    try:
        return render_conversation(chat.tokenizer, chat.template, turns, open_answer=True)
    except Exception:  # a template says so by raising what it likes
        if turns[0][0] != "system" or len(turns) == 1:
            raise
        (_, system), (role, first), *others = turns
        return render_conversation(
            chat.tokenizer, chat.template, [(role, f"{system}\n\n{first}"), *others], open_answer=True
        )


def sampling(parameters: Mapping[str, Any], chat: ChatTemplate) -> Sampling:
    """A request's parameters as an engine knows them."""
    known = {name: parameters[name] for name in ("temperature", "top_p", "max_tokens") if name in parameters}
    return Sampling(**{"top_p": 1.0, **known}, stop=(chat.end,))


def _written(one: Completion) -> ServerReply:
    """What an engine wrote, in the form of a completion's choice. No token at all: there was no room for one."""
    if not one.tokens and one.finish == "length":
        return ServerReply(key="", error=LONG)
    message = {"role": "assistant", "content": one.text.strip()}
    return ServerReply(key="", choice={"index": 0, "finish_reason": one.finish, "message": message}, written=one.tokens)


def _weighed(chances: Sequence[float], options: Sequence[str]) -> ServerReply:
    """The options by their probabilities, in the form of a choice with the log-probabilities of its one token."""
    by_chance = sorted(zip(chances, options, strict=True), reverse=True)
    top = [{"token": option, "logprob": math.log(chance)} for chance, option in by_chance if chance]
    message = {"role": "assistant", "content": top[0]["token"] if top else ""}
    content = [{**top[0], "top_logprobs": top}] if top else []
    choice = {"index": 0, "finish_reason": "length", "message": message, "logprobs": {"content": content}}
    return ServerReply(key="", choice=choice, written=0)
