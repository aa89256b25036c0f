"""What an OpenAI-compatible server can do, found out with small requests before any work, because servers differ."""

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from isheep.errors import UserError, one_line
from isheep.filters import needs
from isheep.openai_client import (
    FATAL,
    ServerReply,
    base_url_from_environment,
    open_client,
    post_with_retries,
    redact_key,
    without_password,
)
from isheep.recipe.schema import Recipe, ServerSettings, score_openings

if TYPE_CHECKING:
    from httpx2 import Client

# A text for probing. It has characters of more than one byte.
PROBE_TEXT = "The 27 quick brown foxes jump over a lazy dog, Ångström said:"
# How many tokens' log-probabilities are asked for: vLLM's limit, then OpenAI's.
TOP_LOGPROBS = (20, 5)
# A prompt with many likely continuations, so that a server which cuts off unlikely tokens still draws different ones.
OPEN_PROMPT = "1. Instruction:"
# With this many answers of this many tokens at this temperature, equal answers can't be a coincidence.
NUM_DRAWS, DRAW_TOKENS, DRAW_TEMPERATURE = 8, 16, 1.5
# Statuses of a server that does not have an address.
NOT_FOUND = (404, 405, 501)
# Statuses of a server that refuses the key.
REFUSED = (401, 403)
# Parameters that take back what servers do by default, and make special tokens visible, so that we can stop at them.
# First line: vLLM, SGLang, llama.cpp; second line: vLLM; third line: llama.cpp.
PLAIN: dict[str, Any] = {
    "top_k": -1, "min_p": 0, "repetition_penalty": 1,
    "skip_special_tokens": False, "stop_token_ids": [],
    "preserved_tokens": [],
}  # fmt: skip


class ServerRequirements(NamedTuple):
    """What a recipe needs its server to do."""

    sampling: bool
    """A temperature above 0."""
    options: Sequence[str]
    """The options whose probabilities are read (assessment.read: expected)."""
    perplexity: bool
    """The log-probabilities of a prompt's own tokens."""
    adapters: bool
    """M^1 and later models."""


def requirements(recipe: Recipe) -> ServerRequirements:
    """Return what the recipe needs its server to do, over all of its iterations and benchmarks."""
    variants, evaluated = recipe.variants, bool(recipe.evaluation or recipe.stop)
    assessments = [variant.assessment for variant in variants if variant.assessment]
    samplings = [section.sampling for variant in variants for section in (variant.synthesis, variant.response)]
    samplings += [assessment.sampling for assessment in assessments]
    expected = [assessment for assessment in assessments if assessment.read == "expected"]
    scored = any(benchmark.name.startswith(("standard/", "paper/")) for benchmark in recipe.evaluation)
    return ServerRequirements(
        sampling=any(sampling.temperature > 0 for sampling in samplings),
        options=list(dict.fromkeys(text for assessment in expected for text in score_openings(assessment))),
        perplexity=scored or any(needs(variant.filters, "perplexities") for variant in variants),
        adapters=recipe.machine.server.adapters == "server" and (recipe.iterations > 1 or evaluated),
    )


class ServerConnection(NamedTuple):
    """A connection to a server: the HTTP client, how it is used, and the model's name on the server."""

    client: "Client"
    settings: ServerSettings
    url: str
    name: str
    stop: threading.Event
    """Set if no further attempts are to be made."""

    def complete(self, body: Mapping[str, Any], key: str = "") -> ServerReply:
        """Request a completion, with all attempts. An answer that is no complete completion counts as a failure."""
        path = "chat/completions" if self.settings.api == "chat" else "completions"
        body = {"model": self.name, **body}
        return post_with_retries(self.client, path, body, key, self.settings, self.stop, is_complete)

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, str]:
        """Send another request than a completion. Returns the status, and the answer's text on one line."""
        import httpx2

        try:
            response = self.client.post(path, json=body)
        except httpx2.HTTPError as error:
            return 503, one_line(redact_key(f"{type(error).__name__}: {error}"))
        return response.status_code, " ".join(redact_key(response.text).split())[:200]

    def error(self, reason: str) -> UserError:
        """Return an error that names the server."""
        return UserError(f"server {without_password(self.url)}: {reason}")


class ServerAbilities(NamedTuple):
    """What a server showed that it can do."""

    token_ids: bool
    """It reads prompts as token ids."""
    extras: bool
    """It accepts PLAIN and similar parameters, which OpenAI's own interface does not have."""
    context: int | None
    """The tokens that it reads, if it says so."""
    probe_tokens: int | None
    """The number of tokens that it read of PROBE_TEXT, if it says so."""


# --- reading a completion


def completion_text(choice: Mapping[str, Any]) -> str | None:
    """Return the text of a completion of either interface, or None if there is none."""
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else choice.get("text")
    return text if isinstance(text, str) else None


def is_complete(reply: ServerReply) -> bool:
    """Return whether a reply is a completion that ended or was cut off at max_tokens."""
    choice = reply.choice or {}
    return completion_text(choice) is not None and choice.get("finish_reason") in ("stop", "length")


def token_logprobs(choice: Mapping[str, Any]) -> list[float | None]:
    """Return each token's log-probability, from {token_logprobs: [...]} or {content: [{logprob: ...}]}."""
    logprobs = choice.get("logprobs") or {}
    content = logprobs.get("content")
    if isinstance(content, list):
        return [entry.get("logprob") for entry in content]
    return logprobs.get("token_logprobs") or []


def first_logprobs(choice: Mapping[str, Any]) -> dict[int | str, float]:
    """Return the most probable first tokens with their log-probabilities, by id if the server says it, else by text."""
    logprobs = choice.get("logprobs") or {}
    content = logprobs.get("content")
    if not isinstance(content, list):
        return dict((logprobs.get("top_logprobs") or [{}])[0] or {})
    entries = content[0].get("top_logprobs") or [] if content else []
    by_id = {entry["id"]: entry["logprob"] for entry in entries if isinstance(entry.get("id"), int)}
    return by_id or {entry["token"]: entry["logprob"] for entry in entries}


# --- connecting and probing


def connect(settings: ServerSettings, stop: threading.Event) -> ServerConnection:
    """Connect to the recipe's server. Raises UserError if no server answers, or if its model has no name."""
    url, source = settings.url, "machine.server.url"
    if not url:
        url, source = base_url_from_environment(), "OPENAI_BASE_URL"
    if not url:
        raise UserError("machine.engine openai has no server: set machine.server.url or OPENAI_BASE_URL")
    client = open_client(url, settings, source)
    connection = ServerConnection(client, settings, url, settings.model or "", stop)
    names = [entry["id"] for entry in list_models(connection) if isinstance(entry.get("id"), str)]
    if settings.model:
        return connection
    if len(names) != 1:
        listed = f"lists {', '.join(names[:8])}" if names else "lists no models"
        raise connection.error(f"it {listed}: set machine.server.model to what it calls the recipe's model")
    return connection._replace(name=names[0])


def list_models(connection: ServerConnection) -> list[dict[str, Any]]:
    """Return the models that a server lists; none if it has no list. Raises UserError if it can't be reached."""
    import httpx2

    try:
        response = connection.client.get("models")
        status = response.status_code
        if status in REFUSED or (status >= 500 and status not in NOT_FOUND):
            raise connection.error(f"HTTP {status} at its list of models; set OPENAI_API_KEY, or try again")
        data = response.json().get("data") if response.is_success else []
    except httpx2.HTTPError as error:
        reason = one_line(redact_key(f"{type(error).__name__}: {error}"))
        raise connection.error(f"no connection ({reason}); start it, or set machine.server.url") from None
    except (ValueError, AttributeError):
        data = []
    return [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []


def probe(connection: ServerConnection, ids: Sequence[int]) -> ServerAbilities:
    """Find out what a server accepts. `ids` are PROBE_TEXT's tokens by the recipe's tokenizer.

    Raises UserError if the server returns no completion.
    """
    extras, body = True, greedy_request(connection, PROBE_TEXT, 1)
    reply = connection.complete({**body, **PLAIN})
    if reply.error.startswith(("HTTP 400", "HTTP 422")):
        extras, reply = False, connection.complete(body)
    if reply.error:
        settings = "OPENAI_API_KEY, machine.server.url, machine.server.model"
        hint = f"; set {settings}" if reply.error.startswith(FATAL) else ""
        raise connection.error(f"no completion of model {connection.name!r} ({reply.error}){hint}")
    reads_ids = False
    if connection.settings.api == "completions":
        reads_ids = _reads_all(connection, {**body, "prompt": list(ids)}, len(ids))
    return ServerAbilities(reads_ids, extras, _stated_context(connection), reply.read or None)


def _stated_context(connection: ServerConnection) -> int | None:
    """Return the context in a server's list of models: vLLM's max_model_len, or llama.cpp's meta.n_ctx."""
    entries = list_models(connection)
    only = entries[0] if len(entries) == 1 else {}
    entry = next((entry for entry in entries if entry.get("id") == connection.name), only)
    meta = entry.get("meta")
    context = entry.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, dict) else None)
    return context if isinstance(context, int) else None


def greedy_request(
    connection: ServerConnection, prompt: str | list[int], max_tokens: int, **parameters: Any
) -> dict[str, Any]:
    """Return the body of a greedy request on a prompt."""
    body: dict[str, Any] = {"prompt": prompt}
    if connection.settings.api == "chat":
        body = {"messages": [{"role": "user", "content": prompt}]}
    return {**body, "max_tokens": max_tokens, "temperature": 0, **parameters}


def with_few_attempts(connection: ServerConnection) -> ServerConnection:
    """Return a connection for requests that a server may not know.

    Some servers answer these with a 500, which busy servers send too, so that all attempts would be made.
    """
    attempts = min(connection.settings.attempts, 3)
    return connection._replace(settings=connection.settings.model_copy(update={"attempts": attempts}))


def _reads_all(connection: ServerConnection, body: Mapping[str, Any], num_tokens: int) -> bool:
    """Return whether a request is answered after reading `num_tokens` tokens, or without a count."""
    reply = with_few_attempts(connection).complete(body)
    return not reply.error and reply.read in (None, num_tokens)


def num_top_logprobs(connection: ServerConnection) -> int:
    """Return how many tokens' log-probabilities the server gives at a position: 20, 5, or 0."""
    for count in TOP_LOGPROBS:
        body = greedy_request(connection, PROBE_TEXT, 1, **logprob_parameters(connection, count))
        reply = with_few_attempts(connection).complete(body)
        if not reply.error and first_logprobs(reply.choice or {}):
            return count
    return 0


def logprob_parameters(connection: ServerConnection, count: int) -> dict[str, Any]:
    """Return the parameters with which each interface gives the log-probabilities of `count` tokens."""
    return {"logprobs": True, "top_logprobs": count} if connection.settings.api == "chat" else {"logprobs": count}


def echoes_prompts(connection: ServerConnection, ids: Sequence[int]) -> bool:
    """Return whether the server gives the log-probabilities of a prompt's own tokens."""
    if connection.settings.api == "chat":
        return False
    body = greedy_request(connection, list(ids), 1, logprobs=1, echo=True)
    reply = with_few_attempts(connection).complete(body)
    values = token_logprobs(reply.choice or {})
    return len(values) >= len(ids) and all(isinstance(value, float | int) for value in values[1 : len(ids)])


def probe_sampling(connection: ServerConnection) -> tuple[bool, bool]:
    """Return whether the server draws tokens at a temperature, and whether a request's seed decides the draws."""

    def draw(seed: int) -> str | None:
        body = {**greedy_request(connection, OPEN_PROMPT, DRAW_TOKENS), "temperature": DRAW_TEMPERATURE, "top_p": 1}
        reply = connection.complete({**body, "seed": seed})
        if reply.error:
            raise connection.error(f"no completion at temperature {DRAW_TEMPERATURE:g} ({reply.error})")
        return completion_text(reply.choice or {})

    texts = [draw(seed) for seed in range(NUM_DRAWS)]
    return len(set(texts)) > 1, draw(0) == texts[0]


def loads_adapters(connection: ServerConnection) -> bool:
    """Return whether adapters can be loaded into the running server (vLLM's load_lora_adapter)."""
    # These are the statuses for a request that names no adapter.
    return connection.post("load_lora_adapter", {})[0] in (200, 400, 422)
