"""What an OpenAI-compatible server can do, found by tiny requests before any work: no two of them can do the same."""

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from isheep.errors import UserError
from isheep.openai_client import (
    FATAL,
    ServerReply,
    base_url_from_environment,
    open_client,
    post_with_retries,
    redact_key,
    without_password,
)
from isheep.recipe.schema import ServerSettings

if TYPE_CHECKING:
    from httpx2 import Client

TEXT = "The 27 quick brown foxes jump over a lazy dog, Ångström said:"
TOPS = (20, 5)  # how many tokens' log-probabilities are asked for: vLLM's limit, OpenAI's
OPEN = "1. Instruction:"  # may go on in many ways, in the loop's own words; a server may cut off what is unlikely
DRAWS, DRAWN, HOT = 8, 16, 1.5  # answers of so many tokens at this temperature: all the same by chance is out of reach
NONE = (404, 405, 501)  # no such address
REFUSED = (401, 403)  # the key
PLAIN: dict[str, Any] = {  # what servers do of their own accord, taken back; special tokens shown, to stop at them
    "top_k": -1, "min_p": 0, "repetition_penalty": 1,  # vLLM, SGLang, llama.cpp
    "skip_special_tokens": False, "stop_token_ids": [],  # vLLM
    "preserved_tokens": [],  # llama.cpp
}  # fmt: skip


class TokenLine(NamedTuple):
    """A connection: whom to ask for what."""

    client: "Client"
    settings: ServerSettings
    url: str
    name: str  # the model's, there
    stop: threading.Event

    def ask(self, body: Mapping[str, Any], path: str | None = None, key: str = "") -> ServerReply:
        """One call with all its attempts; an answer that is no whole completion counts as none."""
        path = path or ("chat/completions" if self.settings.api == "chat" else "completions")
        return post_with_retries(self.client, path, {"model": self.name, **body}, key, self.settings, self.stop, whole)

    def send(self, path: str, body: dict[str, Any]) -> tuple[int, str]:
        """Something else than a completion: the status, and what was said in one line."""
        import httpx2

        try:
            response = self.client.post(path, json=body)
        except httpx2.HTTPError as error:
            return 503, redact_key(f"{type(error).__name__}: {error}")
        return response.status_code, " ".join(redact_key(response.text).split())[:200]

    def failed(self, what: str) -> UserError:
        return UserError(f"server {without_password(self.url)}: {what}")


class Able(NamedTuple):
    """What a server showed."""

    ids: bool  # it reads prompts as token ids
    extras: bool  # it takes PLAIN and its like, which OpenAI's own interface does not have
    context: int | None  # tokens, where it says so
    read: int | None  # tokens that it read of TEXT


# --- reading a completion


def text_of(choice: Mapping[str, Any]) -> str | None:
    """What was written, of either interface."""
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else choice.get("text")
    return text if isinstance(text, str) else None


def whole(reply: ServerReply) -> bool:
    """Whether an answer is a completion that came to its end."""
    choice = reply.choice or {}
    return text_of(choice) is not None and choice.get("finish_reason") in ("stop", "length")


def token_logprobs(choice: Mapping[str, Any]) -> list[float | None]:
    """Each token's log-probability, of either shape: {token_logprobs: [...]}, {content: [{logprob: ...}]}."""
    found = choice.get("logprobs") or {}
    content = found.get("content")
    return [one.get("logprob") for one in content] if isinstance(content, list) else found.get("token_logprobs") or []


def first_logprobs(choice: Mapping[str, Any]) -> dict[int | str, float]:
    """The most probable first tokens, by their text and, where the server says it, by their id."""
    found = choice.get("logprobs") or {}
    content = found.get("content")
    if not isinstance(content, list):
        return dict((found.get("top_logprobs") or [{}])[0] or {})
    entries = content[0].get("top_logprobs") or [] if content else []
    by_id = {one["id"]: one["logprob"] for one in entries if isinstance(one.get("id"), int)}
    return by_id or {one["token"]: one["logprob"] for one in entries}


# --- connecting and probing


def dial(settings: ServerSettings, stop: threading.Event) -> TokenLine:
    """Raises UserError where no server answers, or its model has no name."""
    url, where = (
        (settings.url, "machine.server.url") if settings.url else (base_url_from_environment(), "OPENAI_BASE_URL")
    )
    if not url:
        raise UserError("machine.engine openai has no server to ask: set machine.server.url or OPENAI_BASE_URL")
    client = open_client(url, settings, where)
    line = TokenLine(client, settings, url, settings.model or "", stop)
    names = [one["id"] for one in listed(line) if isinstance(one.get("id"), str)]
    if settings.model:
        return line
    if len(names) != 1:
        known = f"lists {', '.join(names[:8])}" if names else "lists no models"
        raise line.failed(f"it {known}: set machine.server.model to what it calls the recipe's model")
    return line._replace(name=names[0])


def listed(line: TokenLine) -> list[dict[str, Any]]:
    """The models that a server lists; none where it keeps no list. Raises UserError where it can't be reached."""
    import httpx2

    try:
        response = line.client.get("models")
        if response.status_code in REFUSED or response.status_code >= 500 and response.status_code not in NONE:
            raise line.failed(f"HTTP {response.status_code} at its list of models; set OPENAI_API_KEY, or try again")
        data = response.json().get("data") if response.is_success else []
    except httpx2.HTTPError as error:
        reason = redact_key(f"{type(error).__name__}: {error}")
        raise line.failed(f"no connection ({reason}); start it, or set machine.server.url") from None
    except (ValueError, AttributeError):
        data = []
    return [one for one in data if isinstance(one, dict)] if isinstance(data, list) else []


def look(line: TokenLine, ids: Sequence[int]) -> Able:
    """Raises UserError where the server gives no completion. `ids`: TEXT's tokens, as our tokenizer has them."""
    extras, body = True, asked(line, TEXT, 1)
    reply = line.ask({**body, **PLAIN})
    if reply.error.startswith(("HTTP 400", "HTTP 422")):
        extras, reply = False, line.ask(body)
    if reply.error:
        way = "; set OPENAI_API_KEY, machine.server.url, machine.server.model" * reply.error.startswith(FATAL)
        raise line.failed(f"no completion of model {line.name!r} ({reply.error}){way}")
    by_ids = line.settings.api == "completions" and _answers(line, {**body, "prompt": list(ids)}, len(ids))
    entries = listed(line)
    entry = next((one for one in entries if one.get("id") == line.name), entries[0] if len(entries) == 1 else {})
    meta = entry.get("meta")
    context = entry.get("max_model_len") or (meta.get("n_ctx") if isinstance(meta, dict) else None)  # vLLM; llama.cpp
    return Able(by_ids, extras, context if isinstance(context, int) else None, reply.read or None)


def asked(line: TokenLine, prompt: str | list[int], tokens: int, **settings: Any) -> dict[str, Any]:
    """A greedy request on a prompt."""
    said = {"messages": [{"role": "user", "content": prompt}]} if line.settings.api == "chat" else {"prompt": prompt}
    return {**said, "max_tokens": tokens, "temperature": 0, **settings}


def briefly(line: TokenLine) -> TokenLine:
    """For what a server may not know: some say so with a 500, which a busy one sends too."""
    return line._replace(settings=line.settings.model_copy(update={"attempts": min(line.settings.attempts, 3)}))


def _answers(line: TokenLine, body: Mapping[str, Any], read: int) -> bool:
    """Whether a request is answered, having read so many tokens, or not saying how many."""
    reply = briefly(line).ask(body)
    return not reply.error and reply.read in (None, read)


def top(line: TokenLine) -> int:
    """How many tokens' log-probabilities the server gives at a place: 20, 5, or 0, none."""
    for count in TOPS:
        reply = briefly(line).ask(asked(line, TEXT, 1, **wanted(line, count)))
        if not reply.error and first_logprobs(reply.choice or {}):
            return count
    return 0


def wanted(line: TokenLine, count: int) -> dict[str, Any]:
    """The log-probabilities of `count` tokens, as each interface asks for them."""
    return {"logprobs": True, "top_logprobs": count} if line.settings.api == "chat" else {"logprobs": count}


def echoes(line: TokenLine, ids: Sequence[int]) -> bool:
    """Whether the server gives the log-probabilities of a prompt's own tokens."""
    if line.settings.api == "chat":
        return False
    reply = briefly(line).ask(asked(line, list(ids), 1, logprobs=1, echo=True))
    values = token_logprobs(reply.choice or {})
    return len(values) >= len(ids) and all(isinstance(value, float | int) for value in values[1 : len(ids)])


def draws(line: TokenLine) -> tuple[bool, bool]:
    """Whether the server draws at all at a temperature, and whether a request's seed decides what it draws."""

    def text(seed: int) -> str | None:
        reply = line.ask({**asked(line, OPEN, DRAWN), "temperature": HOT, "top_p": 1, "seed": seed})
        if reply.error:
            raise line.failed(f"no completion at temperature {HOT:g} ({reply.error})")
        return text_of(reply.choice or {})

    found = [text(seed) for seed in range(DRAWS)]
    return len(set(found)) > 1, text(0) == found[0]


def loads(line: TokenLine) -> bool:
    """Whether adapters can be loaded into the running server (vLLM's load_lora_adapter)."""
    return line.send("load_lora_adapter", {})[0] in (200, 400, 422)  # what it says to a request without an adapter
