"""Connect to an OpenAI-compatible server, and find out with small requests what it can do, because servers differ."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

from isheep.errors import UserError, excerpt
from isheep.filters import needs as filters_need
from isheep.openai_client import FATAL, ServerReply, base_url_from_environment, without_password
from isheep.openai_client.answers import HttpAnswer, parse_object
from isheep.openai_client.client import CallError, Receive, ServerClient, ServerRequests, open_client
from isheep.recipe.machine import ServerSettings
from isheep.recipe.schema import Recipe, score_openings

# The text of small requests. It has characters of more than one byte.
PROBE_TEXT = "The 27 quick brown foxes jump over a lazy dog, Ångström said:"
# The numbers of log-probabilities at a position to ask for: vLLM's limit, then OpenAI's.
TOP_LOGPROBS = (20, 5)
# A prompt with many likely continuations, so that a server which cuts off unlikely tokens still draws different ones.
OPEN_PROMPT = "1. Instruction:"
# Number, length in tokens and temperature of the answers that are compared: drawn ones can't all be equal by chance.
NUM_DRAWS, DRAW_TOKENS, DRAW_TEMPERATURE = 8, 16, 1.5
# The largest log-probability, which rounding may put a little above 0.
MAX_LOGPROB = 0.01
# Statuses of a server that does not offer a path.
NOT_FOUND = (404, 405, 501)
# The status of a server that has too much to do.
TOO_MANY = 429
# Statuses of a server that refuses the key.
REFUSED = (401, 403)
# Parameters that switch off the sampling defaults of servers, and make special tokens visible, so that we can stop at
# them. First line: vLLM, SGLang, llama.cpp; second line: vLLM; third line: llama.cpp.
NEUTRAL_PARAMETERS: dict[str, Any] = {
    "top_k": -1, "min_p": 0, "repetition_penalty": 1,
    "skip_special_tokens": False, "stop_token_ids": [],
    "preserved_tokens": [],
}  # fmt: skip


class ServerRequirements(NamedTuple):
    """What a recipe needs its server to do."""

    sampling: bool
    """Drawing tokens, at a temperature above 0."""
    options: Sequence[str]
    """The probabilities of these options as the next text (assessment.read: expected)."""
    prompt_logprobs: bool
    """The log-probabilities of a prompt's own tokens, for perplexities and for benchmarks that compare options."""
    adapters: bool
    """Adapters, for the models of the iterations."""
    allowed: Sequence[str] = ()
    """Completions that are one of these texts (assessment.read: constrained): by their probabilities, or by structured
    choice."""


def requirements(recipe: Recipe, benchmarks_need_logprobs: bool) -> ServerRequirements:
    """Return what the recipe needs its server to do, over all of its iterations and benchmarks."""
    variants, is_evaluated = recipe.variants, bool(recipe.evaluation or recipe.stop_rule)
    assessments = [variant.assessment for variant in variants if variant.assessment]
    samplings = [section.sampling for variant in variants for section in (variant.synthesis, variant.response)]
    samplings += [assessment.sampling for assessment in assessments]
    expected = [assessment for assessment in assessments if assessment.read == "expected"]
    constrained = [assessment for assessment in assessments if assessment.may_constrain]
    filters_need_perplexities = any(filters_need(variant.filters, "perplexities") for variant in variants)
    return ServerRequirements(
        sampling=any(sampling.temperature > 0 for sampling in samplings),
        options=list(dict.fromkeys(text for assessment in expected for text in score_openings(assessment))),
        prompt_logprobs=benchmarks_need_logprobs or filters_need_perplexities,
        adapters=recipe.machine.server.adapters == "server" and (recipe.iterations > 1 or is_evaluated),
        allowed=list(dict.fromkeys(text for assessment in constrained for text in score_openings(assessment))),
    )


class ServerConnection(NamedTuple):
    """A connection to a server: the HTTP client, its settings, and the model's name on the server."""

    client: ServerClient
    settings: ServerSettings
    url: str
    name: str

    @property
    def path(self) -> str:
        """The path of requests for completions."""
        return "chat/completions" if self.settings.api == "chat" else "completions"

    def complete(self, body: Mapping[str, Any]) -> ServerReply:
        """Request a completion, with all attempts. An answer without a finished completion counts as a failure."""
        client = ServerClient(self.client.http, self.settings)
        reply = client.call(self.path, {"model": self.name, **body}, is_complete)
        return reply.model_copy(update={"error": f"unreadable: {reply.unreadable}"}) if reply.unreadable else reply

    def complete_all(self, bodies: Mapping[str, Mapping[str, Any]], receive: Receive) -> dict[str, ServerReply]:
        """Request completions by key, several at a time, as ServerClient.call_all."""
        named = {key: {"model": self.name, **body} for key, body in bodies.items()}
        return self.client.call_all(ServerRequests(self.path, named, receive, is_complete))

    def post(self, path: str, body: dict[str, Any], limit: float = 0) -> tuple[int, str]:
        """Send a request that is not for a completion; return the status, and the answer's text in one line.

        No answer counts as status 503. `limit` are the seconds for all of it, 0 for those of the settings.
        """
        try:
            answer = self.client.request("POST", path, body, limit)
        except CallError as error:
            return 503, str(error)
        return answer.status, " ".join(answer.text.split())[:200]

    def error(self, reason: str) -> UserError:
        """Return an error that names the server."""
        return UserError(f"server {without_password(self.url)}: {reason}")


class ServerAbilities(NamedTuple):
    """What a server can do, by its answers to small requests."""

    token_ids: bool
    """Whether it accepts prompts as token ids."""
    extras: bool
    """Whether it accepts parameters such as NEUTRAL_PARAMETERS, which OpenAI's own interface does not have."""
    context: int | None
    """The length in tokens of the longest sequence, or None if it does not say."""
    probe_tokens: int | None
    """The number of tokens of PROBE_TEXT by the server's tokenizer, or None if it does not say."""


# --- reading a completion


def completion_text(choice: Mapping[str, Any]) -> str | None:
    """Return the text of a completion of either interface, or None if there is none."""
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else choice.get("text")
    return text if isinstance(text, str) else None


def is_complete(reply: ServerReply) -> bool:
    """Return whether a reply has a completion that ended, or was cut off at max_tokens."""
    choice = reply.choice or {}
    return completion_text(choice) is not None and choice.get("finish_reason") in ("stop", "length")


def token_logprobs(choice: Mapping[str, Any]) -> list[float | None]:
    """Return each token's log-probability, from {token_logprobs: [...]} or {content: [{logprob: ...}]}.

    None in place of what is no number.
    """
    logprobs = _object(choice.get("logprobs"))
    content = logprobs.get("content")
    if isinstance(content, list):
        values = [_object(entry).get("logprob") for entry in content]
    else:
        values = _list(logprobs.get("token_logprobs"))
    return [float(value) if _is_logprob(value) else None for value in values]


def first_logprobs(choice: Mapping[str, Any]) -> dict[int | str, float]:
    """Return the log-probabilities of the most probable first tokens, by id if the server gives it, or by text."""
    logprobs = _object(choice.get("logprobs"))
    content = logprobs.get("content")
    if not isinstance(content, list):
        first = _object(next(iter(_list(logprobs.get("top_logprobs"))), None))
        return {token: value for token, value in first.items() if _is_logprob(value)}
    entries = map(_object, _list(_object(next(iter(content), None)).get("top_logprobs")))
    valued = [entry for entry in entries if _is_logprob(entry.get("logprob"))]
    by_id = {entry["id"]: entry["logprob"] for entry in valued if isinstance(entry.get("id"), int)}
    return by_id or {entry["token"]: entry["logprob"] for entry in valued if isinstance(entry.get("token"), str)}


def _object(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_logprob(value: Any) -> TypeGuard[float]:
    """Return whether a value of a server is a log-probability: a number that is not positive, beside rounding."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value <= MAX_LOGPROB


# --- connecting and probing


def connect(settings: ServerSettings) -> ServerConnection:
    """Connect to the recipe's server. Raises UserError if no server answers, or if its model has no name."""
    url, source = settings.url, "machine.server.url"
    if not url:
        url, source = base_url_from_environment(), "OPENAI_BASE_URL"
    if not url:
        raise UserError("machine.engine openai has no server: set machine.server.url or OPENAI_BASE_URL")
    client = open_client(url, settings, source)
    connection = ServerConnection(client, settings, url, settings.model or "")
    answer = _request_models(connection)
    names = [entry["id"] for entry in _entries(answer) if isinstance(entry.get("id"), str)]
    if settings.model:
        return connection
    if len(names) != 1:
        listed = f"it lists {', '.join(names[:8])}:" if names else _describe_no_models(answer)
        raise connection.error(f"{listed} set machine.server.model to its name for the recipe's model")
    return connection._replace(name=names[0])


def list_models(connection: ServerConnection) -> list[dict[str, Any]]:
    """Return the models that a server lists, which are none if it has no list.

    Raises UserError if the server can't be reached or refuses the key.
    """
    return _entries(_request_models(connection))


def _request_models(connection: ServerConnection) -> HttpAnswer:
    try:
        answer = connection.client.request("GET", "models")
    except CallError as error:
        raise connection.error(f"{error}; start it, or set machine.server.url") from None
    if answer.status in REFUSED or (answer.status >= 500 and answer.status not in NOT_FOUND):
        raise connection.error(f"its list of models has HTTP status {answer.status}; set OPENAI_API_KEY, or try again")
    return answer


def _entries(answer: HttpAnswer) -> list[dict[str, Any]]:
    """Return the models in the answer to a request for their list."""
    data = parse_object(answer.text).get("data") if answer.is_success else []
    return [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []


def _describe_no_models(answer: HttpAnswer) -> str:
    """Return why an answer names no models, with what else than the name may help."""
    if isinstance(parse_object(answer.text).get("data"), list) and answer.is_success:
        return "it lists no models:"
    content = f"HTTP {answer.status}, {excerpt(answer.content_type) if answer.content_type else 'no content type'}"
    if answer.status == TOO_MANY:
        way_out = "try again later, or"
    elif answer.status in NOT_FOUND:
        way_out = "set machine.server.url to an address of the API, which often ends in /v1, or"
    else:
        way_out = "set machine.server.url to the address of the API itself, not of a page or a redirect, or"
    return f"it answers with no list of models ({content}): {way_out}"


def probe(connection: ServerConnection, ids: Sequence[int]) -> ServerAbilities:
    """Find out what a server accepts. `ids` are PROBE_TEXT's tokens by the recipe's tokenizer.

    Raises UserError if the server returns no completion.
    """
    extras, body = True, greedy_request(connection, PROBE_TEXT, 1)
    reply = connection.complete({**body, **NEUTRAL_PARAMETERS})
    if reply.error.startswith(("HTTP 400", "HTTP 422")):
        extras, reply = False, connection.complete(body)
    if reply.error:
        settings = "OPENAI_API_KEY, machine.server.url, machine.server.model"
        hint = f"; set {settings}" if reply.error.startswith(FATAL) else ""
        raise connection.error(f"model {connection.name!r} gives no completion ({reply.error}){hint}")
    accepts_ids = False
    if connection.settings.api == "completions":
        accepts_ids = _reads_all(connection, {**body, "prompt": list(ids)}, len(ids))
    return ServerAbilities(accepts_ids, extras, _stated_context(connection), reply.read or None)


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
    """Return a connection with at most 3 attempts, for requests that a server may not support.

    Some servers answer these with status 500, which busy servers send too, and would be sent all attempts.
    """
    attempts = min(connection.settings.attempts, 3)
    return connection._replace(settings=connection.settings.model_copy(update={"attempts": attempts}))


def _reads_all(connection: ServerConnection, body: Mapping[str, Any], num_tokens: int) -> bool:
    """Return whether a request is answered, and the server's count of its tokens is `num_tokens` or not given."""
    reply = with_few_attempts(connection).complete(body)
    return not reply.error and reply.read in (None, num_tokens)


def num_top_logprobs(connection: ServerConnection) -> int:
    """Return the number of tokens whose log-probabilities the server gives at a position: 20, 5, or 0."""
    for count in TOP_LOGPROBS:
        body = greedy_request(connection, PROBE_TEXT, 1, **logprob_parameters(connection, count))
        reply = with_few_attempts(connection).complete(body)
        if not reply.error and first_logprobs(reply.choice or {}):
            return count
    return 0


def logprob_parameters(connection: ServerConnection, count: int) -> dict[str, Any]:
    """Return the parameters that ask for the log-probabilities of `count` tokens, which each API calls differently."""
    return {"logprobs": True, "top_logprobs": count} if connection.settings.api == "chat" else {"logprobs": count}


def echoes_prompts(connection: ServerConnection, ids: Sequence[int]) -> bool:
    """Return whether the server gives the log-probabilities of a prompt's own tokens."""
    if connection.settings.api == "chat":
        return False
    body = greedy_request(connection, list(ids), 1, logprobs=1, echo=True)
    reply = with_few_attempts(connection).complete(body)
    values = token_logprobs(reply.choice or {})
    return len(values) >= len(ids) and None not in values[1 : len(ids)]


def probe_sampling(connection: ServerConnection) -> tuple[bool, bool]:
    """Return whether the server draws tokens at a temperature, and whether the same seed gives the same tokens."""

    def draw(seed: int) -> str | None:
        body = {**greedy_request(connection, OPEN_PROMPT, DRAW_TOKENS), "temperature": DRAW_TEMPERATURE, "top_p": 1}
        reply = connection.complete({**body, "seed": seed})
        if reply.error:
            raise connection.error(f"it gives no completion at temperature {DRAW_TEMPERATURE:g} ({reply.error})")
        return completion_text(reply.choice or {})

    texts = [draw(seed) for seed in range(NUM_DRAWS)]
    return len(set(texts)) > 1, draw(0) == texts[0]


def loads_adapters(connection: ServerConnection) -> bool:
    """Return whether adapters can be loaded into the running server (vLLM's load_lora_adapter)."""
    # These are the statuses for a request that names no adapter.
    return connection.post("load_lora_adapter", {})[0] in (200, 400, 422)
