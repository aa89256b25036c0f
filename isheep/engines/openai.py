"""The openai engine: the recipe's base model on an OpenAI-compatible server, with adapters if the server loads them."""

import hashlib
import math
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cached_property
from typing import Any

from isheep.batching import derive_seed
from isheep.engines import Engine, ray, server, tokens, transformers
from isheep.errors import Conflicts, TooLong
from isheep.models.chat_template import ChatTemplate, load_chat_template
from isheep.models.checkpoint import context_length, find_checkpoint, load_tokenizer, start_token_ids
from isheep.openai_client import ServerReply, call_concurrently, without_password
from isheep.prompts.forms import load_answer_form
from isheep.recipe.schema import Recipe, ServerSettings
from isheep.records import Completion, Model, Sampling, TokenLogprobs

# Seeds below this number are accepted by every server. llama.cpp replaces 2**32 - 1 by a random one.
SEED_LIMIT = 2**31
OTHER_ENGINE = "machine.engine: transformers"
ADAPTER_HINT = (
    "start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=true, or take"
    " machine.server.adapters: transformers, or one iteration without evaluation"
)

PACKAGE = None
ONLY_RECIPE_MODEL = True


def open_from_recipe(recipe: Recipe, model: Model) -> Engine:
    """Return an engine on the recipe's server; with machine.server.adapters: transformers, M^1, ... run locally."""
    server_settings = recipe.machine.server
    if model.adapter and server_settings.adapters == "transformers":
        return transformers.open_from_recipe(recipe, model)
    return open_engine(model, server_settings, lambda: load_chat_template(recipe.chat_template, recipe.model))


def check(recipe: Recipe) -> list[str]:
    """Send the server small requests to find out whether it can do what the recipe needs; return notes for the user.

    Raises UserError if it can't, or if the recipe asks for replicas and there is no Ray.
    """
    ray.check(recipe)
    engine = open_engine(
        Model(recipe.model), recipe.machine.server, lambda: load_chat_template(recipe.chat_template, recipe.model)
    )
    with closing(engine):
        return engine.check(server.requirements(recipe))


def conflicts(recipe: Recipe) -> Conflicts:
    """Yield the settings of the recipe that no OpenAI-compatible server can serve."""
    settings, machine = recipe.machine.server, recipe.machine
    yield from ray.conflicts(recipe)
    if ray.uses_ray(machine) and settings.adapters == "server":
        why = "replicas are engines of ours, and machine.engine is openai: raise machine.server.max_in_flight instead"
        yield ("machine", "replicas"), why
    if settings.url and "@" in settings.url:
        yield ("machine", "server", "url"), "a recipe holds no password: set the address in OPENAI_BASE_URL"
    for index, entry in enumerate(recipe.filters):
        if "embeddings" in entry.needs:
            needed = f"{entry.label} needs hidden states, which machine.engine openai does not have"
            yield ("filters", index), f"{needed}: take engine transformers"
    if settings.api == "chat":
        yield from _chat_conflicts(recipe)


def _chat_conflicts(recipe: Recipe) -> Conflicts:
    """Yield the prompts that are no chat turns, which a server's chat API can't be sent."""
    prompt = recipe.response.prompt
    is_plain = {
        ("synthesis", "chat"): not recipe.synthesis.chat,
        ("response", "prompt"): prompt == "instances" or not load_answer_form(prompt).chat,
        ("assessment", "chat"): recipe.assessment is not None and not recipe.assessment.chat,
    }
    for path in (path for path, plain in is_plain.items() if plain):
        yield path, "these prompts are plain, and machine.server.api: chat sends chat turns alone"
    if recipe.evaluation or recipe.stop:
        yield ("machine", "server", "api"), "benchmarks ask the base plainly: take completions, or no evaluation"


def open_engine(model: Model, settings: ServerSettings, chat: Callable[[], ChatTemplate]) -> "OpenAIEngine":
    """Return an engine on `model`, which the server of `settings` has. The server is contacted at first use.

    `chat` returns the template that the recipe's prompts are rendered with: machine.server.api: chat removes it again.
    """
    find_checkpoint(model.base)
    return OpenAIEngine(model, settings, chat)


class OpenAIEngine:
    """An `isheep.engines.Engine` on a server. Open it with `open_engine`.

    Each prompt is a request of its own, because each has its own seed; `settings.max_in_flight` requests run at a time.
    Prompts are sent as token ids if the server accepts them, so that it reads the same tokens as the other engines.
    Raises UserError if a request fails in all its attempts.
    """

    # One call keeps the server busy: it sends `settings.max_in_flight` requests at a time.
    max_in_flight = 1

    def __init__(self, model: Model, settings: ServerSettings, chat: Callable[[], ChatTemplate]) -> None:
        self.source, self.settings, self.open_chat = model, settings, chat

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.source.base)

    @cached_property
    def connection(self) -> server.ServerConnection:
        return server.connect(self.settings, threading.Event())

    @cached_property
    def abilities(self) -> server.ServerAbilities:
        """What the server can do. Raises UserError if its model tokenizes a text differently than the recipe's."""
        ids = self._prompt_ids([server.PROBE_TEXT])[0]
        abilities = server.probe(self.connection, ids)
        # We send token ids, which include the beginning of sequence, if the server accepts them: then it need not add
        # one to a text. Otherwise it must.
        fewest = len(ids)
        if abilities.token_ids:
            fewest -= len(start_token_ids(self.tokenizer))
        count = abilities.probe_tokens
        if self.settings.api == "completions" and count and not fewest <= count <= len(ids):
            raise self.connection.error(
                f"{self.connection.name!r} reads {count} tokens where {self.source.base!r} reads {len(ids)}: serve the"
                " recipe's model, and prompts as they are (Ollama: TEMPLATE {{ .Prompt }} in the Modelfile)"
            )
        return abilities

    @cached_property
    def context(self) -> int:
        """The length in tokens of the longest sequence."""
        return self.settings.context or min(self.abilities.context or 2**30, context_length(self.source.base))

    @cached_property
    def num_top_logprobs(self) -> int:
        """The number of tokens at a position whose log-probabilities the server gives. Raises UserError if it is 0."""
        count = server.num_top_logprobs(self.connection)
        if not count:
            raise self.connection.error(
                f"it gives no log-probabilities: take assessment.read: generate, or {OTHER_ENGINE}"
            )
        return count

    @cached_property
    def special_tokens(self) -> tuple[str, ...]:
        """The special tokens, which are never part of an answer."""
        added = self.tokenizer.added_tokens_decoder.values()
        return tuple({token.content for token in added if token.special} | {*self.tokenizer.all_special_tokens} - {""})

    @cached_property
    def adapter(self) -> str:
        """The server's name for this engine's model, after loading its adapter. Raises UserError if that fails."""
        if not self.source.adapter:
            return self.connection.name
        file = self.source.adapter / "adapter_model.safetensors"
        name = f"isheep-{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"
        if name not in [entry.get("id") for entry in server.list_models(self.connection)]:
            body = {"lora_name": name, "lora_path": str(self.source.adapter.resolve())}
            status, text = self.connection.post("load_lora_adapter", body)
            if status >= 400:
                raise self.connection.error(
                    f"it does not load the adapter {self.source.adapter} ({text}); {ADAPTER_HINT}"
                )
        return name

    def check(self, requirements: server.ServerRequirements) -> list[str]:
        """Check with at most a dozen small requests that the server can do what a recipe needs; return notes.

        Raises UserError if it can't.
        """
        connection, abilities, notes = self.connection, self.abilities, list[str]()
        if requirements.options:
            self.choices([self.open_chat().prompt(server.PROBE_TEXT)], requirements.options)
        if requirements.perplexity:
            ids = self._prompt_ids([server.PROBE_TEXT])[0]
            if not (abilities.token_ids and server.echoes_prompts(connection, ids)):
                raise connection.error(
                    f"it does not echo the log-probabilities of prompts, which perplexities need: take {OTHER_ENGINE}"
                )
        if requirements.adapters and not server.loads_adapters(connection):
            raise connection.error(f"it can't load adapters, and the recipe needs M^1 and later models; {ADAPTER_HINT}")
        if requirements.sampling:
            draws, seeded = server.probe_sampling(connection)
            if not draws:
                raise connection.error(
                    f"it ignores the temperature ({server.NUM_DRAWS} seeds at {server.DRAW_TEMPERATURE:g} gave one"
                    " text), and the recipe draws: serve a checkpoint whose generation_config has do_sample: true, or"
                    " take another server"
                )
            if not seeded:
                url = without_password(connection.url)
                notes.append(f"server {url} ignores seeds: running the same recipe twice will not give the same files")
        return notes

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        """Return one continuation per prompt, in order, each drawn with its own seed."""
        rows = self._prompt_ids(prompts)
        fitting = [index for index, row in enumerate(rows) if len(row) < self.context]
        if rows and not fitting:
            raise self._too_long(f"a prompt of {min(map(len, rows))} tokens")
        bodies = [
            {
                **self._prompt_parameters(prompts[index], rows[index]),
                **self._sampling_parameters(sampling, min(sampling.max_tokens, self.context - len(rows[index]))),
                "seed": derive_seed(seed, index) % SEED_LIMIT,
            }
            for index in fitting
        ]
        completions = [Completion("", 0, "length") for _ in rows]
        for index, reply in zip(fitting, self._replies(bodies), strict=True):
            completions[index] = self._completion(reply, sampling.stop)
        return completions

    def _sampling_parameters(self, sampling: Sampling, max_tokens: int) -> dict[str, Any]:
        """Return a request's parameters. Some servers stop at a special token only if they are given its id."""
        body: dict[str, Any] = {"max_tokens": max_tokens, "temperature": sampling.temperature, "top_p": sampling.top_p}
        stops = [stop for stop in sampling.stop if stop]
        if stops:
            body["stop"] = stops
        if sampling.presence_penalty:
            body["presence_penalty"] = sampling.presence_penalty
        if self.abilities.extras:
            added = self.tokenizer.get_added_vocab()
            special = [stop for stop in stops if stop in added]
            body |= server.PLAIN | {"stop_token_ids": [added[stop] for stop in special], "preserved_tokens": special}
        return body

    def _completion(self, reply: ServerReply, stops: Sequence[str]) -> Completion:
        choice = reply.choice or {}
        text = server.completion_text(choice) or ""
        num_tokens = len(self._token_ids(text)) if reply.written is None else reply.written
        end = min((text.index(stop) for stop in stops if stop and stop in text), default=None)
        text = text[:end]
        for token in self.special_tokens:
            text = text.replace(token, "")
        return Completion(text, num_tokens, "stop" if end is not None else choice["finish_reason"])

    def logprobs(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[TokenLogprobs]:
        """Return the log-probability of each output's tokens after its prompt, in nats, as the server echoes them.

        One token less fits the context than with the transformers engine, because the server generates a token.
        """
        if not self.abilities.token_ids:
            raise self.connection.error(
                f"it reads no token ids, which log-probabilities of a given text need: take {OTHER_ENGINE}"
            )
        rows = []
        for prompt, output in zip(self._prompt_ids(prompts), map(self._token_ids, outputs), strict=True):
            rows.append((prompt, output[: max(0, self.context - 1 - len(prompt))]))
        nonempty = [index for index, (_, output) in enumerate(rows) if output]
        bodies = [
            server.greedy_request(self.connection, [*rows[index][0], *rows[index][1]], 1, logprobs=1, echo=True)
            for index in nonempty
        ]
        results = [TokenLogprobs([], []) for _ in rows]
        for index, reply in zip(nonempty, self._replies(bodies), strict=True):
            prompt, output = rows[index]
            values = server.token_logprobs(reply.choice or {})[len(prompt) : len(prompt) + len(output)]
            if len(values) < len(output) or None in values:
                raise self.connection.error(f"it does not echo the log-probabilities of prompts: take {OTHER_ENGINE}")
            results[index] = TokenLogprobs(output, [value for value in values if value is not None])
        return results

    def choices(self, prompts: Sequence[str], options: Sequence[str]) -> list[list[float]]:
        """Return the probability of each option as the beginning of each prompt's continuation: (prompts, options).

        Sends a request for each beginning that options share: one if all are single tokens, two if " 10" is two
        tokens. The server gives only the most probable tokens at a position, 20 or 5. Any other token counts as 0.
        """
        rows, option_ids = self._prompt_ids(prompts), [tuple(self._token_ids(option)) for option in options]
        beginnings = sorted({option[:length] for option in option_ids for length in range(len(option))})
        longest = max(map(len, option_ids), default=1)
        if self.settings.api == "chat" and longest > 1:
            raise self.connection.error(
                "a chat gives no probabilities of options with several tokens: take machine.server.api: completions"
            )
        fitting = [index for index, row in enumerate(rows) if len(row) + longest <= self.context]
        if rows and not fitting:
            raise self._too_long(f"a prompt of {min(map(len, rows))} tokens with an option of {longest}")
        parameters = {
            "max_tokens": 1,
            "temperature": 0,
            **server.logprob_parameters(self.connection, self.num_top_logprobs),
        }
        bodies = []
        for index in fitting:
            for tokens_before in beginnings:
                text = prompts[index] + self.tokenizer.decode(tokens_before)
                bodies.append({**self._prompt_parameters(text, [*rows[index], *tokens_before]), **parameters})
        replies = iter(self._replies(bodies))
        results = [[0.0] * len(options) for _ in rows]
        for index in fitting:
            logprobs = {beginning: server.first_logprobs(next(replies).choice or {}) for beginning in beginnings}
            probabilities = [self._option_probability(option, logprobs) for option in option_ids]
            results[index] = tokens.exclusive_probabilities(option_ids, probabilities)
        return results

    def _option_probability(
        self, option: tuple[int, ...], logprobs: dict[tuple[int, ...], dict[int | str, float]]
    ) -> float:
        """Return an option's probability, from the most probable tokens after each of its beginnings."""
        total = 0.0
        for step, token in enumerate(option):
            candidates = logprobs[option[:step]]
            total += candidates.get(token, candidates.get(self.tokenizer.decode([token]), -math.inf))
        return math.exp(total)

    def embed(self, texts: Sequence[str]) -> Any:
        """Raise UserError: a server gives no hidden states."""
        raise self.connection.error(f"it gives no hidden states, which embeddings need: take {OTHER_ENGINE}")

    def close(self) -> None:
        """Unload the adapter from the server and close the connection. A later call connects again."""
        name = self.__dict__.pop("adapter", None)
        if connection := self.__dict__.pop("connection", None):
            if self.source.adapter and name:
                connection.post("unload_lora_adapter", {"lora_name": name})
            connection.client.close()
        for cached in ("abilities", "context", "num_top_logprobs"):
            self.__dict__.pop(cached, None)

    def _replies(self, bodies: Sequence[dict[str, Any]]) -> list[ServerReply]:
        connection = self.connection._replace(name=self.adapter, stop=threading.Event())

        def call(numbered: tuple[int, dict[str, Any]]) -> ServerReply:
            number, body = numbered
            reply = connection.complete(body, key=str(number))
            if reply.error:
                raise connection.error(
                    f"a call failed ({reply.error}); completed batches are saved, run the same command to continue"
                )
            return reply

        return call_concurrently(call, list(enumerate(bodies)), self.settings, connection.stop)

    def _prompt_parameters(self, prompt: str, row: list[int]) -> dict[str, Any]:
        """Return a prompt as the server reads it: a chat, token ids, or text without the beginning of sequence."""
        if self.settings.api == "chat":
            return {"messages": [{"role": "user", "content": self._turn_content(prompt)}]}
        begin = self.tokenizer.bos_token if start_token_ids(self.tokenizer) else ""
        return {"prompt": row if self.abilities.token_ids else prompt.removeprefix(begin)}

    def _turn_content(self, prompt: str) -> str:
        """Return the user's turn in a prompt of the chat template. Raises UserError if it is no single turn."""
        head, _, tail = self.open_chat().prompt("0").rpartition("0")
        if not (prompt.startswith(head) and prompt.endswith(tail)):
            raise self.connection.error("a plain prompt can't be sent as a chat: take machine.server.api: completions")
        return prompt[len(head) : len(prompt) - len(tail)]

    def _token_ids(self, text: str) -> list[int]:
        return tokens.token_ids(self.tokenizer, text)

    def _prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        return tokens.prompt_ids(self.tokenizer, start_token_ids(self.tokenizer), prompts)

    def _too_long(self, text: str) -> TooLong:
        return TooLong(
            f"{text} does not fit the server's {self.context} tokens, the answer included: shorten it (fewer or shorter"
            " examples), or serve the model with a longer context"
        )
