"""The class of the openai engine: a model on an OpenAI-compatible server, with the interface of every engine."""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from isheep.engines import openai_choices, server, structured, tokens
from isheep.errors import TooLong
from isheep.models.chat_template import ChatTemplate
from isheep.models.checkpoint import context_length, load_tokenizer, start_text, start_token_ids
from isheep.models.prompt_text import without_literal
from isheep.models.tokenization import continuation_ids, prompt_ids
from isheep.openai_client import SEED_LIMIT, ServerReply, client, without_password
from isheep.recipe.machine import ServerSettings
from isheep.records import UNREADABLE, Completion, Model, Sampling, TokenLogprobs
from isheep.rundir import kept_replies, progress
from isheep.rundir.progress import console

OTHER_ENGINE = "machine.engine: transformers"
ADAPTER_HINT = (
    "start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=true, or take"
    " machine.server.adapters: transformers, or one iteration without evaluation"
)


class OpenAIEngine:
    """An `isheep.engines.Engine` on a server. Open it with `isheep.engines.openai.open_engine`.

    Each prompt is a request of its own, because each has its own seed; `settings.max_in_flight` requests run at a time.
    Prompts are sent as token ids if the server accepts them, so that it reads the same tokens as the other engines.
    Raises UserError if a request fails in all its attempts.
    """

    # One call keeps the server busy, because it sends several requests at a time.
    max_in_flight = 1

    def __init__(self, model: Model, settings: ServerSettings, load_chat: Callable[[], ChatTemplate]) -> None:
        self.model, self.settings, self.load_chat = model, settings, load_chat

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.model.base)

    @cached_property
    def connection(self) -> server.ServerConnection:
        return server.connect(self.settings)

    @cached_property
    def abilities(self) -> server.ServerAbilities:
        """The abilities of the server. Raises UserError if it tokenizes a text differently than the recipe's model."""
        ids = self.prompt_ids([server.PROBE_TEXT])[0]
        abilities = server.probe(self.connection, ids)
        # A server that accepts token ids gets the beginning of sequence from us, so it may leave it out of a text. Any
        # other server must add it.
        min_tokens = len(ids)
        if abilities.token_ids:
            min_tokens -= len(start_token_ids(self.tokenizer))
        count = abilities.probe_tokens
        if self.settings.api == "completions" and count and not min_tokens <= count <= len(ids):
            raise self.connection.error(
                f"{self.connection.name!r} reads {count} tokens where {self.model.base!r} reads {len(ids)}: serve the"
                " recipe's model, without a template for prompts (Ollama: TEMPLATE {{ .Prompt }} in the Modelfile)"
            )
        return abilities

    @cached_property
    def context(self) -> int:
        """The length in tokens of the longest sequence."""
        return self.settings.context or min(self.abilities.context or 2**30, context_length(self.model.base))

    @cached_property
    def num_top_logprobs(self) -> int:
        """The number of tokens at a position whose log-probabilities the server gives. Raises UserError if it is 0."""
        if not self.most_logprobs:
            raise self.connection.error(
                f"it gives no log-probabilities: take assessment.read: generate, or {OTHER_ENGINE}"
            )
        return self.most_logprobs

    @cached_property
    def most_logprobs(self) -> int:
        """The number of tokens at a position whose log-probabilities the server gives, which may be 0."""
        return server.num_top_logprobs(self.connection)

    @cached_property
    def choice_form(self) -> structured.ChoiceForm | None:
        """The form in which the server offers structured choice, or None."""
        return structured.find_choice_form(self.connection)

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """The special tokens, which are never part of an answer."""
        added = self.tokenizer.added_tokens_decoder.values()
        return tuple({token.content for token in added if token.special} | {*self.tokenizer.all_special_tokens} - {""})

    @cached_property
    def adapter(self) -> str:
        """The server's name for this engine's model, after loading its adapter. Raises UserError if that fails."""
        if not self.model.adapter:
            return self.connection.name
        file = self.model.adapter / "adapter_model.safetensors"
        name = f"isheep-{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"
        if name not in [entry.get("id") for entry in server.list_models(self.connection)]:
            body = {"lora_name": name, "lora_path": str(self.model.adapter.resolve())}
            status, text = self.connection.post("load_lora_adapter", body)
            if status >= 400:
                raise self.connection.error(
                    f"it does not load the adapter {self.model.adapter} ({text}); {ADAPTER_HINT}"
                )
        return name

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        """Return one continuation per prompt, in order, each drawn with its own seed."""
        return self.generate_seeded(prompts, sampling, tokens.request_seeds(seed, len(prompts)))

    def generate_seeded(self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int]) -> list[Completion]:
        """Return one continuation per prompt as `generate`, each drawn with its own seed."""
        progress.expect(sampling.max_tokens)
        rows = self.prompt_ids(prompts)
        fitting = tokens.fitting_indices(rows, self.context, self.too_long)
        bodies = [
            {
                **self.prompt_parameters(prompts[index], rows[index]),
                **self._sampling_parameters(sampling, min(sampling.max_tokens, self.context - len(rows[index]))),
                "seed": seeds[index] % SEED_LIMIT,
            }
            for index in fitting
        ]
        completions = [Completion("", 0, "length") for _ in rows]
        for index, reply in zip(fitting, self.replies(bodies), strict=True):
            completions[index] = self._completion(reply, sampling.stop)
        return completions

    def _sampling_parameters(self, sampling: Sampling, max_tokens: int) -> dict[str, Any]:
        """Return a request's parameters. Special tokens to stop at are given as ids too, which some servers need."""
        body: dict[str, Any] = {"max_tokens": max_tokens, "temperature": sampling.temperature, "top_p": sampling.top_p}
        stops = [stop for stop in sampling.stop if stop]
        if stops:
            body["stop"] = stops
        if sampling.presence_penalty:
            body["presence_penalty"] = sampling.presence_penalty
        if self.abilities.extras:
            added = self.tokenizer.get_added_vocab()
            special = [stop for stop in stops if stop in added]
            body |= server.NEUTRAL_PARAMETERS | {
                "stop_token_ids": [added[stop] for stop in special],
                "preserved_tokens": special,
            }
        return body

    def _completion(self, reply: ServerReply, stops: Sequence[str]) -> Completion:
        """Return the completion in a reply, cut at the first stop string, without special tokens."""
        if reply.unreadable:
            return Completion("", reply.written or 0, UNREADABLE)
        choice = reply.choice or {}
        text = server.completion_text(choice) or ""
        num_tokens = len(self.token_ids(text)) if reply.written is None else reply.written
        end = min((text.index(stop) for stop in stops if stop and stop in text), default=None)
        text = text[:end]
        for token in self.special_tokens:
            text = text.replace(token, "")
        return Completion(text, num_tokens, "stop" if end is not None else choice["finish_reason"])

    def logprobs(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[TokenLogprobs]:
        """Return the log-probability of each output's tokens after its prompt, in nats, which the server echoes.

        One token less fits the context than with the transformers engine, because the server generates a token.
        """
        if not self.abilities.token_ids:
            raise self.connection.error(
                f"it does not accept token ids, which log-probabilities of a given text need: take {OTHER_ENGINE}"
            )
        rows = tokens.rows_with_outputs(self.tokenizer, self.prompt_ids(prompts), outputs, self.context - 1)
        nonempty = [index for index, (_, output) in enumerate(rows) if output]
        bodies = [
            server.greedy_request(self.connection, [*rows[index][0], *rows[index][1]], 1, logprobs=1, echo=True)
            for index in nonempty
        ]
        results = [TokenLogprobs([], []) for _ in rows]
        for index, reply in zip(nonempty, self.replies(bodies), strict=True):
            prompt, output = rows[index]
            values = server.token_logprobs(reply.choice or {})[len(prompt) : len(prompt) + len(output)]
            if len(values) < len(output) or None in values:
                raise self.connection.error(f"it does not echo the log-probabilities of prompts: take {OTHER_ENGINE}")
            results[index] = TokenLogprobs(output, [value for value in values if value is not None])
        return results

    def choices(self, prompts: Sequence[str], options: Sequence[str]) -> list[list[float]]:
        """Return the probability of each option as the beginning of each prompt's continuation: (prompts, options)."""
        return openai_choices.option_probabilities(self, prompts, options)

    def gives_probabilities(self) -> bool:
        """Return whether the server gives log-probabilities of the next tokens."""
        return self.most_logprobs > 0

    def choose(self, prompts: Sequence[str], options: Sequence[str], sampling: Sampling, seed: int) -> list[int | None]:
        """Return the index of the option that the server draws after each prompt by structured choice.

        None for a prompt that leaves no room, and for all prompts if the server has no structured choice.
        """
        return openai_choices.choose_options(self, prompts, options, sampling, seed)

    def embed(self, texts: Sequence[str]) -> Any:
        """Raise UserError: a server gives no hidden states."""
        raise self.connection.error(f"it gives no hidden states, which embeddings need: take {OTHER_ENGINE}")

    def close(self) -> None:
        """Unload the adapter from the server and close the connection. A later call connects again."""
        name = self.__dict__.pop("adapter", None)
        if connection := self.__dict__.pop("connection", None):
            if self.model.adapter and name:
                # Not longer, because the engine is also closed when a run is stopped while the server hangs.
                connection.post("unload_lora_adapter", {"lora_name": name}, client.CLOSE_SECONDS)
            connection.client.close()
        for cached in ("abilities", "context", "num_top_logprobs", "most_logprobs", "choice_form"):
            self.__dict__.pop(cached, None)

    def replies(self, bodies: Sequence[dict[str, Any]]) -> list[ServerReply]:
        """Request completions and return the replies in order. Raises UserError if one fails in all its attempts.

        A reply is kept on the disk as soon as it arrives, until its batch of rows is written, so that a request is not
        sent again after an error or a kill. Equal requests are sent once.
        """
        connection, kept = self.connection._replace(name=self.adapter), kept_replies.current()
        keys = [_request_key(connection.name, body) for body in bodies]
        replies = {key: reply for key in keys if (reply := _parse_reply(kept.get(key)))}
        for reply in replies.values():
            progress.report(tokens=reply.written or 0, rows=1)

        def receive(reply: ServerReply) -> None:
            if reply.error:
                raise connection.error(
                    f"a request failed ({reply.error}); the answers so far are kept: run the same command to continue"
                )
            if not reply.unreadable:
                kept.add(reply.key, reply.model_dump_json())
            progress.report(tokens=reply.written or 0, rows=1)

        missing = {key: body for key, body in zip(keys, bodies, strict=True) if key not in replies}
        replies |= connection.complete_all(missing, receive)
        self._report_unreadable([reply for reply in replies.values() if reply.unreadable], len(replies))
        return [replies[key] for key in keys]

    def _report_unreadable(self, unreadable: Sequence[ServerReply], num_replies: int) -> None:
        """Tell the user how many replies can't be read. Raises UserError if these are more than half of several."""
        if not unreadable:
            return
        text = f"{len(unreadable)} of {num_replies} answers can't be read ({unreadable[0].unreadable})"
        if num_replies > 1 and 2 * len(unreadable) > num_replies:
            raise self.connection.error(f"{text}; the others are kept: run the same command when it answers again")
        url = without_password(self.connection.url)
        console.print(f"server {url}: {text}; none is trained on", markup=False, soft_wrap=True)

    def prompt_parameters(self, prompt: str, row: list[int]) -> dict[str, Any]:
        """Return the parameters with a prompt: as chat, as token ids, or as text without the beginning of sequence."""
        if self.settings.api == "chat":
            return {"messages": [{"role": "user", "content": self._turn_content(prompt)}]}
        if self.abilities.token_ids:
            return {"prompt": row}
        return {"prompt": without_literal(prompt).removeprefix(start_text(self.tokenizer))}

    def _turn_content(self, prompt: str) -> str:
        """Return the user's turn in a prompt. Raises UserError if it is not a single turn in the chat template."""
        head, _, tail = self.load_chat().prompt("0").rpartition("0")
        if not (prompt.startswith(head) and prompt.endswith(tail)):
            raise self.connection.error("a plain prompt can't be sent as a chat: take machine.server.api: completions")
        prompt = without_literal(prompt)
        return prompt[len(head) : len(prompt) - len(tail)]

    def token_ids(self, text: str, prompt: Sequence[int] = ()) -> list[int]:
        return continuation_ids(self.tokenizer, text, prompt)

    def prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        return prompt_ids(self.tokenizer, prompts)

    def too_long(self, text: str) -> TooLong:
        """Return the error for a text, described by its length, that leaves no room for an answer."""
        return TooLong(
            f"{text} does not fit the server's {self.context} tokens, the answer included: shorten it (fewer or shorter"
            " examples), or serve the model with a longer context"
        )


def _request_key(model: str, body: dict[str, Any]) -> str:
    """Return a hash of a request; the server's address is no part of it."""
    return hashlib.sha256(json.dumps([model, body], sort_keys=True).encode()).hexdigest()


def _parse_reply(text: str | None) -> ServerReply | None:
    """Return a kept reply; None if there is none, or if the text is not one."""
    try:
        return None if text is None else ServerReply.model_validate_json(text)
    except ValidationError:
        return None
