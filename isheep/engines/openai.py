"""The openai engine: a recipe's base model on an OpenAI-compatible server, and its adapters where it loads them."""

import hashlib
import math
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cached_property
from typing import Any, NamedTuple

from isheep.batching import derive_seed
from isheep.engines import Engine, ray, server, tokens, transformers
from isheep.errors import Conflicts, TooLong
from isheep.filters import needs
from isheep.models.chat_template import ChatTemplate, load_chat_template
from isheep.models.checkpoint import context_length, find_checkpoint, load_tokenizer, start_token_ids
from isheep.openai_client import ServerReply, call_concurrently, without_password
from isheep.prompts.forms import load_answer_form
from isheep.recipe.schema import Recipe, ServerSettings, score_openings
from isheep.records import Completion, Model, Sampling, TokenLogprobs

SEEDS = 2**31  # a seed that every server takes; llama.cpp draws one of its own for 2**32 - 1
ELSEWHERE = "machine.engine: transformers"


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
        return engine.check(requirements(recipe))


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


class ServerRequirements(NamedTuple):
    """What a recipe asks of its server."""

    drawn: bool  # a temperature above 0
    options: Sequence[str]  # whose probabilities it asks for (assessment.read: expected)
    perplexity: bool  # those of a prompt's own tokens
    later: bool  # M^1 and later models


def requirements(recipe: Recipe) -> ServerRequirements:
    """Return what the recipe asks of its server, over all of its iterations and benchmarks."""
    variants, evaluated = recipe.variants, bool(recipe.evaluation or recipe.stop)
    assessments = [variant.assessment for variant in variants if variant.assessment]
    samplings = [section.sampling for variant in variants for section in (variant.synthesis, variant.response)]
    samplings += [assessment.sampling for assessment in assessments]
    expected = [assessment for assessment in assessments if assessment.read == "expected"]
    scored = any(benchmark.name.startswith(("standard/", "paper/")) for benchmark in recipe.evaluation)
    return ServerRequirements(
        drawn=any(sampling.temperature > 0 for sampling in samplings),
        options=list(dict.fromkeys(text for assessment in expected for text in score_openings(assessment))),
        perplexity=scored or any(needs(variant.filters, "perplexities") for variant in variants),
        later=recipe.machine.server.adapters == "server" and (recipe.iterations > 1 or evaluated),
    )


def open_engine(model: Model, settings: ServerSettings, chat: Callable[[], ChatTemplate]) -> "OpenAIEngine":
    """An engine on `model`, which the server of `settings` has. Cheap: the server is asked at first use.

    `chat` is what the recipe's prompts are written with: machine.server.api: chat takes its template off again.
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
    def line(self) -> server.TokenLine:
        return server.dial(self.settings, threading.Event())

    @cached_property
    def able(self) -> server.Able:
        """Raises UserError where the server's model reads a text in another way than the recipe's."""
        ids = self._rows([server.TEXT])[0]
        able = server.look(self.line, ids)
        fewest = len(ids) - len(start_token_ids(self.tokenizer)) * able.ids  # beginning of sequence: ids bring it along
        if self.settings.api == "completions" and able.read and not fewest <= able.read <= len(ids):
            raise self.line.failed(
                f"{self.line.name!r} reads {able.read} tokens where {self.source.base!r} reads {len(ids)}: serve the"
                " recipe's model, and prompts as they are (Ollama: TEMPLATE {{ .Prompt }} in the Modelfile)"
            )
        return able

    @cached_property
    def room(self) -> int:
        """The longest sequence in tokens."""
        return self.settings.context or min(self.able.context or 2**30, context_length(self.source.base))

    @cached_property
    def top(self) -> int:
        """Of how many tokens at a place the log-probabilities are to be had. Raises UserError where of none."""
        if not (count := server.top(self.line)):
            raise self.line.failed(f"it gives no log-probabilities: take assessment.read: generate, or {ELSEWHERE}")
        return count

    @cached_property
    def ends(self) -> tuple[str, ...]:
        """Special tokens, which are never part of an answer."""
        added = self.tokenizer.added_tokens_decoder.values()
        return tuple({token.content for token in added if token.special} | {*self.tokenizer.all_special_tokens} - {""})

    @cached_property
    def adapter(self) -> str:
        """What the server calls this engine's model, its adapter loaded. Raises UserError where it can't be."""
        if not self.source.adapter:
            return self.line.name
        file = self.source.adapter / "adapter_model.safetensors"
        name = f"isheep-{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"
        if name not in [one.get("id") for one in server.listed(self.line)]:
            body = {"lora_name": name, "lora_path": str(self.source.adapter.resolve())}
            status, said = self.line.send("load_lora_adapter", body)
            if status >= 400:
                raise self.line.failed(f"it does not load the adapter {self.source.adapter} ({said}); {LATER}")
        return name

    def check(self, needs: ServerRequirements) -> list[str]:
        """Raises UserError where the server can't do what a recipe needs; returns what a user should know all the same.

        Tiny requests, a dozen at most.
        """
        line, able, notes = self.line, self.able, list[str]()
        if needs.options:
            self.choices([self.open_chat().prompt(server.TEXT)], needs.options)
        if needs.perplexity and not (able.ids and server.echoes(line, self._rows([server.TEXT])[0])):
            raise line.failed(
                f"it does not echo the log-probabilities of prompts, which perplexities need: take {ELSEWHERE}"
            )
        if needs.later and not server.loads(line):
            raise line.failed(f"it can't load adapters, and the recipe asks M^1 and later models; {LATER}")
        if needs.drawn:
            drawn, seeded = server.draws(line)
            if not drawn:
                raise line.failed(
                    f"it ignores the temperature ({server.DRAWS} seeds at {server.HOT:g} gave one text), and the recipe"
                    " draws: serve a checkpoint whose generation_config has do_sample: true, or take another server"
                )
            if not seeded:
                notes.append(
                    f"server {without_password(line.url)} ignores seeds: the same run twice will not be the same"
                )
        return notes

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        """One continuation per prompt, in order, each drawn by a seed of its own."""
        rows = self._rows(prompts)
        fitting = [place for place, row in enumerate(rows) if len(row) < self.room]
        if rows and not fitting:
            raise self._too_long(f"a prompt of {min(map(len, rows))} tokens")
        bodies = [
            {
                **self._asked(prompts[place], rows[place]),
                **self._sampled(sampling, min(sampling.max_tokens, self.room - len(rows[place]))),
                "seed": derive_seed(seed, place) % SEEDS,
            }
            for place in fitting
        ]
        done = [Completion("", 0, "length") for _ in rows]
        for place, reply in zip(fitting, self._replies(bodies), strict=True):
            done[place] = self._completion(reply, sampling.stop)
        return done

    def _sampled(self, sampling: Sampling, limit: int) -> dict[str, Any]:
        """The request's parameters. Some servers only see a special token as a stop where they are told its id."""
        body: dict[str, Any] = {"max_tokens": limit, "temperature": sampling.temperature, "top_p": sampling.top_p}
        stops = [stop for stop in sampling.stop if stop]
        if stops:
            body["stop"] = stops
        if sampling.presence_penalty:
            body["presence_penalty"] = sampling.presence_penalty
        if self.able.extras:
            added = self.tokenizer.get_added_vocab()
            special = [stop for stop in stops if stop in added]
            body |= server.PLAIN | {"stop_token_ids": [added[stop] for stop in special], "preserved_tokens": special}
        return body

    def _completion(self, reply: ServerReply, stops: Sequence[str]) -> Completion:
        choice = reply.choice or {}
        text = server.text_of(choice) or ""
        count = (
            len(self.tokenizer(text, add_special_tokens=False).input_ids) if reply.written is None else reply.written
        )
        cut = min((text.index(stop) for stop in stops if stop and stop in text), default=None)
        text = text[:cut]
        for token in self.ends:
            text = text.replace(token, "")
        return Completion(text, count, "stop" if cut is not None else choice["finish_reason"])

    def logprobs(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[TokenLogprobs]:
        """The log-probability of each output's tokens after its prompt, in nats: what the server echoes of both.

        One token less fits the context than in generation by the transformers engine: the server writes one more.
        """
        if not self.able.ids:
            raise self.line.failed(
                f"it reads no token ids, which log-probabilities of a given text need: take {ELSEWHERE}"
            )
        tails = [self.tokenizer(output, add_special_tokens=False).input_ids for output in outputs]
        both = [
            (row, tail[: max(0, self.room - 1 - len(row))])
            for row, tail in zip(self._rows(prompts), tails, strict=True)
        ]
        asked = [place for place, (_, tail) in enumerate(both) if tail]
        bodies = [server.asked(self.line, sum(both[place], []), 1, logprobs=1, echo=True) for place in asked]
        done = [TokenLogprobs([], []) for _ in both]
        for place, reply in zip(asked, self._replies(bodies), strict=True):
            row, tail = both[place]
            values = server.token_logprobs(reply.choice or {})[len(row) : len(row) + len(tail)]
            if len(values) < len(tail) or None in values:
                raise self.line.failed(f"it does not echo the log-probabilities of prompts: take {ELSEWHERE}")
            done[place] = TokenLogprobs(tail, [value for value in values if value is not None])
        return done

    def choices(self, prompts: Sequence[str], options: Sequence[str]) -> list[list[float]]:
        """How probable each option is as the beginning of each prompt's continuation: (prompts, options).

        A request for each beginning that options share: one where all are single tokens, two where " 10" is two. Only
        the `top` most probable tokens at a place are known, 20 or 5 by the server; what is not among them counts as 0.
        """
        rows, wanted = self._rows(prompts), [tuple(self._ids(option)) for option in options]
        places = sorted({option[:k] for option in wanted for k in range(len(option))})
        longest = max(map(len, wanted), default=1)
        if self.settings.api == "chat" and longest > 1:
            raise self.line.failed("a chat shows no option of several tokens: take machine.server.api: completions")
        fitting = [place for place, row in enumerate(rows) if len(row) + longest <= self.room]
        if rows and not fitting:
            raise self._too_long(f"a prompt of {min(map(len, rows))} tokens with an option of {longest}")
        more = {"max_tokens": 1, "temperature": 0, **server.wanted(self.line, self.top)}
        bodies = [
            {**self._asked(prompts[n] + self.tokenizer.decode(place), [*rows[n], *place]), **more}
            for n in fitting
            for place in places
        ]
        found = iter(self._replies(bodies))
        shares = [[0.0] * len(options) for _ in rows]
        for n in fitting:
            after = {place: server.first_logprobs(next(found).choice or {}) for place in places}
            shares[n] = tokens.exclusive_probabilities(wanted, [self._chance(option, after) for option in wanted])
        return shares

    def _chance(self, option: tuple[int, ...], after: dict[tuple[int, ...], dict[int | str, float]]) -> float:
        """An option's probability, from the most probable tokens after each of its beginnings."""
        logprobs = 0.0
        for k, token in enumerate(option):
            found = after[option[:k]]
            logprobs += found.get(token, found.get(self.tokenizer.decode([token]), -math.inf))
        return math.exp(logprobs)

    def embed(self, texts: Sequence[str]) -> Any:
        raise self.line.failed(f"no hidden states come from it, which representations need: take {ELSEWHERE}")

    def close(self) -> None:
        """Takes the adapter out of the server again. A later call connects anew."""
        name = self.__dict__.pop("adapter", None)
        if line := self.__dict__.pop("line", None):
            if self.source.adapter and name:
                line.send("unload_lora_adapter", {"lora_name": name})
            line.client.close()
        for known in ("able", "room", "top"):
            self.__dict__.pop(known, None)

    def _replies(self, bodies: Sequence[dict[str, Any]]) -> list[ServerReply]:
        line = self.line._replace(name=self.adapter, stop=threading.Event())

        def call(numbered: tuple[int, dict[str, Any]]) -> ServerReply:
            reply = line.ask(numbered[1], key=str(numbered[0]))
            if reply.error:
                raise line.failed(
                    f"a call failed ({reply.error}); what is complete is kept, the same command goes on from there"
                )
            return reply

        return call_concurrently(call, list(enumerate(bodies)), self.settings, line.stop)

    def _asked(self, prompt: str, row: list[int]) -> dict[str, Any]:
        """A prompt as the server takes it: token ids, text to which it adds its own beginning of sequence, a chat."""
        if self.settings.api == "chat":
            return {"messages": [{"role": "user", "content": self._content(prompt)}]}
        begin = self.tokenizer.bos_token if start_token_ids(self.tokenizer) else ""
        return {"prompt": row if self.able.ids else prompt.removeprefix(begin)}

    def _content(self, prompt: str) -> str:
        """What a prompt in the chat template asks. Raises UserError where it is no single turn of it."""
        before, _, after = self.open_chat().prompt("0").rpartition("0")
        if not (prompt.startswith(before) and prompt.endswith(after)):
            raise self.line.failed("a plain prompt can't be sent as a chat: take machine.server.api: completions")
        return prompt[len(before) : len(prompt) - len(after)]

    def _ids(self, text: str) -> list[int]:
        return tokens.token_ids(self.tokenizer, text)

    def _rows(self, prompts: Sequence[str]) -> list[list[int]]:
        return tokens.prompt_ids(self.tokenizer, start_token_ids(self.tokenizer), prompts)

    def _too_long(self, what: str) -> TooLong:
        return TooLong(
            f"{what} does not fit the server's {self.room} tokens, the answer included: shorten it (fewer or shorter"
            " examples), or serve the model with a longer context"
        )


LATER = (
    "start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=true, or take"
    " machine.server.adapters: transformers, or one iteration without evaluation"
)
